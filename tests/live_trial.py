"""A trial that only pretends to train: tenths of a second, no torch. ``FAKE_TRIAL`` (JSON: key -> dict) steers it.

``seconds`` it takes, ``crash`` before reporting (``"once"``: in its first process only), ``silent`` ends with exit
code 0 and no report, ``die_early`` ends before it asks for its parameters.
"""

import json
import os
import sys
import time
from typing import Any

from idarts_nni import trial
from idarts_nni.architecture import Architecture
from idarts_nni.files import write_atomically
from idarts_nni.parameters import TrialParameters
from idarts_nni.space import CellSpace


def main() -> None:
    """Receive, pretend, report."""
    behaviours = json.loads(os.environ.get("FAKE_TRIAL", "{}"))
    if os.environ["NNI_TRIAL_SEQ_ID"] in behaviours.get("die_early", []):
        sys.exit(3)
    parameters = trial.receive_parameters()
    received = {**parameters.to_dict(), "pid": os.getpid()}
    write_atomically(trial.output_directory() / "received.json", json.dumps(received))
    folder = trial.task_directory(parameters.key)
    with open(folder / "starts.txt", "a") as starts:
        starts.write(f"{os.environ['NNI_TRIAL_JOB_ID']} {os.getpid()}\n")
    is_first = len((folder / "starts.txt").read_text().splitlines()) == 1
    behaviour = {**behaviours.get("*", {}), **behaviours.get(parameters.key, {})}
    score = 100.0 + sum(map(ord, parameters.key)) % 50
    for epoch in range(1, 4):
        time.sleep(behaviour.get("seconds", 0.3) / 3)
        trial.report_epoch({"default": score + 10 / epoch, "training": score + 20 / epoch}, epoch=epoch)
    if behaviour.get("crash") is True or (behaviour.get("crash") == "once" and is_first):
        sys.exit(1)
    if behaviour.get("silent"):
        return
    final = {"default": score, "validation": score, "parameters": 1234, "epochs": 3, "seconds": 0.3}
    if parameters.stage == "search":
        space = json.loads(parameters.space)
        cell = json.dumps({"from": parameters.key})
        if "num_nodes" in space:
            cell = Architecture.random(CellSpace.from_dict(space), 100 + parameters.seed).to_json()
        cells = _other_cells(parameters)
        trial.report_final({**final, "architecture": cell, **({"cells": json.dumps(cells)} if cells else {})})
    else:
        trial.report_final({**final, "test": score + 1})


def _other_cells(parameters: TrialParameters) -> list[dict[str, Any]]:
    """Return what the plan asks for beside the cell of the end: two epochs in a row give one cell."""
    derive = json.loads(parameters.derive)
    return [
        {
            "epoch": epoch,
            "edges_per_node": n,
            "architecture": Architecture.random(
                CellSpace.from_dict({**json.loads(parameters.space), "edges_per_node": n}), epoch // 2
            ).to_dict(),
        }
        for epoch in (1, 2, 3)
        for n in derive.get("edges_per_node", [])
    ]


if __name__ == "__main__":
    main()
