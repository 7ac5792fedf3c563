import xml.etree.ElementTree as ElementTree

import pytest

from idarts_nni.charts import Line, convergence_chart, heat_map, line_chart, method_style, spread_chart
from idarts_nni.parameters import METHODS

LINES = [Line("idarts", "a", ((1, 900.0), (2, 100.0))), Line("my $ method_", "b", ((1, 500.0),))]


def charts():
    yield line_chart(LINES, x="epoch", y="perplexity", may_be_logarithmic=True)
    yield spread_chart([("idarts", "idarts n=1", [1.0, 2.0]), ("lstm", "a $ sign", [3.0])], x="F1")
    yield convergence_chart({"idarts": [(10, [3.0, 4.0]), (20, [2.0])], "darts": [(10, [5.0])]}, y="perplexity")
    yield heat_map([[0.2, 0.8], [0.5, 0.5]], [1, 2], ["0 tanh", "0 relu"], [[1], []], scale=(0.2, 0.8))


def test_same_numbers_give_the_same_bytes_and_well_formed_svg():
    for first, second in zip(charts(), charts(), strict=True):
        assert first == second
        ElementTree.fromstring(first)


def test_methods_differ_in_colour_dashes_and_marker():
    styles = [method_style(method) for method in METHODS if method != "cnn"]
    for part in zip(*styles, strict=True):
        assert len(set(map(str, part))) == len(styles)


@pytest.mark.parametrize("labels", [
    ["idarts", "darts", "random", "lstm"], ["idarts", "random n=1 sum", "random n=2 mean", "lstm"],
    ["idarts n=1 sum", "idarts n=2 mean", "random n=1 sum", "random n=2 mean", "lstm"], ["a" * 45, "b" * 45],
], ids=str)  # fmt: skip
def test_legend_lies_within_the_chart(labels, monkeypatch):
    figures = []
    monkeypatch.setattr("idarts_nni.charts.save_figure", lambda figure, kind: figures.append(figure) or b"")
    line_chart([Line(label.partition(" ")[0], label, ((1, 2.0), (2, 3.0))) for label in labels], x="epoch", y="F1")
    figure = figures[0]
    figure.canvas.draw()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(labels)
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.x0 >= 0 and box.y1 <= figure.bbox.y1
    assert legend._ncols > 1 or len(labels[0]) == 45


def test_wide_range_is_logarithmic_only_where_that_makes_sense():
    text = line_chart(LINES, x="epoch", y="perplexity", may_be_logarithmic=True).decode()
    plain = line_chart(LINES, x="epoch", y="accuracy").decode()
    assert "<!-- 200 -->" in text and "<!-- 500 -->" in text and "<!-- 300 -->" not in text
    assert "<!-- 300 -->" in plain


def test_kinds_of_one_method_are_told_apart_and_named():
    lines = [Line("idarts", f"idarts n={n}", ((1, 900.0), (2, 100.0 * n))) for n in (1, 2, 2)]
    text = line_chart(lines, x="epoch", y="perplexity").decode()
    assert text.count("<!-- idarts n=1 -->") == text.count("<!-- idarts n=2 -->") == 1
    assert method_style("idarts")[0] in text and "#cc79a7" in text


def test_values_close_to_each_other_are_written_out():
    text = spread_chart([("idarts", "idarts", [1221.45, 1221.68])], x="perplexity").decode()
    assert "<!-- 1221.5" in text and "e3 -->" not in text
