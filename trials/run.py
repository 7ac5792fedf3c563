"""The only entry to a trial: ``python -m trials.run TASK``, under NNI or by hand.

Under NNI the job comes from the experiment's manager. By hand it is named on the command line::

    python -m trials.run ptb --stage search --method idarts --space search_spaces/tiny.yaml --data embedded \
        --output outputs/demo --set epochs=3 --set hidden_size=64
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import logging
import math
import os
import platform
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from idarts_nni.architecture import Architecture
from idarts_nni.devices import NoDeviceError
from idarts_nni.files import parse_value, parse_yaml, read_yaml, write_atomically
from idarts_nni.model_architecture import read_architecture
from idarts_nni.parameters import BASELINES, METHODS, STAGES, TrialParameters
from idarts_nni.plan import MODEL, read_space
from idarts_nni.scales import FULL, scale_label
from idarts_nni.space import CellSpace
from idarts_nni.trial import (
    device_lease,
    is_in_experiment,
    leave_by_signal,
    note_refusal,
    output_directory,
    receive_parameters,
    report_epoch,
    report_final,
    report_record,
    task_directory,
)

from .faults import EXIT_NO_ROOM, ProcessFailed, explain

if TYPE_CHECKING:
    from .task import Job
    from .training import Outcome, Precautions

_logger = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
BY_HAND = "by hand"
"""Scale of a run outside NNI whose settings were changed: neither the task's own nor an experiment file's."""
PACKAGES = ("idarts-nni", "nni", "torch", "pytorch-lightning")


def main(arguments: list[str] | None = None) -> int:
    """Run one trial; return the exit code: 0, 2 for input that cannot be used, 3 where memory or disk ran out."""
    options = _parser().parse_args(arguments)
    if options.check:
        return _check(options.task, sys.stdin.read())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stdout)
    try:
        return _run(options)
    except (ValueError, FileNotFoundError, FloatingPointError, NoDeviceError) as error:
        # A missing file or GPU may be back at the next attempt; anything else is as wrong then.
        if isinstance(error, (ValueError, FloatingPointError)):
            note_refusal(str(error))
        return _failed(str(error), EXIT_BAD_INPUT)
    except ProcessFailed as error:
        return _failed(str(error), error.code)
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        reason = explain(error)
        if reason is None:
            raise
        return _failed(reason, EXIT_NO_ROOM)
    except KeyboardInterrupt as interrupt:
        print("Interrupted; what was trained is kept, and the same command goes on from it.", file=sys.stderr)
        leave_by_signal(interrupt.args[0] if interrupt.args else signal.SIGINT)
        raise  # not reached: the signal has ended the process


def _check(name: str, asked: str) -> int:
    """Print, as JSON, what is wrong with the data and the settings of each stage; nothing is trained.

    ``asked`` is the JSON text of ``{"data": FOLDER, "settings": {STAGE: {NAME: VALUE}}}``.
    """
    from .task import resolve_settings
    from .training import load_task

    problems, resolved = [], {}
    try:
        task, content = load_task(name), json.loads(asked)
        for stage, settings in content["settings"].items():
            defaults = getattr(task, "SEARCH" if stage == "search" else "RETRAIN", None)
            try:
                resolved[stage] = resolve_settings(defaults, settings) if defaults is not None else settings
            except ValueError as error:
                problems.append(f"tuner.classArgs: {stage}: {error}")
        if hasattr(task, "check_data"):
            task.check_data(content["data"], resolved)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    print(json.dumps(problems))
    return EXIT_BAD_INPUT if problems else 0


def _failed(reason: str, code: int) -> int:
    _logger.error("%s", reason)
    print(f"error: {reason}", file=sys.stderr)
    return code


def _run(options: argparse.Namespace) -> int:
    parameters = receive_parameters() if is_in_experiment() else _parameters_by_hand(options)
    if options.output:
        os.environ["NNI_OUTPUT_DIR"] = str(Path(options.output).resolve())
    _share_cores(options)
    # Idle threads of OpenMP that spin wait for each other's cores when trials share a machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with device_lease(options.device, options.slots_per_gpu, count=options.devices) as lease:
        task, job = prepare(parameters, options, lease.device)
        from .curves import with_curves
        from .ranks import together
        from .training import check_job, run_job

        check_job(task, dataclasses.replace(job, share=dataclasses.replace(job.share, count=options.devices)))
        checkpoints = task_directory(parameters.key)
        _claim(checkpoints, parameters, options)
        report = with_curves(_report_epoch, options.tensorboard)
        orders = {"parameters": parameters.to_dict(), "options": vars(options), "device": lease.device}
        with together(options.devices, lease, {**orders, "checkpoints": str(checkpoints)}) as share:
            job = dataclasses.replace(job, share=share)
            outcome = run_job(task, job, checkpoints, report, precautions(options))
        device = _device_name(lease.device, options.devices)
    if not math.isfinite(outcome.validation):
        raise FloatingPointError(f"{parameters.key} ended with the validation metric {outcome.validation}.")
    record = _record(options.task, task, parameters, job, outcome, device)
    write_atomically(output_directory() / "record.json", json.dumps(record))
    if outcome.architecture is not None:
        name = f"{parameters.method}, seed {parameters.seed}"
        outcome.architecture.to_yaml(output_directory() / "architecture.yaml", name=name)
    report_record(record)
    report_final(_final_metric(outcome))
    _logger.info("%s: validation %.4f, test %s", parameters.key, outcome.validation, outcome.test)
    return 0


def prepare(parameters: TrialParameters, options: argparse.Namespace, device: str) -> tuple[ModuleType, Job]:
    """Load the task and say what there is to do; the first import of torch, once the device is known."""
    # NNI wraps all of torch.nn and meets two names that were not there in its time; nothing follows from it.
    warnings.filterwarnings("ignore", message=".* is found to be not a nn.Module", category=RuntimeWarning)
    # The metrics are those of all processes already.
    warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")
    from idarts_nni.matmul import allow_fast_matmul

    from .training import load_task

    allow_fast_matmul(device)
    for name in ("pytorch_lightning", "lightning_fabric"):  # whose import sets their level
        logging.getLogger(name).setLevel(logging.WARNING)  # else: advertisements, a list of absent devices
    return load_task(options.task), _job(parameters, options, device)


def precautions(options: argparse.Namespace) -> Precautions:
    """Return what is done against faults."""
    from .training import Precautions

    return Precautions(options.checkpoint_minutes, options.checkpoint_steps, options.step_reductions)


def _share_cores(options: argparse.Namespace) -> None:
    """Say how many threads each process has; torch reads it when it is imported."""
    if options.devices < 1:
        raise ValueError(f"--devices {options.devices}: expected a whole number from 1.")
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    elif options.devices > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // options.devices)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trials.run", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", help="file of the task in trials/, such as ptb")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--backend", default="auto", help="how cells are computed (default: the fastest that fits)")
    parser.add_argument("--slots-per-gpu", type=int, default=1, metavar="N", help="trials that may share a GPU")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="train on N GPUs, each with its share of every batch; without a GPU in N processes (default: 1)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of a process (default: one for each core, shared out)"
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5.0,
        metavar="N",
        help="longest time between checkpoints (default: 5)",
    )
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="save after every so many steps too, whatever it costs"
    )
    parser.add_argument(
        "--step-reductions", type=int, default=3, metavar="N", help="halvings of the step after a NaN (default: 3)"
    )
    parser.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        help="write curves for TensorBoard (default: under NNI, where tensorboard is installed)",
    )
    parser.add_argument(
        "--check", action="store_true", help="only tell what is wrong with data and settings (JSON from standard input)"
    )
    by_hand = parser.add_argument_group("without NNI")
    by_hand.add_argument("--stage", choices=STAGES, help="what to do")
    by_hand.add_argument("--method", choices=METHODS, default="idarts")
    by_hand.add_argument("--seed", type=int, default=1)
    by_hand.add_argument("--space", help="search space, a YAML file")
    by_hand.add_argument("--architecture", help="cell to retrain, a YAML or JSON file")
    by_hand.add_argument("--data", default="", help="folder of the corpus, or embedded (default: $IDARTS_DATA)")
    by_hand.add_argument("--output", help="folder for the record, the cell and the checkpoints")
    by_hand.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of the task; repeatable"
    )
    return parser


def _parameters_by_hand(options: argparse.Namespace) -> TrialParameters:
    """Make of the command line what the manager would have sent."""
    if options.stage is None:
        raise ValueError(f"Outside an experiment name the stage: --stage {'|'.join(STAGES)}.")
    space = read_space(read_yaml(options.space)) if options.space else None
    is_cell_space = isinstance(space, CellSpace)
    if space is None and options.method not in BASELINES:
        raise ValueError("Name the search space: --space FILE, such as search_spaces/recurrent8.yaml.")
    cell = None
    if options.stage == "search":
        if options.method not in ("idarts", "darts") and (is_cell_space or options.method != "random"):
            raise ValueError(f"--method {options.method} has no search; searches: idarts, darts.")
    elif options.method not in BASELINES:
        if options.architecture:
            cell = read_architecture(read_yaml(options.architecture), options.architecture)
        elif options.method == "random" and isinstance(space, CellSpace):
            cell = Architecture.random(space, options.seed)
        else:
            raise ValueError("Name the cell to retrain: --architecture FILE.")
    key = f"{options.stage}-{options.method}-{f'{cell.fingerprint}-r' if cell else 's'}{options.seed}"
    return TrialParameters(
        key=key,
        stage=options.stage,
        method=options.method,
        seed=options.seed,
        cell=cell.fingerprint if cell else "-",
        architecture=cell.to_json() if cell else "",
        space=json.dumps(space.to_dict() if isinstance(space, CellSpace) else space or {}),
        settings=json.dumps(_settings_by_hand(options.set)),
        scale=BY_HAND if options.set else FULL,
        data=options.data,
    )


def _settings_by_hand(assignments: list[str]) -> dict[str, Any]:
    settings = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: expected NAME=VALUE, such as --set epochs=3.")
        settings[name] = parse_value(value, f"--set {name}")
    return settings


def _job(parameters: TrialParameters, options: argparse.Namespace, device: str) -> Job:
    from .task import Job

    space = parse_yaml(parameters.space, "parameter space")
    has_cell_space = parameters.method not in BASELINES and MODEL not in space
    cell = parse_yaml(parameters.architecture, "parameter architecture") if parameters.architecture else None
    return Job(
        stage=parameters.stage,
        method=parameters.method,
        seed=parameters.seed,
        space=CellSpace.from_dict(space, origin="parameter space") if has_cell_space else None,
        architecture=read_architecture(cell, origin="parameter architecture") if cell else None,
        overrides=parse_yaml(parameters.settings, "parameter settings"),
        data=parameters.data or os.environ.get("IDARTS_DATA", ""),
        device=device,
        precision=options.precision,
        backend=options.backend,
        derive=parse_yaml(parameters.derive, "parameter derive"),
        model_space=space.get(MODEL, {}),
    )


def _claim(folder: Path, parameters: TrialParameters, options: argparse.Namespace) -> None:
    """Write down whose checkpoints these are, and refuse to go on from those of another job."""
    mine = {**parameters.to_dict(), "task": options.task, "precision": options.precision}
    del mine["attempt"]
    path = folder / "job.json"
    theirs = read_yaml(path) if path.is_file() else {}
    different = [name for name in mine if mine[name] != theirs.get(name)]
    # Without a checkpoint there is nothing to go on from: the other job may have failed at its start.
    if different and not any(folder.glob("*.ckpt")):
        write_atomically(path, json.dumps(mine))
    elif different:
        raise ValueError(
            f"{folder} holds the checkpoints of another job: {different[0]} is {mine[different[0]]!r} here and "
            f"{theirs.get(different[0])!r} there. Name another --output, or delete that folder."
        )


def _report_epoch(metrics: dict[str, float]) -> None:
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    if "default" in finite:
        report_epoch(finite, epoch=int(metrics["epoch"]))
    else:
        _logger.warning("Epoch %d has no finite validation metric.", int(metrics["epoch"]))


def _final_metric(outcome: Outcome) -> dict[str, float | str]:
    metric: dict[str, float | str] = {
        "default": outcome.validation,
        "validation": outcome.validation,
        "parameters": outcome.parameters,
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
    }
    if outcome.test is not None:
        metric["test"] = outcome.test
    if outcome.architecture is not None:
        metric["architecture"] = outcome.architecture.to_json()
    if outcome.cells:
        metric["cells"] = json.dumps(outcome.cells, separators=(",", ":"))
    return metric


def _record(
    name: str, task: ModuleType, parameters: TrialParameters, job: Job, outcome: Outcome, device: str
) -> dict[str, Any]:
    cell = outcome.architecture or job.architecture
    origins = json.loads(parameters.origins)
    settings = dataclasses.asdict(outcome.settings)
    return {
        "experiment": os.environ.get("NNI_EXP_ID", "-"),
        "task": name,
        "method": parameters.method,
        "n": str(job.space.edges_per_node) if job.space else "-",
        "combine": job.space.combine if job.space else "-",
        "seed": parameters.seed,
        "validation": outcome.validation,
        "test": outcome.test,
        "parameters": outcome.parameters,
        "epochs": outcome.epochs,
        "seconds": outcome.seconds,
        "device": device,
        "precision": job.precision,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "search_epoch": parameters.epoch or None,
        "search_seed": origins[0][0] if origins else None,
        "scale": scale_label(parameters.scale, settings),
        "corpus": outcome.corpus,
        "origins": origins,
        "key": parameters.key,
        "stage": parameters.stage,
        "cell": cell.fingerprint if cell else "-",
        "architecture": cell.to_dict() if cell else None,
        "metric": task.METRIC,
        "settings": settings,
        "scores": outcome.scores,
        "reductions": list(outcome.reductions),
        "history": outcome.history,
        "trajectory": outcome.trajectory,
        "stopped": outcome.stopped,
        "gap": outcome.gap,
        "space": job.space.to_dict() if job.space else None,
        "versions": {package: _version(package) for package in PACKAGES} | {"python": platform.python_version()},
    }


def _commit() -> str:
    """Return the commit of this code, ``+`` behind it if files differ from it; ``-`` outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.cpp", "*.yaml"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "-"
    return found.stdout.strip() + ("+" if changed else "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _device_name(device: str, count: int) -> str:
    import torch

    several = f"{count} x " if count > 1 else ""
    if device == "cuda":
        return several + str(torch.cuda.get_device_name(0))
    threads = torch.get_num_threads()
    return f"{several}cpu, {threads} thread{'s' if threads > 1 else ''}"


if __name__ == "__main__":
    sys.exit(main())
