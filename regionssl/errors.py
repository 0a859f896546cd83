"""The one exception that reaches a user as a sentence instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used. The message says what was expected, what came and what to change.

    The command line prints the message and exits with code 2.
    """


class UnknownLayout(InputError):
    """No labels of a kind lie where they were looked for; there may be some of another kind."""


class TooFewLabels(InputError):
    """The labels lack what a task needs to train on; a larger part of them may have it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean a, b?"`` with the known names closest to ``name``, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else f"; known: {', '.join(known)}"
