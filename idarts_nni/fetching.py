"""``idarts fetch``: copy what trials left on other machines into the experiment's folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import experiment as nni
from .messages import FAILED, say
from .remote import RemoteError
from .remote import fetch as fetch_files
from .returned import machines_of, unpack_records


def fetch(options: argparse.Namespace) -> int:
    """Run the command ``idarts fetch`` and return its exit code."""
    folder = Path(options.experiment)
    if not folder.is_dir():
        try:
            folder = nni.find_experiment(options.experiment)
        except nni.ExperimentError as error:
            raise ValueError(str(error)) from None
    machines = machines_of(folder)
    if not machines:
        raise ValueError(f"{folder}: its trials ran on this machine; there is nothing to fetch.")
    files = unpack_records(folder)
    failed = False
    for machine in dict.fromkeys(machines):
        try:
            files += fetch_files(machine, folder.name, folder, everything=options.all)
        except RemoteError as error:
            failed = True
            say(f"idarts fetch: {error}")
    print("\n".join(map(str, files)))
    return FAILED if failed else 0
