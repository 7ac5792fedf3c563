"""What must hold before an experiment is started.

NNI starts an experiment whose tuner is misspelt, and reports an error ten seconds later, or never. Here every check is
made first, all problems are told at once, and nothing is started while there is one.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from .code_folder import check_code_folder
from .files import read_yaml
from .found_cells import derivations_of
from .parameters import Settings
from .plan import MODEL
from .rehearsal import input_problems
from .remote import Machine, RemoteError, check_machine, read_machines
from .scales import FULL, scaled_arguments
from .space import CellSpace

DATA_VARIABLE = "IDARTS_DATA"
EMBEDDED = "embedded"

_REFUSED = {
    "trialgpunumber": (
        "trialGpuNumber is set. With it, NNI's local scheduler runs into an endless loop that starts processes until "
        "the memory is full. Leave it out: a trial takes a GPU by itself, under a lock (--slots-per-gpu in "
        "trialCommand says how many trials share one)."
    ),
    "maxtrialnumber": (
        "maxTrialNumber is set. NNI would stop there, before the retraining that the tuner still plans. Leave it out: "
        "the tuner ends the experiment when its plan is done."
    ),
}


class ExperimentFileError(ValueError):
    """An experiment file that must not be started; ``problems`` holds one message for each reason."""

    def __init__(self, path: str | os.PathLike[str], problems: list[str]) -> None:
        self.problems = problems
        text = "\n".join(f"{path}: {problem}" for problem in problems)
        # NNI reads half a character where JSON reads a whole one, and repeats it; no terminal could show that.
        super().__init__(text.encode("utf-8", "backslashreplace").decode("utf-8"))


@dataclass(frozen=True)
class CheckedExperiment:
    """An experiment file that passed."""

    path: Path
    name: str
    task: str
    """The word after ``python -m trials.run``; the name of the module for other commands."""
    working_directory: Path
    """Where NNI makes the experiment's folder."""
    is_local: bool
    scale: str
    """Name of the scale in which it runs."""
    optimize_mode: str
    """``minimize`` or ``maximize``: which way the validation metric gets better."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The tuner's arguments in that scale."""
    command: tuple[str, ...] = ()
    """The words of the trial command."""
    code: Path = Path()
    """The trial code folder."""
    machines: tuple[Machine, ...] = ()
    """Where trials run, with NNI's remote training service."""
    manager_address: str | None = None
    """``nniManagerIp``: where other machines reach the manager; None: through SSH tunnels."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing but this machine, and SSH tunnels from it, has to reach the manager."""
        return self.is_local or (bool(self.machines) and self.manager_address is None)


def check_experiment(path: str | os.PathLike[str], scale: str | None = None) -> CheckedExperiment:
    """Check an experiment file and everything that it names.

    Parameters
    ----------
    path
        The file.
    scale
        One of its scales, or a number; by default the one that it names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ExperimentFileError
        With every problem found: NNI's schema, refused settings, the tuner's class and arguments, the data, the search
        space, the trial code.
    ValueError
        If the file is not YAML.
    """
    path = Path(path).absolute()
    raw = read_yaml(path)
    no_tuner = _missing_tuner(raw)
    problems = [*_refused_settings(raw), *no_tuner]
    config = None if no_tuner else _load_config(path, problems)
    if config is None:
        raise ExperimentFileError(path, problems)
    class_args = dict(config.tuner.class_args or {})
    if scale is not None:
        class_args["scale"] = scale
        if not set(class_args) & {"scales", "scaled"}:
            problems.append(f"--scale {scale}: this file has no scales; see trials/experiments/paper_table1.yaml.")
    scaled = _scaled(class_args, problems)
    service = config.training_service.json() if hasattr(config.training_service, "json") else {}
    machines = read_machines(service)
    checks: list[Callable[[], None]] = [
        lambda: _check_tuner(config.tuner, class_args),
        lambda: _check_data(scaled, Path(config.trial_code_directory), config.search_space, service),
        lambda: _check_space(config.search_space, str(config.search_space_file or path)),
        lambda: _check_derivations(class_args, config.search_space),
        lambda: check_code_folder(Path(config.trial_code_directory)),
        lambda: _check_command(config.trial_command, Path(config.trial_code_directory), is_elsewhere=bool(machines)),
        *(partial(check_machine, machine, _python_of(config.trial_command)) for machine in dict.fromkeys(machines)),
    ]
    for check in checks:
        try:
            check()
        except (ValueError, OSError, RemoteError) as error:
            problems.append(str(error))
    if problems:
        raise ExperimentFileError(path, problems)
    return CheckedExperiment(
        path=path,
        name=config.experiment_name or path.stem,
        task=_task_of(config.trial_command),
        working_directory=Path(config.experiment_working_directory),
        is_local=getattr(config.training_service, "platform", "") == "local",
        scale=str(scaled.get("scale", FULL)),
        optimize_mode=str(scaled.get("optimize_mode", "minimize")),
        arguments=scaled,
        command=tuple(_command_words(config.trial_command)),
        code=Path(config.trial_code_directory),
        machines=machines,
        manager_address=service.get("nniManagerIp"),
    )


def check_input(checked: CheckedExperiment) -> None:
    """Let the trials' own code check data and settings; on other machines lie data that cannot be seen from here.

    Raises
    ------
    ExperimentFileError
        With every problem found.
    """
    if checked.machines:
        return
    from .tuner import find_data

    data = find_data(checked.arguments.get("data"), {"trialCodeDirectory": str(checked.code)})
    problems = input_problems(list(checked.command), checked.code, data, checked.arguments)
    if problems:
        raise ExperimentFileError(checked.path, problems)


def _refused_settings(raw: Mapping[str, Any]) -> list[str]:
    services = raw.get("trainingService")
    places = [raw, *(services if isinstance(services, list) else [services])]
    # NNI ignores case and underscores in its keys.
    keys = {
        str(key).lower().replace("_", "")
        for place in places
        if isinstance(place, Mapping)
        for key, value in place.items()
        if value is not None
    }
    return [reason for key, reason in _REFUSED.items() if key in keys]


def _missing_tuner(raw: Mapping[str, Any]) -> list[str]:
    tuner = raw.get("tuner")
    if isinstance(tuner, Mapping) and (tuner.get("className") or tuner.get("class_name")):
        return []
    return [
        f"tuner: found {tuner!r}; expected className: idarts_nni.tuner.SearchThenRetrain (or a class of your own), "
        f"which plans search and retraining."
    ]


def _load_config(path: Path, problems: list[str]) -> Any:
    """Load the file as NNI would and return its canonical form, or None with the reason among the problems."""
    from nni.experiment.config import ExperimentConfig, utils

    # It wonders about a manager's address that is not set, which SSH tunnels make needless, and prints so on stdout.
    logger = logging.getLogger("nni.experiment.config")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        config = ExperimentConfig.load(path).canonical_copy()
        config.validate()
    except Exception as error:  # NNI's validation raises bare AssertionError, TypeError, KeyError and its own kinds.
        if str(error).startswith("ExperimentConfig does not have field(s)"):
            known = [_camel_case(field.name) for field in fields(ExperimentConfig)]
            problems.append(f"{error}. {_suggest(str(error).rpartition(' ')[2], known)}")
            return None
        problems.append(f"NNI does not accept this file: {type(error).__name__}: {error or 'a value is impossible'}")
        return None
    finally:
        # NNI leaves the folder of a file that it did not accept behind, and then fails on the next one.
        utils.unset_base_path()
        logger.setLevel(level)
    return config


def _scaled(class_args: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    try:
        return scaled_arguments(class_args)
    except ValueError as error:
        problems.append(f"tuner.classArgs: {error}")
        return class_args


def _check_tuner(tuner: Any, class_args: Mapping[str, Any]) -> None:
    """Import the tuner's class and bind its arguments, in every scale, without making one."""
    module_name, _, class_name = str(tuner.class_name).rpartition(".")
    folder = Path(tuner.code_directory) if tuner.code_directory else None
    if folder is None or not folder.is_dir():
        raise ValueError(f"tuner.codeDirectory: {folder} is not a folder; NNI needs one (the project's, ../..).")
    with _on_path(folder):
        try:
            found = getattr(importlib.import_module(module_name), class_name, None) if module_name else None
        except ImportError as error:
            raise ValueError(f"tuner.className: {tuner.class_name} cannot be imported from {folder}: {error}") from None
    if not inspect.isclass(found):
        raise ValueError(f"tuner.className: there is no class {class_name!r} in module {module_name!r}.")
    if _is_ours(found):
        scales = class_args.get("scales")
        for scale in [class_args.get("scale", FULL), FULL, *(scales if isinstance(scales, Mapping) else ())]:
            try:
                Settings.from_class_args({**class_args, "scale": scale})
            except (TypeError, ValueError) as error:
                raise ValueError(f"tuner.classArgs: {error}") from None
    bind_arguments(found, class_args)


def _is_ours(found: type) -> bool:
    # By name: the class may come from another copy of the package, the one in codeDirectory.
    return any(f"{base.__module__}.{base.__name__}" == "idarts_nni.tuner.SearchThenRetrain" for base in found.__mro__)


def bind_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check that keyword arguments fit a signature.

    Raises
    ------
    ValueError
        For the first argument that is unknown (with the nearest known one) or missing.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                raise ValueError(f"tuner.classArgs: unknown argument {key!r}. {_suggest(str(key), known)}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise ValueError(f"tuner.classArgs: the argument {parameter.name!r} is missing; known: {', '.join(known)}.")


def _check_data(class_args: Mapping[str, Any], code: Path, space: object, service: Mapping[str, Any]) -> None:
    from .tuner import find_data

    asked = class_args.get("data")
    if asked is not None and not isinstance(asked, str):
        return  # the tuner's own check has said so
    # The rule by which the tuner will look for it.
    found = find_data(asked, {"trialCodeDirectory": str(code), "trainingService": service})
    if not found and not _is_model_space(space):
        raise ValueError(
            f"No corpus is named. Set {DATA_VARIABLE}, or data in tuner.classArgs, to its folder (trials/README.md "
            f"says where to get it), or data to {EMBEDDED!r} for the small corpus that comes along."
        )


def _check_space(space: object, origin: str) -> None:
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"{origin}: found {space!r}; expected a search space, such as search_spaces/recurrent8.yaml.")
    if not _is_model_space(space):
        CellSpace.from_dict(space, origin=origin)


def _check_derivations(class_args: Mapping[str, Any], space: object) -> None:
    if not isinstance(space, Mapping) or not _is_model_space(space):
        return
    try:
        settings = Settings.from_class_args(class_args)
    except (TypeError, ValueError):
        return  # the check of the tuner has said so
    for method in settings.methods:
        derivations_of(settings, space, method)


def _is_model_space(space: object) -> bool:
    """Tell whether a space belongs to the task (images): its only key names the model."""
    return isinstance(space, Mapping) and set(space) == {MODEL}


def _check_command(command: str, folder: Path, *, is_elsewhere: bool) -> None:
    """Check that the program and the module or script that a trial runs are there."""
    words = _command_words(command)
    if not words:
        raise ValueError("trialCommand: is empty; expected such as: python -m trials.run ptb.")
    if any(sign in command for sign in ("&&", "||", ";", "|")):
        raise ValueError(
            f"trialCommand: {command!r} is more than one command; its children would outlive the experiment. "
            f"Use one, such as: python -m trials.run ptb."
        )
    if (
        not is_elsewhere
        and words[0].startswith("python")
        and shutil.which(words[0], path=str(Path(sys.executable).parent)) is None
    ):
        raise ValueError(f"trialCommand: there is no {words[0]!r} beside {sys.executable}, which runs this command.")
    if "-m" in words[:-1]:
        module = words[words.index("-m") + 1]
        base = folder.joinpath(*module.split("."))
        if not base.with_suffix(".py").is_file() and not (base / "__main__.py").is_file():
            raise ValueError(f"trialCommand: there is no module {module} in {folder}.")
    elif len(words) > 1 and words[1].endswith(".py") and not (folder / words[1]).is_file():
        raise ValueError(f"trialCommand: there is no file {words[1]} in {folder}.")


def _python_of(command: str) -> str:
    """Return the interpreter that a trial command names; that of other commands is asked for nothing but packages."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        words = []
    return words[0] if words and "python" in Path(words[0]).name else "python"


def _task_of(command: str) -> str:
    words = _command_words(command)
    if "trials.run" in words[:-1]:
        return words[words.index("trials.run") + 1]
    return Path(words[1]).stem if len(words) > 1 else words[0]


def _command_words(command: str) -> list[str]:
    try:
        return shlex.split(command or "")
    except ValueError as error:
        raise ValueError(f"trialCommand: {command!r} cannot be read as a command: {error}.") from None


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _camel_case(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def _suggest(word: str, known: list[str]) -> str:
    # NNI tells a key in small letters.
    spelt = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=0.6)
    hint = f"Did you mean {spelt[near[0]]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(known)}."
