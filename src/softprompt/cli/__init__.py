"""The command line: one function a verb, in the file of its kind; `app.py` lists them."""

from softprompt.cli.app import app, main

__all__ = ["app", "main"]
