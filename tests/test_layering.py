"""The package reads from top to bottom: every module imports only from modules above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "idarts_nni"
KERNEL_HELPERS = "(helpers of kernels)"
ORDER = [
    # what is searched
    "files", "operations", "space", "architecture", "model_architecture", "ranking", "gain", "derive", "health",
    # how a cell computes
    "shares", "normalised", "cell", KERNEL_HELPERS, "kernels",
    # how NNI sees it
    "choices", "modules", "node", "mutator", "mixed_cell",
    # how it is searched
    "phases", "sampling", "second_order", "search_module", "strategy", "hessian", "stopping", "monitor", "selection",
    # how trials are planned and run
    "scales", "parameters", "found_cells", "plan", "manager", "lifeline", "tuner", "devices", "trial",
    # how a run outlasts faults
    "checkpoint", "saving", "rollback", "data_parallel",
    # around a run
    "report", "results", "groups", "published", "graphs", "layout", "sketch", "draw", "animate",
    "code_folder", "remote", "rehearsal", "preflight", "loopback", "patient_nnictl", "experiment", "outcome",
    "returned", "progress", "gather", "charts", "page_charts", "page",
    "messages", "reporting", "launch", "watch", "commands", "fetching", "compare",
    "derivations", "cli",
    "__main__",
]  # fmt: skip
"""Modules that are not named here are helpers of ``kernels``."""
WITHOUT_TORCH = [
    "files", "operations", "space", "architecture", "model_architecture", "ranking", "gain", "health",
    "scales", "parameters", "found_cells", "plan", "manager", "lifeline", "tuner", "devices", "trial",
    "report", "results", "groups", "published", "graphs", "layout", "sketch", "draw", "animate",
    "code_folder", "remote", "rehearsal", "preflight", "loopback", "patient_nnictl", "experiment", "outcome",
    "returned", "progress", "gather", "charts", "page_charts", "page",
    "messages", "reporting", "launch", "watch", "commands", "fetching", "compare",
    "derivations", "cli",
]  # fmt: skip
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported_modules(name: str) -> set[str]:
    """Return the modules of the package that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("idarts_nni")):
            module = (node.module or "").removeprefix("idarts_nni").lstrip(".").split(".")[0]
            found |= {module} if module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("idarts_nni.")}
    return found


def layer(name: str) -> str:
    return name if name in ORDER else KERNEL_HELPERS


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_above(name):
    for other in imported_modules(name):
        assert (PACKAGE / f"{other}.py").is_file(), f"{name} imports {other}, which is no module of the package"
        if layer(name) == layer(other) == KERNEL_HELPERS:
            assert name not in reachable(other), f"{name} and {other} import each other"
        else:
            assert ORDER.index(layer(other)) < ORDER.index(layer(name)), f"{name} must not import {other}"


def reachable(name: str) -> set[str]:
    found: set[str] = set()
    waiting = {name}
    while waiting:
        found |= (new := {other for one in waiting for other in imported_modules(one)} - found)
        waiting = new
    return found


def test_helpers_of_kernels_are_imported_by_kernels_alone():
    helpers = {name for name in MODULES if name not in ORDER}
    users = {name for name in MODULES if imported_modules(name) & helpers}
    assert users <= helpers | {"kernels"}


def test_the_order_names_only_modules_that_exist():
    assert set(ORDER) - {KERNEL_HELPERS} <= set(MODULES)


def test_what_starts_an_experiment_never_loads_torch():
    imports = ", ".join(f"idarts_nni.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {imports}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


def test_nothing_in_the_package_knows_a_task():
    for name in MODULES:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        assert not [module for module in modules if module.split(".")[0] == "trials"]
