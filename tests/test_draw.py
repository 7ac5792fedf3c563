import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.draw import draw_architecture, render, to_dot
from idarts_nni.graphs import graphs_of
from idarts_nni.layout import edge_word, lay_out, state_depths
from idarts_nni.model_architecture import ModelArchitecture
from idarts_nni.operations import OPERATIONS
from idarts_nni.sketch import IMAGE_STYLES, STYLES, style_of
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
    assert set(STYLES) == set(OPERATIONS)
    lightness = []
    for color, _ in STYLES.values():
        red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        lightness.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    paper = sorted(dict(zip(STYLES, lightness, strict=True))[name] for name in ("tanh", "relu", "sigmoid", "identity"))
    assert all(high - low > 5 for low, high in zip(paper, paper[1:], strict=False))
    assert len({str(dashes) for _, dashes in STYLES.values()}) == len(STYLES)


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
    assert state_depths(graphs_of(cell)[0]) == [0, 1, 2, 1]


@settings(max_examples=60)
@given(architectures(max_nodes=8))
def test_nothing_stands_on_anything_else_and_time_runs_to_the_right(cell):
    layout = lay_out(graphs_of(cell)[0])
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
    layout = lay_out(graphs_of(Architecture.random(TOP2, seed))[0])
    for edge in layout.edges:
        for place in edge.course[1:-1]:
            assert all(math.dist(place, state) > 0.5 for state in layout.states)


@settings(max_examples=40)
@given(architectures(max_nodes=8))
def test_nothing_stands_on_anything_else_from_top_to_bottom(cell):
    layout = lay_out(graphs_of(cell)[0], upright=True)
    words = [(edge.word_at, edge.word_width) for edge in layout.edges]
    for index, ((x, y), width) in enumerate(words):
        for (other_x, other_y), other_width in words[index + 1 :]:
            assert abs(x - other_x) > 0.42 or abs(y - other_y) > (width + other_width) / 2
        for state_x, state_y in layout.states:
            assert abs(x - state_x) > 0.55 or abs(y - state_y) > width / 2 + 0.36


IMAGE_CELL = ModelArchitecture({
    "normal/op_2_0": "sep_conv_3x3", "normal/op_2_1": "skip_connect", "normal/input_2_0": [0], "normal/input_2_1": [1],
    "normal/op_3_0": "max_pool_3x3", "normal/op_3_1": "sep_conv_3x3", "normal/input_3_0": [2], "normal/input_3_1": [0],
    "reduce/op_2_0": "dil_conv_5x5", "reduce/input_2_0": [1],
})  # fmt: skip


def test_cells_for_images_are_drawn_one_below_the_other(tmp_path):
    normal, reduce = graphs_of(IMAGE_CELL)
    assert (normal.name, reduce.name, normal.num_inputs) == ("normal", "reduce", 2)
    assert normal.nodes == (
        (Edge(0, "sep_conv_3x3"), Edge(1, "skip_connect")),
        (Edge(2, "max_pool_3x3"), Edge(0, "sep_conv_3x3")),
    )
    words = re.findall(r"<!-- (.*?) -->", draw_architecture(IMAGE_CELL, tmp_path / "cell.svg").read_text())
    assert words.count("sep_conv_3x3") == 2 and {"normal", "reduce", "dil_conv_5x5"} <= set(words)
    dot = to_dot(IMAGE_CELL)
    assert 'c0_s2 -> c0_s3 [label="max_pool_3x3"' in dot and 'c1_s1 -> c1_s2 [label="dil_conv_5x5"' in dot
    assert dot.count("{") == dot.count("}")


def test_node_of_a_model_space_is_drawn_with_its_inputs():
    (graph,) = graphs_of(ModelArchitecture({"join": ["linear 0", "mean 1"], "width": 8}))
    assert graph.nodes == ((Edge(0, "linear"), Edge(1, "mean")),) and graph.num_inputs == 2


def test_choices_without_a_cell_are_an_error_that_says_so(tmp_path):
    with pytest.raises(ValueError, match="form no cell"):
        draw_architecture(ModelArchitecture({"depth": 3, "normal/op_2_0": "x"}), tmp_path / "cell.png")
    assert not list(tmp_path.iterdir())


def test_upright_picture_is_higher_than_wide():
    width, height = struct.unpack(">II", render(DARTS_V2, "png", upright=True)[16:24])
    assert width < height


def test_operation_that_is_not_known_keeps_its_style():
    assert style_of("my.swish") == style_of("my.swish") and style_of("my.swish")[0].startswith("#")
    assert len(set(IMAGE_STYLES.values())) == len(IMAGE_STYLES)
