"""Print the folder of this machine's results: `python bench/here.py` says results/bench/amd-epyc-26-2."""

import re

from softprompt.runtime.machine import processor_name

if __name__ == "__main__":
    print("results/bench/" + re.sub(r"[^a-z0-9]+", "-", processor_name().lower()).strip("-"))
