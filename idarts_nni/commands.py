"""The short commands, ``idarts show``, ``draw`` and ``report``: from the parsed options to the exit code."""

from __future__ import annotations

import argparse
from pathlib import Path

from .files import read_yaml
from .messages import FAILED, say
from .model_architecture import ModelArchitecture, read_architecture
from .space import CellSpace


def show(options: argparse.Namespace) -> int:
    """Print a cell as text, and check that it fits a space."""
    data = read_yaml(options.file)
    cell = read_architecture(data, origin=str(options.file))
    for field in ("name", "source"):
        if data.get(field):
            print(f"{field:12} {data[field]}")
    print(f"{'fingerprint':12} {cell.fingerprint}")
    if isinstance(cell, ModelArchitecture):
        if options.space is not None:
            raise ValueError(f"{options.file} is of a model space of NNI; --space checks recurrent cells only.")
        for label, choice in cell.choices.items():
            print(f"{label:24} {choice}")
        return 0
    for node, edges in enumerate(cell.nodes, start=1):
        inputs = []
        for edge in edges:
            weight = "" if edge.weight is None else f" * {edge.weight:g}"
            inputs.append(f"{edge.operation}({edge.source}){weight}")
        print(f"{f'node {node}':12} {' + '.join(inputs)}")
    print(f"{'h_t':12} mean of nodes 1 to {cell.num_nodes}")
    if options.space is not None:
        space = CellSpace.from_yaml(options.space)
        try:
            cell.check_fits(space)
        except ValueError as error:
            say(f"{options.file} does not fit {options.space}: {error}")
            return FAILED
        print(f"{'fits':12} {options.space}")
    return 0


def draw(options: argparse.Namespace) -> int:
    """Draw a cell."""
    from .draw import draw_architecture

    data = read_yaml(options.file)
    cell = read_architecture(data, origin=str(options.file))
    title = options.title or str(data.get("name") or options.file.stem)
    for path in options.output or [options.file.with_suffix(".png")]:
        print(draw_architecture(cell, path, title))
    return 0


def report(options: argparse.Namespace) -> int:
    """Make tables and pictures, or renew the README's tables."""
    from .results import merge_results, update_readme

    if options.update_readme:
        stale = update_readme(options.readme, options.results_folder, check=options.check)
        for name in stale:
            say(f"{options.readme}: the table {name} {'is not up to date' if options.check else 'was renewed'}.")
        return FAILED if stale and options.check else 0
    if options.experiment is None:
        raise ValueError("name an experiment id or a folder with records, or use --update-readme.")
    folder, records = _find_records(options.experiment)
    if not records:
        raise ValueError(f"{folder}: there is no record of a trial in it yet.")
    from .outcome import write_outputs

    outputs = write_outputs(options.output or folder / "idarts", records)
    print(f"{outputs.tables}\nTables:   " + "\n          ".join(map(str, [*outputs.files, *outputs.pictures])))
    if options.results is not None:
        count = merge_results(options.results, records, replace=options.replace)
        print(f"Results:  {options.results} ({count} rows)")
    return FAILED if any("failure" in record for record in records) else 0


def _find_records(name: str) -> tuple[Path, list[dict[str, object]]]:
    """Return the folder behind an id or a path, and the records of its tasks."""
    from . import experiment as nni
    from .outcome import collect_records, read_database
    from .report import load_records

    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = nni.find_experiment(name)
        except nni.ExperimentError as error:
            raise ValueError(str(error)) from None
    if (folder / "db" / "nni.sqlite").is_file():
        snapshot = read_database(folder)
        known = load_records(folder)
        experiment, task = (known[0]["experiment"], known[0]["task"]) if known else (folder.name, "")
        return folder, collect_records(snapshot, experiment=experiment, task=task)
    return folder, load_records(folder)
