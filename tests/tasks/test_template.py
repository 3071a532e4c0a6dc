"""Templates: what goes in braces, what comes out, and what is refused."""

import pytest

from softprompt.errors import BadInput
from softprompt.tasks import Template

ROW = {"text": "hello", "title": "A note", "label": "good"}


@pytest.mark.parametrize(
    ("text", "fields", "source", "cue"),
    [
        ("{text}", ["text"], "hello", ""),
        ("{text}\nTeam:", ["text"], "hello", "\nTeam:"),
        ("Title: {title}\nText: {text}\nTeam:", ["title", "text"], "Title: A note\nText: hello", "\nTeam:"),
        ("{title}{text}", ["title", "text"], "A notehello", ""),
        ("{text} and again {text}?", ["text", "text"], "hello and again hello", "?"),
    ],
)
def test_the_columns_fill_the_source_and_the_rest_is_the_cue(
    text: str, fields: list[str], source: str, cue: str
) -> None:
    template = Template(text)
    assert (template.fields, template.source(ROW), template.cue, template.text) == (fields, source, cue, text)


@pytest.mark.parametrize(
    ("text", "source", "cue"),
    [
        ("{{{text}}}", "{hello", "}"),
        ("{{text}} {text}", "{text} hello", ""),
        ("{text} {{x}} end:", "hello", " {x} end:"),
        ("{text}\n{{", "hello", "\n{"),
        ("{text} {{x}} ", "hello", " {x}"),
    ],
)
def test_a_brace_written_twice_is_a_brace_on_both_sides_of_the_last_column(text: str, source: str, cue: str) -> None:
    template = Template(text)
    assert (template.source(ROW), template.cue) == (source, cue)


@pytest.mark.parametrize("text", ["{text}\nTeam:", "{title} {{x}} {text} {{y}} z", "a {text}"])
def test_source_and_cue_together_are_the_text_as_format_would_fill_it(text: str) -> None:
    template = Template(text)
    assert template.source(ROW) + template.cue == text.format(**ROW)


@pytest.mark.parametrize(
    ("text", "cue"),
    [("{text} ", ""), ("{text}\nTeam:   ", "\nTeam:"), ("{text}\nTeam:\n", "\nTeam:\n"), ("{text} \n", " \n")],
)
def test_spaces_at_the_end_are_dropped_and_line_breaks_kept(text: str, cue: str) -> None:
    assert Template(text).cue == cue


def test_what_stands_in_a_column_is_never_read_as_a_template() -> None:
    assert Template("{text}!").source({"text": "{title} {{0}} {"}) == "{title} {{0}} {"


@pytest.mark.parametrize("name", ["text.__class__", "text[0]", "0", "__class__", "two words", "größe", " text "])
def test_anything_plain_in_braces_is_the_name_of_a_column_and_nothing_more(name: str) -> None:
    template = Template(f"{{{name}}} end")
    assert template.fields == [name]
    assert template.source({name: "found", "text": "hello"}) == "found"
    with pytest.raises(KeyError):
        template.source(ROW)


@pytest.mark.parametrize("text", ["{}", "{ }", "a {text} {}"])
def test_empty_braces_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected the name of a column in braces"):
        Template(text)


@pytest.mark.parametrize("name", ["Q1: what happened?", "text!r", "text:>10", "Why?!", "a.b[0]", "50 % off: yes"])
def test_a_column_may_have_any_name_without_braces(name: str) -> None:
    template = Template(f"Asked: {{{name}}}\nAnswer:")
    assert (template.fields, template.source({name: "late"}), template.cue) == ([name], "Asked: late", "\nAnswer:")


@pytest.mark.parametrize("text", ["", "Team:", "{{text}}"])
def test_a_template_without_a_column_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no column in braces"):
        Template(text)


@pytest.mark.parametrize("text", ["{text", "text}", "{", "{text} }", "{a{b}}", "{text:{title}}"])
def test_unpaired_braces_are_refused_saying_how_one_is_written(text: str) -> None:
    with pytest.raises(BadInput, match="written twice") as caught:
        Template(text)
    assert repr(text) in str(caught.value)
