"""What the commands share: their exit codes, and where they say what is not a result."""

from __future__ import annotations

import sys

FAILED, UNUSABLE = 1, 2
"""Exit codes: something did not succeed; a file or an argument that cannot be used, with nothing started."""


def say(text: str) -> None:
    """Print a message to standard error, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)
