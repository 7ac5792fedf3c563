"""The short commands, ``idarts show`` and ``draw``: from the parsed options to the exit code."""

from __future__ import annotations

import argparse

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
    """Draw a cell, or the cells of a search over its epochs."""
    if options.animate is not None:
        return _animate(options)
    from .draw import draw_architecture

    data = read_yaml(options.file)
    cell = read_architecture(data, origin=str(options.file))
    title = options.title or str(data.get("name") or options.file.stem)
    for path in options.output or [options.file.with_suffix(".png")]:
        print(draw_architecture(cell, path, title))
    return 0


def _animate(options: argparse.Namespace) -> int:
    from .animate import animate_cells
    from .report import search_frames

    if options.output:
        raise ValueError("--animate names its own file; leave -o out.")
    found = search_frames(options.file)
    for key, frames in found.items():
        # Several searches: a file for each, named after its task.
        path = options.animate if len(found) == 1 else options.animate.with_stem(f"{options.animate.stem}-{key}")
        print(animate_cells(frames, path, options.title or key))
    return 0
