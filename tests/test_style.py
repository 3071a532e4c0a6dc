"""Hold what a test can hold of the house's style: docstrings, names, help and error messages, read without running."""

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "softprompt"
ROOMS = sorted(path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__")
NOT_MIRRORED = {
    "bench/test_routes.py": "bench/routes.py: the benchmarks stand outside the package",
    "methods/test_equations.py": "the papers' equations, of parts in prompts/ and offsets/ and of those combined",
    "test_extension.py": "what is added from outside the package",
    "runs/test_written_by_0_1_0.py": "folders that version 0.1.0 wrote, of every kind",
    "runs/test_sources.py": "runs whose prompts another run mixes: all verbs, from start_from.py to predict.py",
    "serving/http/test_observing.py": "access_log.py, metrics.py and traces.py, and how app.py stands to the outside",
    "runs/formats/test_peft.py": "peft_export.py and peft_import.py, each read by the other and by PEFT",
}
"""Test files, by path or by name, that are not named after one module, and what they test instead."""

NEVER_FIRST = {"of", "as", "by", "behind"}
"""Words that begin no docstring and no help."""
NOT_A_VERB = NEVER_FIRST | {
    "a", "all", "an", "and", "any", "at", "each", "every", "for", "from", "how", "if", "in", "it", "its", "no", "none",
    "nothing", "on", "one", "only", "or", "so", "that", "the", "their", "these", "this", "those", "to", "two", "what",
    "when", "where", "whether", "which", "who", "whose", "with", "without",
}  # fmt: skip
"""Words that begin no docstring of a function: it begins with its verb."""
PHRASES = {
    r"\bof ours\b": "name the thing",
    r"(?<!there )\b(is|are) no (?!longer\b|more\b)[a-z]": 'say "is not a"',
    r"\bbehind (one another|each other)\b": 'say "one after another"',
}
PARTICIPLE = re.compile(r"^_*(\w+_)?(\w{2,}ed|made|told|said|kept|held|put|shown|taken|given|begun|built|laid|sent)$")
NOT_PARTICIPLES = re.compile(r"(^|_)(need|feed|seed|embed|speed|proceed|shed|put|indeed)$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(room: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((SOURCE / room).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def decorators(node: Function) -> set[str]:
    return {ast.unparse(one).split("(")[0].rpartition(".")[2] for one in node.decorator_list}


def is_property(node: Function) -> bool:
    return bool(decorators(node) & {"property", "cached_property", "setter"})


def first_word(text: str) -> str:
    found = re.match(r"\W*([\w'-]+)", text)
    return found[1].lower() if found else ""


def badly_begun(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find docstrings whose first word is not one to begin with."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | Function):
            continue
        word = first_word(ast.get_docstring(node) or "")
        acts = isinstance(node, Function) and not is_property(node)
        if word in (NOT_A_VERB if acts else NEVER_FIRST) or (ast.get_docstring(node) or "").startswith("The same"):
            yield getattr(node, "lineno", 1), f"docstring begins with {word!r}"


def participles_that_act(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find functions with a participle for a name that return nothing: they act, so a verb names them."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and not is_property(node) and isinstance(node.returns, ast.Constant):
            nothing = node.returns.value is None
            nothing = nothing and node.name not in vars(asyncio.Protocol).keys() | vars(asyncio.BaseProtocol).keys()
            if nothing and PARTICIPLE.match(node.name) and not NOT_PARTICIPLES.search(node.name):
                yield node.lineno, f"{node.name} acts; name it with a verb"


def unlisted_parameters(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find public functions of more than four parameters whose docstring has no `Args:`."""
    owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for node in owner.body:
            if not isinstance(node, Function) or node.name.startswith("_") or "command" in decorators(node):
                continue
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            text = ast.get_docstring(node) or ""
            if len([name for name in names if name not in ("self", "cls")]) > 4 and "Args:" not in text:
                yield node.lineno, f"{node.name} has more than four parameters and no Args: list"


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All strings, those of an f-string with its values left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def odd_phrases(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find phrases that the house says otherwise."""
    for line, text in texts(tree):
        for pattern, instead in PHRASES.items():
            if found := re.search(pattern, text, re.IGNORECASE):
                yield line, f"{found[0]!r}: {instead}"


def helpless_flags(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find help of flags that does not stand alone."""
    for node in ast.walk(tree):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            value = keyword.value
            if keyword.arg == "help" and isinstance(value, ast.Constant):
                text = str(value.value)
                if first_word(text) in NEVER_FIRST or not text[0].isupper():
                    yield node.lineno, f"help begins with {text.split()[0]!r}"


RULES = (badly_begun, participles_that_act, unlisted_parameters, odd_phrases, helpless_flags)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_keeps_the_style(room: str) -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {what}"
        for path, tree in files(room)
        for rule in RULES
        for line, what in rule(tree)
    ]
    assert not found, "\n".join(found)


BAD = '''
"""Of a module."""

def made(a: int) -> None:
    """What it does."""

def train(a: int, b: int, c: int, d: int, e: int) -> int:
    """Train."""
    raise ValueError(f"{a} is no card of ours")

flag = Option(help="Of each text.")
'''


def test_each_rule_notices_what_it_forbids() -> None:
    tree = ast.parse(BAD)
    for rule in RULES:
        assert list(rule(tree)), rule.__name__


def test_an_init_defines_nothing() -> None:
    for path in SOURCE.rglob("__init__.py"):
        if path.parent == SOURCE:
            continue  # the package's face, which loads its names when they are used
        defined = [node for node in ast.parse(path.read_text()).body if isinstance(node, Function | ast.ClassDef)]
        assert not defined, f"{path} defines {[node.name for node in defined]}"


def test_a_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_test_file_imports_from_another() -> None:
    """What two test files share is a fixture of a conftest.py or stands in a module beside tiny.py.

    methods/test_extension.py runs the tests that every method must pass on a method from outside the package.
    """
    found = [
        f"{path.relative_to(TESTS)}:{node.lineno}: {module}"
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for module in imported(node)
        if module.startswith("tests.") and any(part.startswith("test_") for part in module.split("."))
        if path != TESTS / "methods" / "test_extension.py"
    ]
    assert not found, "\n".join(found)


def imported(node: ast.AST) -> list[str]:
    """List the modules that a statement may import."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module or ''}.{name.name}" for name in node.names]
    return [name.name for name in node.names] if isinstance(node, ast.Import) else []


def test_test_files_mirror_the_source() -> None:
    """A test file outside the root of tests/ is named after a module or a package in the same place."""
    unnamed = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if path.parent != TESTS
        and not {str(path.relative_to(TESTS)), path.name} & NOT_MIRRORED.keys()
        and not any(one.exists() for one in mirrored(path))
    ]
    assert not unnamed, f"name these after a module, or say in NOT_MIRRORED what they test: {unnamed}"


def mirrored(test: Path) -> tuple[Path, Path]:
    """List the module and the package that a test file may be named after."""
    package = SOURCE / test.parent.relative_to(TESTS) / test.stem.removeprefix("test_")
    return package.with_suffix(".py"), package
