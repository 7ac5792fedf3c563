"""Every shipped space loads; every shipped cell reads, draws and fits the space that it belongs to."""

from pathlib import Path

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.draw import to_dot
from idarts_nni.files import read_yaml
from idarts_nni.graphs import graphs_of
from idarts_nni.layout import lay_out
from idarts_nni.space import CellSpace

FOLDER = Path(__file__).resolve().parents[1] / "search_spaces"
SPACES = sorted(FOLDER.glob("*.yaml"))
ARCHITECTURES = sorted((FOLDER / "architectures").glob("*.yaml"))

# As (operation, source) of nodes 1..8, written by hand from the papers and the public codes.
PUBLISHED = {
    "darts_v1": "relu 0, relu 1, tanh 2, relu 3, relu 4, identity 1, relu 5, relu 1",
    "darts_v2": "sigmoid 0, relu 1, relu 1, identity 1, tanh 2, sigmoid 5, tanh 3, relu 5",
    "idarts": "identity 0, relu 1, identity 2, tanh 3, relu 3, relu 5, identity 2, relu 6",
}


def is_cell_space(path: Path) -> bool:
    return set(read_yaml(path)) != {"model"}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_space_loads_and_opens_with_a_comment(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    if is_cell_space(path):
        space = CellSpace.from_yaml(path)
        assert CellSpace.from_dict(space.to_dict()) == space


@pytest.mark.parametrize("path", ARCHITECTURES, ids=lambda path: path.stem)
def test_architecture_file_reads_names_its_source_and_draws(path):
    data = read_yaml(path)
    cell = Architecture.from_yaml(path)
    assert data["name"] and data["source"]
    (graph,) = graphs_of(cell)
    assert len(lay_out(graph).edges) == sum(map(len, cell.nodes))
    assert to_dot(cell, data["name"]).count("->") == 3 + cell.num_nodes + sum(map(len, cell.nodes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cell_is_the_published_one_and_fits_the_space_of_the_paper(name):
    cell = Architecture.from_yaml(FOLDER / "architectures" / f"{name}.yaml")
    written = ", ".join(f"{edge.operation} {edge.source}" for edges in cell.nodes for edge in edges)
    assert written == PUBLISHED[name]
    cell.check_fits(CellSpace.from_yaml(FOLDER / "recurrent8.yaml"))


def test_space_of_the_paper_is_that_of_the_paper():
    space = CellSpace.from_yaml(FOLDER / "recurrent8.yaml")
    assert space == CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"))
    assert space.num_pairs == 36


def test_readme_has_one_line_for_every_field():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for field in CellSpace(1, ("tanh",)).to_dict():
        assert readme.count(f"| `{field}` |") == 1
