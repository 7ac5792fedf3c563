"""A trial without torch that does all a real one does for NNI: parameters, a metric per epoch, a record, a result.

Its settings steer it: ``pause`` seconds per epoch, ``crash`` a list of task keys that fail.
"""

import json
import time

from idarts_nni import trial
from idarts_nni.architecture import Architecture
from idarts_nni.space import CellSpace


def main() -> None:
    """Receive, pretend, record, report."""
    task = trial.receive_parameters()
    settings = json.loads(task.settings)
    if task.key in settings.get("crash", []):
        raise RuntimeError("this trial was told to fail")
    history = []
    for epoch in range(1, 4):
        time.sleep(settings.get("pause", 0.05))
        history.append({"default": 300.0 / epoch + task.seed})
        trial.report_epoch(history[-1], epoch=epoch)
    space = CellSpace.from_dict(json.loads(task.space))
    cell = Architecture.from_json(task.architecture) if task.architecture else None
    if task.stage == "search":
        cell = Architecture.random(space, 10 + task.seed)
    value = history[-1]["default"]
    numbers = {"validation": value, "parameters": 10, "epochs": 3, "seconds": 0.5}
    record = {
        "experiment": "recording", "task": "none", "method": task.method, "n": str(space.edges_per_node),
        "combine": space.combine, "seed": task.seed, **numbers, "test": value - 1 if task.stage == "retrain" else None,
        "device": "cpu", "precision": "fp32", "commit": "", "date": "2026-01-01", "key": task.key, "stage": task.stage,
        "cell": task.cell, "architecture": cell and cell.to_dict(), "metric": "perplexity", "settings": settings,
        "history": history, "versions": {},
    }  # fmt: skip
    (trial.output_directory() / "record.json").write_text(json.dumps(record))
    final = {"default": value, **numbers}
    trial.report_final({**final, "architecture": cell.to_json()} if task.stage == "search" and cell else final)


if __name__ == "__main__":
    main()
