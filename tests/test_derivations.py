"""Both derivations of one set of alphas, from a record and from a checkpoint, and both profiles end to end."""

import json
from pathlib import Path

import pytest

from idarts_nni import cli
from idarts_nni.architecture import Architecture
from idarts_nni.derivations import both_derivations, read_alphas
from trials import run

SMALL = {"epochs": 2, "hidden_size": 8, "batch_size": 256, "train_tokens": 9000, "evaluation_batch_size": 100,
         "arc_learning_rate": 0.3, "test_batch_size": 100}  # fmt: skip


def trial(folder, stage, space, *arguments):
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    output = ("--output", str(folder), "--space", str(space), "--data", "embedded", "--threads", "1")
    assert run.main(["ptb", "--stage", stage, *settings, *output, *map(str, arguments)]) == 0
    return json.loads((folder / "record.json").read_text())


def write_space(folder, profile):
    path = folder / f"{profile}.yaml"
    path.write_text(f"num_nodes: 4\noperations: [zeroize, tanh, identity]\nprofile: {profile}\n")
    return path


@pytest.mark.parametrize("profile", ["paper", "authors-code"])
def test_a_profile_runs_from_search_to_retraining(tmp_path, monkeypatch, capsys, profile):
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path))
    space = write_space(tmp_path, profile)
    searched = trial(tmp_path / "search", "search", space)
    assert searched["space"]["profile"] == profile
    found = Architecture.from_dict(searched["architecture"])
    if profile == "authors-code":
        assert all(edge.source > 0 for edges in found.nodes[1:] for edge in edges), "state 0 is passed over"
    record, epoch = tmp_path / "search", searched["epochs"]
    cells = both_derivations(read_alphas(record))
    assert cells[profile] == found
    checkpoint = next((tmp_path / "search").rglob("last.ckpt"))
    assert both_derivations(read_alphas(checkpoint)) == cells, "a checkpoint of the last epoch holds the same alphas"
    first = both_derivations(read_alphas(record, 1))
    assert first[profile] == Architecture.from_dict(searched["trajectory"][0]["architecture"]) and epoch == 2
    assert cli.main(["derive", str(record), "-o", str(tmp_path / "cells")]) == 0
    said = capsys.readouterr().out
    assert "idarts, seed 1, epoch 2" in said and "| node | paper" in said and cells["paper"].fingerprint in said
    written = tmp_path / "cells" / f"{profile}.yaml"
    assert Architecture.from_yaml(written) == found
    retrained = trial(tmp_path / "retrain", "retrain", space, "--architecture", written)
    assert retrained["cell"] == found.fingerprint and retrained["test"] > 1.0 and retrained["trajectory"] == []
    assert cli.main(["derive", str(tmp_path / "retrain")]) == cli.UNUSABLE
    assert "the record of stage retrain holds no probabilities" in capsys.readouterr().err


def record(folder, probabilities, method="idarts"):
    words = dict.fromkeys(("experiment", "task", "n", "combine", "device", "precision", "commit", "date", "key"), "-")
    numbers = dict.fromkeys(("validation", "parameters", "epochs", "seconds"), 1)
    data = {**words, **numbers, "test": None, "stage": "search", "method": method, "seed": 3}
    data["space"] = {"num_nodes": 2, "operations": ["zeroize", "tanh", "identity"]}
    cell = {"nodes": [[{"source": 0, "operation": "tanh"}], [{"source": 0, "operation": "tanh"}]]}
    data["trajectory"] = [{"epoch": 1, "architecture": cell, "probabilities": probabilities}]
    (Path(folder) / "record.json").write_text(json.dumps(data))
    return Path(folder)


def test_known_probabilities_give_known_cells_and_the_difference_is_marked(tmp_path, capsys):
    source = record(tmp_path, [[0.2, 0.5, 0.3], [0.1, 0.4, 0.0, 0.1, 0.15, 0.25]])
    cells = both_derivations(read_alphas(source))
    assert str(cells["paper"]) == "1: tanh 0; 2: tanh 0"
    assert str(cells["authors-code"]) == "1: tanh 0; 2: identity 1"
    assert cli.main(["derive", str(source)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("differs |") for line in lines if line.startswith("|")][2:] == [False, True]


def test_the_number_of_edges_can_be_chosen(tmp_path):
    source = record(tmp_path, [[0.2, 0.5, 0.3], [0.1, 0.4, 0.0, 0.1, 0.15, 0.25]])
    assert str(both_derivations(read_alphas(source), 2)["paper"]) == "1: identity 0 + tanh 0; 2: tanh 0 + identity 1"


def test_darts_probabilities_are_one_softmax_for_each_source(tmp_path):
    source = record(tmp_path, [[0.2, 0.5, 0.3], [0.1, 0.5, 0.4, 0.0, 0.35, 0.65]], "darts")
    cells = both_derivations(read_alphas(source), 2)
    assert str(cells["paper"]) == "1: identity 0 + tanh 0; 2: tanh 0 + identity 1", "distinct sources first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--epoch", "9"], "there is no epoch 9; found 1 to 1"), (["--edges", "0"], "edges_per_node: found 0")],
)
def test_what_cannot_be_derived_is_refused(tmp_path, capsys, arguments, message):
    source = record(tmp_path, [[0.2, 0.5, 0.3], [0.1, 0.4, 0.0, 0.1, 0.15, 0.25]])
    assert cli.main(["derive", str(source), *arguments]) == cli.UNUSABLE
    assert message in capsys.readouterr().err


def test_gains_are_printed_for_each_way_of_joining(tmp_path, capsys):
    cell, space = tmp_path / "cell.yaml", tmp_path / "space.yaml"
    cell.write_text("nodes: [[{source: 0, operation: tanh}, {source: 0, operation: relu}]]\n")
    space.write_text("num_nodes: 1\noperations: [tanh, relu]\nedges_per_node: 2\n")
    assert cli.main(["gain", str(cell), "--space", str(space)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["sum", "2", "0.5", "0.29", "diverges"]
    assert "no learnt weights" in lines[4]
