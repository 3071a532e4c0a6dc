"""`python -m softprompt.cli` is `softprompt`."""

from softprompt.cli import main

main()
