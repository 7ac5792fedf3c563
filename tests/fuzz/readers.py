"""Every reader of the project as one call on bytes, with valid inputs to start from."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from idarts_nni.architecture import Architecture
from idarts_nni.checkpoint import _CHECKSUM_BYTES, _add_checksum, _checksum, load_plain
from idarts_nni.files import read_yaml
from idarts_nni.manager import final_metric, read_answer
from idarts_nni.model_architecture import read_architecture
from idarts_nni.parameters import Settings, TrialParameters
from idarts_nni.plan import Outcome, Plan
from idarts_nni.preflight import check_experiment
from idarts_nni.report import (
    load_records,
    summary_markdown,
    summary_table,
    trial_table,
    trials_markdown,
)
from idarts_nni.space import CellSpace
from idarts_nni.trial import read_parameters
from idarts_nni.tuner import PLAN_FILE, SearchThenRetrain
from trials import conll, ptb
from trials.batching import Vocabulary
from trials.corpus import read_corpus
from trials.feature_cache import cached_features
from trials.glove import read_vectors
from trials.run import _claim, _job, _settings_by_hand
from trials.tagging import read_conll
from trials.task import resolve_settings

ROOT = Path(__file__).resolve().parents[2]
BORDER = b"\n-- next file --\n"
"""Parts the files of a reader that reads two."""
CHECKSUM = b"@"
"""Stands in the description of a feature cache for the right checksum, which no mutation would hit."""


OPTIONS = argparse.Namespace(task="ptb", precision="fp32", backend="auto")


class Refused(Exception):
    """The input was noticed to be damaged and set aside, without an error."""


@dataclass(frozen=True)
class Reader:
    """One way in.

    Parameters
    ----------
    name
        What is read.
    read
        Reads an input; gets an empty folder for the files that it needs.
    documents
        Valid inputs: plain data for a ``tree``, bytes for the others.
    kind
        ``tree`` (JSON or YAML), ``text`` (lines of cells) or ``bytes``.
    names
        What an error's message must hold, such as the file's name.
    errors
        What may be raised, beside :class:`ValueError` and :class:`FileNotFoundError` of our own code.
    """

    name: str
    read: Callable[[bytes, Path], object]
    documents: tuple[Any, ...]
    kind: str = "tree"
    names: str = ""
    errors: tuple[type[Exception], ...] = ()


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _architecture(data: bytes, folder: Path) -> object:
    path = _file(data, folder, "input.yaml")
    found = read_architecture(read_yaml(path), str(path))
    again = folder / "again.yaml"
    found.to_yaml(again, name="again")
    assert read_architecture(read_yaml(again)) == found and found.fingerprint
    return found


def _space(data: bytes, folder: Path) -> object:
    space = CellSpace.from_yaml(_file(data, folder, "input.yaml"))
    assert CellSpace.from_dict(space.to_dict()) == space
    return space.num_nodes > 8 or Architecture.random(space, 1).check_fits(space)


def _experiment(data: bytes, folder: Path) -> object:
    code = folder / "code" / "trials"
    code.mkdir(parents=True, exist_ok=True)
    _file(b"", code, "run.py")
    experiment, _, space = data.partition(BORDER)
    _file(space, folder, "space.yaml")
    return check_experiment(_file(experiment, folder, "input.yaml"))


def _parameters(data: bytes, folder: Path) -> object:
    _, parameters = read_parameters(data.decode("utf-8", "surrogateescape"))
    job = _job(parameters, OPTIONS, "cpu")
    defaults = {"search": ptb.SEARCH, "retrain": conll.RETRAIN}.get(job.stage, ptb.RETRAIN)
    return resolve_settings(defaults, job.overrides)


def _setting(data: bytes, folder: Path) -> object:
    return _settings_by_hand([data.decode("utf-8", "replace")])


def _claimed(data: bytes, folder: Path) -> object:
    _file(data, folder, "job.json")
    _file(b"", folder, "last.ckpt")
    return _claim(folder, RETRAIN, OPTIONS)


def _metric(data: bytes, folder: Path) -> object:
    answer = read_answer(data)
    text = data.decode("utf-8", "replace")
    return final_metric({"finalMetricData": [{"data": text}]}), final_metric({"finalMetricData": [{"data": answer}]})


def _plan(data: bytes, folder: Path) -> object:
    os.environ["NNI_CHECKPOINT_DIRECTORY"] = str(folder)
    _file(data, folder, PLAN_FILE)
    saved = SearchThenRetrain(methods=["idarts", "lstm"])._load()
    if saved is None:
        raise Refused
    plan = Plan(Settings(methods=["idarts", "lstm"]), CellSpace(2, ("tanh", "relu")), saved["data"])
    plan.restore(saved)
    plan.advance(lambda key: Outcome("todo"))
    return [task.to_nni() for task in plan.ready]


def _record(data: bytes, folder: Path) -> object:
    _file(data, folder, "record.json")
    records = load_records(folder)
    table = summary_table(trial_table(records))
    return trials_markdown(records), summary_markdown(table)


def _ptb(data: bytes, folder: Path) -> object:
    train, _, rest = data.partition(BORDER)
    _file(train, folder, "ptb.train.txt")
    for split in ("valid", "test"):
        _file(rest, folder, f"ptb.{split}.txt")
    return read_corpus(str(folder))


def _conll(data: bytes, folder: Path) -> object:
    head, _, text = data.partition(BORDER)
    scheme, _, encoding = head.decode("ascii", "replace").partition(" ")
    corpus = read_conll(_file(text, folder, "input.txt"), scheme=scheme, encoding=encoding)
    return corpus.converted("bioes"), corpus.num_documents


def _glove(data: bytes, folder: Path) -> object:
    found = read_vectors(_file(data, folder, "input.txt"), Vocabulary({"the": 2, "Of": 1, "7": 1, "no. 1": 1}))
    assert found.isfinite().all(), "a vector is not finite"
    return found


def _checkpoint(data: bytes, folder: Path) -> object:
    # With the right checksum, which no mutation would hit.
    return load_plain(_file(data + _checksum(memoryview(data)), folder, "input.ckpt"))


def _cache(data: bytes, folder: Path) -> object:
    note, _, rows = data.partition(BORDER)
    _file(rows, folder, "key.npy")
    _file(note.replace(CHECKSUM, str(zlib.crc32(rows)).encode()), folder, "key.json")
    found = cached_features(folder, "key", 3, lambda: iter([np.zeros((3, 2), np.float16)]))
    assert found.shape[0] == 3 and found.dtype == np.float16
    return float(found.sum())


CELL = {"nodes": [[{"source": 0, "operation": "tanh"}], [{"source": 1, "operation": "relu", "weight": 0.5}]]}
MODEL_CELL = {"choices": {"normal/op_2_0": "sep_conv_3x3", "depth": 3, "widths": [16, 32.5, None, [True]]}}
SPACE = {"num_nodes": 3, "operations": ["zeroize", "tanh", "relu"], "edges_per_node": 1}
FULL_SPACE = CellSpace(8, ("zeroize", "tanh", "my.swish"), "all", "source", "none", "weighted").to_dict()
EXPERIMENT = {
    "experimentName": "fuzz",
    "searchSpace": SPACE,
    "trialCodeDirectory": "code",
    "trialCommand": "python -m trials.run ptb --threads 1",
    "trialConcurrency": 2,
    "tuner": {
        "className": "idarts_nni.tuner.SearchThenRetrain",
        "codeDirectory": str(ROOT),
        "classArgs": {"methods": ["idarts", "lstm"], "data": "embedded", "search": {"epochs": 3}, "poll": 2},
    },
    "trainingService": {"platform": "local"},
}
PARAMETERS = {
    "parameter_id": 0,
    "parameters": TrialParameters(
        key="search-idarts-s1",
        stage="search",
        method="idarts",
        seed=1,
        space=json.dumps(SPACE),
        settings='{"epochs": 3}',
    ).to_nni(),
}
RETRAIN = TrialParameters(
    key="retrain-darts-x-r1",
    stage="retrain",
    method="darts",
    seed=2,
    cell="x",
    architecture=json.dumps(CELL),
    space=json.dumps({**SPACE, "num_nodes": 2}),
)
PLAN = {
    "data": "embedded",
    "found": {"idarts": [{"fingerprint": "0123abcd", "architecture": json.dumps(CELL), "score": 21.5}]},
    "kept": {"idarts": [{"fingerprint": "0123abcd", "architecture": json.dumps(CELL), "score": None}]},
    "tasks": {"search-idarts-s1": {"state": "done", "reason": "", "attempts": 1}},
    "problem": None,
}
RECORD = {
    "experiment": "AbC12345", "task": "ptb", "method": "idarts", "n": "1", "combine": "sum", "seed": 1,
    "validation": 21.5, "test": None, "parameters": 51100, "epochs": 3, "seconds": 9.5, "device": "cpu, 1 thread",
    "precision": "fp32", "commit": "12e04ee0", "date": "2026-11-22", "key": "search-idarts-s1", "stage": "search",
    "cell": "0123abcd", "architecture": CELL, "metric": "perplexity", "settings": {"epochs": 3},
    "scores": {"PER": 90.5}, "history": [{"default": 30.5, "epoch": 1.0}], "versions": {"torch": "2.13.0"},
}  # fmt: skip


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    _add_checksum(buffer)
    return buffer.getvalue()[:-_CHECKSUM_BYTES]


def _deflated(content: bytes) -> bytes:
    """Return the same archive, compressed: a few bytes that unfold to many."""
    buffer = io.BytesIO()
    whole = content + bytes(_CHECKSUM_BYTES)
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.comment = b" " * _CHECKSUM_BYTES
    return buffer.getvalue()[:-_CHECKSUM_BYTES]


class _Command:
    """A pickled object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def _npy(rows: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def _cache_input(rows: bytes, **changes: object) -> bytes:
    note = {"shape": [3, 2], "dtype": "float16", "checksum": "CHECKSUM", "layout": 1, **changes}
    return json.dumps(note).encode().replace(b'"CHECKSUM"', CHECKSUM) + BORDER + rows


def _archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ROWS = _npy(np.arange(6, dtype=np.float16).reshape(3, 2))
STATE = {"state_dict": {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}, "epoch": 3, "random": [1, [2, 3], None]}
CONLL = b"-DOCSTART- O\n\nOslo B-LOC\nis O\n\nJohn B-PER\nSmith I-PER\n"
CONLL_2003 = b"EU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\n"
PTB = b"the cat sat <unk>\na N of the\n" + BORDER + b"the dog\n"

READERS = (
    Reader("architecture", _architecture, (CELL, {**CELL, "name": "n", "source": "s"}, MODEL_CELL), names="input.yaml"),
    Reader("space", _space, (SPACE, FULL_SPACE), names="input.yaml"),
    Reader(
        "experiment", _experiment, (EXPERIMENT, {**EXPERIMENT, "searchSpaceFile": "space.yaml"}), names="input.yaml"
    ),
    Reader("trial parameters", _parameters, (PARAMETERS, {**PARAMETERS, "parameters": RETRAIN.to_nni()})),
    Reader("setting (--set)", _setting, ({"epochs": 3}, {"name": "a: [1, 2]"})),
    Reader("owner of checkpoints", _claimed, ({**RETRAIN.to_dict(), "task": "ptb", "precision": "fp32"},)),
    Reader("metric", _metric, ({"default": 3.5, "test": 4}, 3.5)),
    Reader("plan", _plan, (PLAN, {"problem": "no data"})),
    Reader(
        "record", _record, (RECORD, {**RECORD, "stage": "retrain", "test": 22.5, "architecture": None}), names="record"
    ),
    Reader("PTB text", _ptb, (PTB,), kind="text", names="ptb."),
    Reader(
        "CoNLL text",
        _conll,
        (b"auto utf-8" + BORDER + CONLL, b"iob1 latin-1" + BORDER + CONLL_2003, b"loose utf-8" + BORDER + CONLL),
        kind="text",
    ),
    Reader("GloVe", _glove, (b"the 1 2\nof 0.5 -1e3\n", b"3 2\nthe 1 2\n7 3 4\n"), kind="text", names="input.txt"),
    Reader(
        "checkpoint",
        _checkpoint,
        (_saved(STATE), _deflated(_saved({"zeros": torch.zeros(200_000)})), _saved(3), pickle.dumps(_Command(), 2)),
        kind="bytes",
        names="input.ckpt",
    ),
    Reader(
        "feature cache",
        _cache,
        (
            _cache_input(ROWS),
            _cache_input(_archive(rows=np.zeros(3)), dtype="float64"),
            _cache_input(pickle.dumps(_Command(), 2)),
            _cache_input(_npy(np.array([{}, None, 1], dtype=object)), dtype="object", shape=[3]),
        ),
        kind="bytes",
    ),
)


def seeds(reader: Reader) -> list[bytes]:
    """Return the valid inputs of a reader as bytes."""
    if reader.kind != "tree":
        return list(reader.documents)
    space = BORDER + yaml.safe_dump(SPACE).encode() if reader.name == "experiment" else b""
    if reader.name == "setting (--set)":
        return [f"{key}={value}".encode() for document in reader.documents for key, value in document.items()]
    return [text(document).encode() + space for document in reader.documents for text in (json.dumps, yaml.safe_dump)]
