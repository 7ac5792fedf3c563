"""Both derivations of one set of alphas, side by side: the paper's argmax and the rule of the authors' public code."""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import Architecture
from .report import Record, read_record, to_markdown
from .space import CHOICES, CellSpace

if TYPE_CHECKING:
    from torch import Tensor

RELAXATIONS = {"idarts": "node", "darts": "edge"}
JOB_FILE = "job.json"
"""Stands beside the checkpoints of a trial and says whose they are."""


@dataclass(frozen=True)
class Alphas:
    """What a search had learnt when it was looked at."""

    logits: Tensor
    """Shape ``(P, K)``, or anything with the same softmax."""
    space: CellSpace
    relaxation: str
    origin: str


def derive(options: argparse.Namespace) -> int:
    """Run ``idarts derive``."""
    alphas = read_alphas(options.source, options.epoch, options.space, options.method)
    cells = both_derivations(alphas, _edges(options.edges))
    print(f"{alphas.origin}, relaxation {alphas.relaxation}\n")
    print(side_by_side(cells))
    for profile, cell in cells.items():
        print(f"{profile:13} {cell.fingerprint}")
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        for profile, cell in cells.items():
            path = options.output / f"{profile}.yaml"
            cell.to_yaml(path, name=f"{alphas.origin}, profile {profile}")
            print(f"written:      {path}")
    return 0


def both_derivations(alphas: Alphas, edges: int | str | None = None) -> dict[str, Architecture]:
    """Return the cell of each profile.

    Parameters
    ----------
    alphas
        What was learnt.
    edges
        Edges kept for each node; by default as the search space says.
    """
    from .derive import derive_architecture

    kept = alphas.space.edges_per_node if edges is None else edges
    return {
        profile: derive_architecture(
            alphas.logits, dataclasses.replace(alphas.space, profile=profile, edges_per_node=kept), alphas.relaxation
        )
        for profile in CHOICES["profile"]
    }


def side_by_side(cells: dict[str, Architecture]) -> str:
    """Return a table with a line for each node and a mark where the cells differ."""
    rows = []
    for node, kept in enumerate(zip(*(cell.nodes for cell in cells.values()), strict=True), start=1):
        texts = [" + ".join(f"{edge.operation}({edge.source})" for edge in edges) for edges in kept]
        rows.append([str(node), *texts, "" if len(set(texts)) == 1 else "differs"])
    return to_markdown(["node", *cells, ""], rows)


def read_alphas(source: Path, epoch: int | None = None, space: Path | None = None, method: str | None = None) -> Alphas:
    """Read alphas out of a search's record or out of a checkpoint.

    Parameters
    ----------
    source
        ``record.json``, the folder that holds it, or a checkpoint (``.ckpt``).
    epoch
        Epoch of the record's trajectory, from 1; the last by default.
    space, method
        Search space file and method, for a checkpoint without its ``job.json``.

    Raises
    ------
    ValueError
        If there are no alphas of a recurrent cell in it; the message says what was found.
    """
    if source.suffix == ".ckpt":
        return _from_checkpoint(source, epoch, space, method)
    path = source / "record.json" if source.is_dir() else source
    return _from_record(path, read_record(path), epoch)


def _from_record(path: Path, record: Record, epoch: int | None) -> Alphas:
    import torch

    trajectory: list[dict[str, Any]] = record.get("trajectory") or []
    if record["stage"] != "search" or not trajectory or not record.get("space"):
        raise ValueError(
            f"{path}: the record of stage {record['stage']} holds no probabilities of a recurrent cell; name the "
            f"record of a search, or a checkpoint."
        )
    entries = {entry["epoch"]: entry for entry in trajectory}
    if epoch is not None and epoch not in entries:
        raise ValueError(f"{path}: there is no epoch {epoch}; found 1 to {max(entries)}.")
    entry = entries[epoch or max(entries)]
    space = CellSpace.from_dict(record["space"], origin=str(path))
    rows = torch.tensor([value for row in entry["probabilities"] for value in row], dtype=torch.float64)
    # A logarithm of the probabilities has their softmax; 0 is one that was too small for a number.
    logits = rows.view(space.num_pairs, len(space.operations)).clamp_min(torch.finfo(torch.float64).tiny).log()
    origin = f"{record['method']}, seed {record['seed']}, epoch {entry['epoch']}"
    return Alphas(logits, space, RELAXATIONS[record["method"]], origin)


def _from_checkpoint(path: Path, epoch: int | None, space_file: Path | None, method: str | None) -> Alphas:
    from .checkpoint import load_plain

    if epoch is not None:
        raise ValueError(f"{path}: a checkpoint holds one epoch; --epoch is for records.")
    job_file = path.with_name(JOB_FILE)
    job = json.loads(job_file.read_text(encoding="utf-8")) if job_file.is_file() else {}
    method = method or job.get("method")
    if space_file is not None:
        space = CellSpace.from_yaml(space_file)
    elif "space" in job:
        space = CellSpace.from_dict(json.loads(job["space"]), origin=str(job_file))
    else:
        raise ValueError(f"{path}: there is no {JOB_FILE} beside it; name the search space: --space FILE.")
    if method not in RELAXATIONS:
        raise ValueError(f"{path}: method {method!r} has no alphas; name one: --method {' or '.join(RELAXATIONS)}.")
    loaded = load_plain(path)
    shape = (space.num_pairs, len(space.operations))
    state: dict[str, Tensor] = loaded.get("state_dict", {})
    found = [value for name, value in state.items() if name.endswith(".logits") and tuple(value.shape) == shape]
    if not found:
        raise ValueError(f"{path}: no logits of shape {shape} in it; is it the checkpoint of a search in this space?")
    return Alphas(found[0], space, RELAXATIONS[method], f"{path.name}, {method}")


def _edges(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def gain_rows(cell: Architecture, space: CellSpace) -> list[list[str]]:
    """Return a line for each way of joining: gains with closed and with half-open gates, and the safe openness."""
    from .gain import HALF_OPEN, safe_openness, step_gain

    rows = []
    for combine in CHOICES["combine"]:
        joined = dataclasses.replace(space, combine=combine)
        try:
            closed, half = step_gain(cell, joined), step_gain(cell, joined, HALF_OPEN)
        except ValueError:
            rows.append([combine, "", "", "", "the cell has no learnt weights"])
            continue
        safe = safe_openness(cell, joined)
        rows.append([combine, f"{closed:.3g}", f"{half:.3g}", f"{safe:.2f}", "diverges" if safe else ""])
    return rows


def gain(options: argparse.Namespace) -> int:
    """Run ``idarts gain``."""
    cell, space = Architecture.from_yaml(options.file), CellSpace.from_yaml(options.space)
    header = ["combine", "gain, gates closed", "gain, half open", "safe from openness", "in training"]
    print(to_markdown(header, gain_rows(cell, space)))
    return 0
