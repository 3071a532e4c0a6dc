"""What this machine is: its processor by name."""

import platform
from functools import cache
from pathlib import Path


@cache
def processor_name() -> str:
    """Return the processor's name; where the system hides it, with its family and model: "AMD EPYC (26, 2)"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    said = {name.strip(): value.strip() for name, value in facts.items()}
    name = said.get("model name") or platform.machine()
    exact = any(letter.isdigit() for letter in name)
    return name if exact or "cpu family" not in said else f"{name} ({said['cpu family']}, {said.get('model', '?')})"
