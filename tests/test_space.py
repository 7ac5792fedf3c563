import pytest
from hypothesis import given

from idarts_nni.space import CellSpace

from .generators import spaces

GOOD = {"num_nodes": 3, "operations": ["zeroize", "tanh", "relu"]}


@given(spaces())
def test_space_survives_a_round_trip(space):
    assert CellSpace.from_dict(space.to_dict()) == space
    assert hash(CellSpace.from_dict(space.to_dict())) == hash(space)


@given(spaces())
def test_kept_edges_never_exceed_the_edges_there_are(space):
    for node in range(1, space.num_nodes + 1):
        available = node * len(space.active_operations)
        kept = space.kept_edges(node)
        assert kept == (available if space.edges_per_node == "all" else min(space.edges_per_node, available))


@given(spaces())
def test_rows_of_the_pairs_are_those_of_a_double_loop(space):
    pairs = [(source, node) for node in range(1, space.num_nodes + 1) for source in range(node)]
    assert space.num_pairs == len(pairs)
    assert [space.first_pair(node) for node in range(1, space.num_nodes + 1)] == [
        pairs.index((0, node)) for node in range(1, space.num_nodes + 1)
    ]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"nodes": 3}, ["unknown key 'nodes'", "3", "num_nodes"]),
        ({"num_nodes": 0}, ["num_nodes", "found 0", "1 to 64"]),
        ({"num_nodes": 65}, ["num_nodes", "found 65", "1 to 64"]),
        ({"num_nodes": "8"}, ["num_nodes", "'8'", "str", "whole number"]),
        ({"num_nodes": True}, ["num_nodes", "True", "bool"]),
        ({"num_nodes": 2.0}, ["num_nodes", "2.0", "float"]),
        ({"num_nodes": None}, ["num_nodes", "None"]),
        ({"operations": "tanh"}, ["operations", "'tanh'", "list"]),
        ({"operations": []}, ["operations", "at least one"]),
        ({"operations": ["zeroize"]}, ["operations", "at least one"]),
        ({"operations": ["tanh", "tanh"]}, ["operations", "twice"]),
        ({"operations": ["tanh", "swish"]}, ["operations", "'swish'", "relu", "import path"]),
        ({"operations": ["tanh", ["relu"]]}, ["operations", "['relu']"]),
        ({"edges_per_node": 0}, ["edges_per_node", "found 0", "1 or more"]),
        ({"edges_per_node": "some"}, ["edges_per_node", "'some'", "'all'"]),
        ({"edges_per_node": 1.5}, ["edges_per_node", "1.5"]),
        ({"transform": "both"}, ["transform", "'both'", "target", "source"]),
        ({"gate": None}, ["gate", "None", "highway", "none"]),
        ({"combine": ["sum"]}, ["combine", "['sum']", "weighted"]),
        ({"profile": "code"}, ["profile", "'code'", "authors-code"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_value_is_an_error_that_names_file_key_value_and_the_allowed(change, words):
    with pytest.raises(ValueError) as caught:
        CellSpace.from_dict({**GOOD, **change}, origin="my_space.yaml")
    for word in ["my_space.yaml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("key", GOOD)
def test_missing_key_is_named(key):
    with pytest.raises(ValueError, match=f"{key!r} is missing"):
        CellSpace.from_dict({name: value for name, value in GOOD.items() if name != key})


def test_file_is_named_in_an_error(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("num_nodes: 3\noperations: [tanh]\ngate: open\n")
    with pytest.raises(ValueError, match="space.yaml: gate: found 'open'"):
        CellSpace.from_yaml(path)


def test_space_made_in_python_is_checked_as_well():
    with pytest.raises(ValueError, match="edges_per_node"):
        CellSpace(2, ("tanh",), edges_per_node=-1)
