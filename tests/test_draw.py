import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.draw import _STYLES, draw_architecture, to_dot
from idarts_nni.layout import edge_word, lay_out, state_depths
from idarts_nni.operations import OPERATIONS
from idarts_nni.space import CellSpace

from .generators import architectures

CELLS = Path(__file__).resolve().parents[1] / "search_spaces" / "architectures"
DARTS_V2 = Architecture.from_yaml(CELLS / "darts_v2.yaml")
TOP2 = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"), edges_per_node=2)


@pytest.mark.parametrize("kind", [".png", ".svg", ".dot"])
def test_same_cell_gives_the_same_bytes(tmp_path, kind):
    first = draw_architecture(DARTS_V2, tmp_path / "deep" / f"a{kind}", "DARTS V2")
    second = draw_architecture(DARTS_V2, tmp_path / f"b{kind}", "DARTS V2")
    assert first.read_bytes() == second.read_bytes()


def test_png_is_an_image_wide_enough_to_read(tmp_path):
    content = draw_architecture(DARTS_V2, tmp_path / "cell.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000 and 300 < height < width


def test_svg_holds_every_word_and_every_state(tmp_path):
    text = draw_architecture(DARTS_V2, tmp_path / "cell.svg", "my title").read_text()
    ElementTree.fromstring(text)  # well-formed
    words = re.findall(r"<!-- (.*?) -->", text)
    assert "my title" in words
    assert sorted(word for word in words if word in OPERATIONS) == sorted(
        edge.operation for edges in DARTS_V2.nodes for edge in edges
    )
    assert [word for word in words if word.isdigit()] == [str(state) for state in range(9)]
    assert "date" not in text.lower()


def test_words_may_hold_any_sign(tmp_path):
    cell = Architecture(((Edge(0, "my_package.sw_ish"),),))
    draw_architecture(cell, tmp_path / "cell.png", "a $ b < & \\ \" 'é'")
    assert '"a $ b < & \\\\ \\" \'é\'"' in to_dot(cell, "a $ b < & \\ \" 'é'")
    assert "sw_ish" in to_dot(cell)


def test_unknown_ending_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"\.pdf.*\.png, \.svg, \.dot"):
        draw_architecture(DARTS_V2, tmp_path / "cell.pdf")
    assert not list(tmp_path.iterdir())


def test_cell_with_too_many_edges_is_an_error_that_says_what_would_work(tmp_path):
    cell = Architecture.random(CellSpace(20, TOP2.operations, edges_per_node="all"), 1)
    with pytest.raises(ValueError, match="840 edges; a picture can show 400.*DOT"):
        draw_architecture(cell, tmp_path / "cell.svg")
    draw_architecture(cell, tmp_path / "cell.dot")


def test_operations_differ_in_colour_lightness_and_dashes():
    assert set(_STYLES) == set(OPERATIONS)
    lightness = []
    for color, _ in _STYLES.values():
        red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        lightness.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    paper = sorted(dict(zip(_STYLES, lightness, strict=True))[name] for name in ("tanh", "relu", "sigmoid", "identity"))
    assert all(high - low > 5 for low, high in zip(paper, paper[1:], strict=False))
    assert len({str(dashes) for _, dashes in _STYLES.values()}) == len(_STYLES)


def test_weight_stands_on_an_edge_only_where_a_node_has_several():
    assert edge_word(Edge(0, "tanh", 1.0), 1) == "tanh"
    assert edge_word(Edge(0, "tanh", 0.625), 2) == "tanh 0.62"
    assert edge_word(Edge(0, "tanh"), 2) == "tanh"


def test_dot_names_every_edge_once():
    dot = to_dot(DARTS_V2)
    for node, edges in enumerate(DARTS_V2.nodes, start=1):
        for edge in edges:
            assert len(re.findall(rf's{edge.source} -> s{node} \[label="{edge.operation}"', dot)) == 1


def test_depth_is_the_longest_path():
    cell = Architecture(((Edge(0, "tanh"),), (Edge(0, "tanh"), Edge(1, "tanh")), (Edge(0, "relu"),)))
    assert state_depths(cell) == [0, 1, 2, 1]


@settings(max_examples=60)
@given(architectures(max_nodes=8))
def test_nothing_stands_on_anything_else_and_time_runs_to_the_right(cell):
    layout = lay_out(cell)
    assert len(layout.edges) == sum(map(len, cell.nodes))
    for one, place in enumerate(layout.states):
        for other in layout.states[one + 1 :]:
            assert math.dist(place, other) > 0.8
    words = [(edge.word_at, edge.word_width) for edge in layout.edges]
    for index, ((x, y), width) in enumerate(words):
        for (other_x, other_y), other_width in words[index + 1 :]:
            assert abs(y - other_y) > 0.42 or abs(x - other_x) > (width + other_width) / 2
        for state_x, state_y in layout.states:
            assert abs(y - state_y) > 0.55 or abs(x - state_x) > width / 2 + 0.36
    for edge in layout.edges:
        columns = [x for x, _ in edge.course]
        assert columns == sorted(set(columns))
        assert edge.course[0] == layout.states[edge.edge.source] and edge.course[-1] == layout.states[edge.node]


@pytest.mark.parametrize("seed", range(5))
def test_no_edge_runs_through_a_state_of_a_cell_with_two_edges_per_node(seed):
    layout = lay_out(Architecture.random(TOP2, seed))
    for edge in layout.edges:
        for place in edge.course[1:-1]:
            assert all(math.dist(place, state) > 0.5 for state in layout.states)
