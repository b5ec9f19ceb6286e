"""What a person at a terminal sees while a stage runs; nothing where nobody looks."""

import sys


def quiet() -> bool:
    """Whether standard error is no terminal: then there are no progress bars."""
    return not sys.stderr.isatty()


def say(text: str) -> None:
    """Tell what happens now."""
    if not quiet():
        print(text, file=sys.stderr)
