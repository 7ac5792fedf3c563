"""Keep NNI's manager on the loopback interface.

NNI 3.0 listens on all interfaces without a password, and some of its routes run code. ``loopback.js``, loaded by
``NODE_OPTIONS``, gives every server that names no host the address 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path


def node_options(before: str | None = None) -> str:
    """Return the value of ``NODE_OPTIONS`` that keeps NNI's manager on loopback, after the options that were there."""
    hook = str(Path(__file__).with_name("loopback.js")).replace("\\", "\\\\").replace('"', '\\"')
    # ipv4first: the name localhost may mean ::1 to Node, where nothing listens then.
    ours = f'--dns-result-order=ipv4first --require "{hook}"'
    if before and ours in before:
        return before
    return f"{before} {ours}" if before else ours


def show_environment(options: argparse.Namespace) -> int:
    """Print the shell command that keeps ``nnictl create`` on loopback, for ``eval "$(idarts env)"``."""
    print(f"export NODE_OPTIONS={shlex.quote(node_options(os.environ.get('NODE_OPTIONS')))}")
    return 0
