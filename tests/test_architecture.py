import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.space import CellSpace

from .generators import architectures, spaces

TINY = CellSpace(3, ("zeroize", "tanh", "relu"))


def all_cells(space: CellSpace) -> list[Architecture]:
    """Enumerate a space by brute force."""
    choices = []
    for node in range(1, space.num_nodes + 1):
        edges = [Edge(source, name) for source in range(node) for name in space.active_operations]
        choices.append(list(itertools.combinations(edges, space.kept_edges(node))))
    return [Architecture(nodes) for nodes in itertools.product(*choices)]


@given(architectures())
def test_cell_survives_round_trips_through_dict_and_json(cell):
    assert Architecture.from_dict(cell.to_dict()) == cell
    assert Architecture.from_json(cell.to_json()) == cell
    assert "\n" not in cell.to_json()


@given(cell=architectures(), name=st.text(max_size=20), source=st.text(max_size=20))
def test_cell_survives_a_round_trip_through_a_file(tmp_path_factory, cell, name, source):
    path = tmp_path_factory.getbasetemp() / "cell.yaml"
    cell.to_yaml(path, name=name, source=source)
    assert Architecture.from_yaml(path) == cell


@given(architectures(), st.randoms(use_true_random=False))
def test_order_in_which_edges_are_written_does_not_matter(cell, random):
    shuffled = [random.sample(edges, len(edges)) for edges in cell.nodes]
    other = Architecture(tuple(map(tuple, shuffled)))
    assert other == cell and other.fingerprint == cell.fingerprint


def test_fingerprints_tell_all_cells_of_a_small_space_apart():
    cells = all_cells(TINY)
    assert len(cells) == 2 * 4 * 6
    assert len({cell.fingerprint for cell in cells}) == len(cells)
    assert all(len(cell.fingerprint) == 8 for cell in cells)
    for cell in cells:
        cell.check_fits(TINY)


@given(spaces(), st.integers(1, 10**6))
def test_random_cell_belongs_to_its_space_and_depends_on_the_seed_alone(space, seed):
    cell = Architecture.random(space, seed)
    cell.check_fits(space)
    assert Architecture.random(space, seed) == cell


def test_random_cells_are_uniform_over_a_small_space():
    cells, draws = all_cells(TINY), 4800
    counts = Counter(Architecture.random(TINY, seed) for seed in range(draws))
    expected = draws / len(cells)
    chi_square = sum((counts[cell] - expected) ** 2 / expected for cell in cells)
    # 47 degrees of freedom: mean 47, standard deviation 9.7; the seeds are fixed, so this cannot flicker.
    assert chi_square < 90


@pytest.mark.parametrize(
    "nodes, words",
    [
        ([], "1 to 64 nodes; found 0"),
        ([[{"source": 0, "operation": "tanh"}]] * 65, "found 65"),
        ([[]], "Node 1 has no edge"),
        ([[{"source": 1, "operation": "tanh"}]], "Node 1 reads state 1; it can read states 0 to 0"),
        ([[{"source": -1, "operation": "tanh"}]], "Node 1 reads state -1"),
        ([[{"source": "0", "operation": "tanh"}]], "reads state '0'"),
        ([[{"source": True, "operation": "tanh"}]], "reads state True"),
        ([[{"source": 0, "operation": "zeroize"}]], "'zeroize' is not an operation"),
        ([[{"source": 0, "operation": "swish"}]], "'swish' is not an operation"),
        ([[{"source": 0, "operation": "tanh"}] * 2], "same edge twice"),
        ([[{"source": 0, "operation": "tanh", "weight": 1.5}]], "weight 1.5; expected a number from 0 to 1"),
        ([[{"source": 0, "operation": "tanh", "weight": float("nan")}]], "weight nan"),
        ([[{"source": 0}]], "expected the keys source, operation, weight"),
        ([[{"source": 0, "operation": "tanh", "gate": 1}]], "expected the keys"),
        ([["tanh"]], "found edge 'tanh'"),
        (["tanh"], "found 'tanh'; expected a list of edges"),
        ("tanh", "nodes: found 'tanh'"),
        (None, "nodes: found None"),
    ],
    ids=str,
)
def test_impossible_cell_is_an_error_that_says_where(nodes, words):
    with pytest.raises(ValueError) as caught:
        Architecture.from_dict({"nodes": nodes}, origin="cell.yaml")
    assert str(caught.value).startswith("cell.yaml: ") and words in str(caught.value)


def test_unknown_key_is_an_error_that_names_the_allowed():
    with pytest.raises(ValueError, match="unknown key 'node'; allowed: nodes, name, source"):
        Architecture.from_dict({"node": []})


@pytest.mark.parametrize(
    "cell, words",
    [
        (Architecture(((Edge(0, "tanh"),),)), "has 1 nodes, its search space 3"),
        (Architecture(((Edge(0, "tanh"),), (Edge(0, "silu"),), (Edge(0, "tanh"),))), "'silu' of node 2"),
        (
            Architecture(((Edge(0, "tanh"),), (Edge(0, "tanh"), Edge(1, "tanh")), (Edge(0, "tanh"),))),
            "Node 2 keeps 2 edge",
        ),
    ],
    ids=["nodes", "operation", "edges"],
)
def test_cell_that_does_not_fit_says_why(cell, words):
    with pytest.raises(ValueError, match=words):
        cell.check_fits(TINY)


def test_json_is_parsed_as_data_only():
    with pytest.raises(ValueError, match="not valid YAML"):
        Architecture.from_json("!!python/object/apply:os.system ['true']")
    assert json.loads(Architecture.random(TINY, 1).to_json()) == Architecture.random(TINY, 1).to_dict()
