"""Where the parts of a cell's picture stand: columns from left to right, nothing on top of anything else.

The usual steps of layered drawing: a column for each state by its longest path from state 0; between two columns of
states one column for the words on the edges; an edge that passes a column takes a place there, so it never runs through
a state or a word; orders within columns by barycentres; heights by least squares. All of it is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .architecture import Edge
from .graphs import Graph

MAX_EDGES = 400
"""Above this a picture shows nothing to a reader and takes minutes to lay out."""

_HALF_HEIGHT = {"state": 0.42, "word": 0.24, "pass": 0.1}
_GAP = 0.16
_UPRIGHT_PITCH = 1.0
"""Between two columns of a picture that runs from top to bottom, where a word takes the height of a line."""
_STIFFNESS = {(one, other): 1.0 for one in _HALF_HEIGHT for other in _HALF_HEIGHT}
_STIFFNESS.update({("pass", "pass"): 6.0, ("pass", "word"): 3.0, ("word", "pass"): 3.0})
_STATE_WIDTH = 1.0
_LETTER_WIDTH = 0.155
_SWEEPS = 12

Point = tuple[float, float]


@dataclass(frozen=True)
class PlacedEdge:
    """One edge of the cell with its course across the picture."""

    node: int
    edge: Edge
    word: str
    """What is written on it: the operation, with the weight where a node has several and there is room for it."""
    course: tuple[Point, ...]
    """From the source state through the columns between to the word and on to the target state."""
    word_at: Point
    word_width: float


@dataclass(frozen=True)
class Layout:
    """Places in a plane: x runs along the picture, from the inputs to the output, y across it, to the left hand of x.

    A unit is about two lines of text.
    """

    states: tuple[Point, ...]
    """The inputs and the nodes."""
    edges: tuple[PlacedEdge, ...]


@dataclass
class _Item:
    """Something that takes room in a column."""

    kind: str
    column: int
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)
    order: int = 0
    y: float = 0.0
    half_height: float = 0.0
    """Room that it takes across the picture, to either side."""

    def __post_init__(self) -> None:
        self.half_height = self.half_height or _HALF_HEIGHT[self.kind]


def edge_word(edge: Edge, siblings: int) -> str:
    """Return the word on an edge: the operation's last name, and its weight where the node keeps several edges."""
    word = edge.operation.rpartition(".")[2]
    return word if edge.weight is None or siblings == 1 else f"{word} {edge.weight:.2f}"


def lay_out(graph: Graph, *, upright: bool = False) -> Layout:
    """Place the states and the edges of a cell.

    Parameters
    ----------
    graph
        The cell.
    upright
        Leave room for a picture that runs from top to bottom: there a word is long across the picture.

    Raises
    ------
    ValueError
        If the cell has more than :data:`MAX_EDGES` edges.
    """
    count = sum(len(edges) for edges in graph.nodes)
    if count > MAX_EDGES:
        raise ValueError(
            f"The cell has {count} edges; a picture can show {MAX_EDGES}. "
            f"Write it as text (idarts show) or as DOT, or keep fewer edges per node."
        )
    depths = state_depths(graph)
    states = [_Item("state", 2 * depth) for depth in depths]
    chains: list[tuple[int, Edge, str, list[_Item]]] = []
    for node, edges in enumerate(graph.nodes, start=graph.num_inputs):
        for edge in edges:
            # Side by side on a narrow page, words with weights would be too small to read; there the width tells it.
            word = edge_word(edge, 1 if upright else len(edges))
            room = _word_width(word) / 2 if upright else 0.0
            chains.append((node, edge, word, _chain(states[edge.source], states[node], room)))
    items = states + [item for *_, chain in chains for item in chain]
    columns: list[list[_Item]] = [[] for _ in range(2 * max(depths) + 1)]
    for item in items:
        columns[item.column].append(item)
    _order_columns(columns)
    _place_heights(columns)
    if upright:
        x = [index * _UPRIGHT_PITCH for index in range(len(columns))]
    else:
        x = _column_centres(columns, [(chain[-1].column, word) for *_, word, chain in chains])
    placed = []
    for node, edge, word, chain in chains:
        course = [states[edge.source], *chain, states[node]]
        points = tuple((x[item.column], item.y) for item in course)
        placed.append(PlacedEdge(node, edge, word, points, points[-2], _word_width(word)))
    return Layout(tuple((x[item.column], item.y) for item in states), tuple(placed))


def state_depths(graph: Graph) -> list[int]:
    """Return the longest path from an input to each state, the inputs first."""
    depths = [0] * graph.num_inputs
    for edges in graph.nodes:
        depths.append(1 + max(depths[edge.source] for edge in edges))
    return depths


def _chain(source: _Item, target: _Item, word_room: float) -> list[_Item]:
    """Make the places that an edge takes between its ends; the last one, next to the target, holds the word."""
    last = target.column - 1
    chain = [_Item("pass", column) for column in range(source.column + 1, last)]
    chain.append(_Item("word", last, half_height=word_room))
    course = [source, *chain, target]
    for left, right in zip(course, course[1:], strict=False):
        left.after.append(right)
        right.before.append(left)
    return chain


def _order_columns(columns: Sequence[list[_Item]]) -> None:
    """Sort each column so that few edges cross: sweeps of barycentres, the best order kept."""
    _number(columns)
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(_SWEEPS):
        forwards = sweep % 2 == 0
        for column in columns if forwards else reversed(columns):
            barycentres = {id(item): _barycentre(item, forwards) for item in column}
            column.sort(key=lambda item, keys=barycentres: keys[id(item)])  # type: ignore[misc]
            _number([column])
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    for column, order in zip(columns, best, strict=True):
        column[:] = order
    _number(columns)


def _number(columns: Sequence[list[_Item]]) -> None:
    for column in columns:
        for order, item in enumerate(column):
            item.order = order


def _barycentre(item: _Item, forwards: bool) -> float:
    neighbours = item.before if forwards else item.after
    return sum(other.order for other in neighbours) / len(neighbours) if neighbours else float(item.order)


def _crossings(columns: Sequence[list[_Item]]) -> int:
    total = 0
    for column in columns:
        links = sorted((item.order, other.order) for item in column for other in item.after)
        total += sum(
            1 for index, (left, right) in enumerate(links) for a, b in links[index + 1 :] if a > left and b < right
        )
    return total


def _place_heights(columns: Sequence[list[_Item]]) -> None:
    """Pull every item to the mean height of its neighbours, as far as its column's order and spacing allow."""
    for column in columns:
        _settle(column, [-float(item.order) for item in column])
    for sweep in range(2 * _SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = []
            for item in column:
                pulls = [(other.y, _STIFFNESS[item.kind, other.kind]) for other in item.before + item.after]
                weight = sum(pull for _, pull in pulls)
                # An input that nothing reads stays where it is.
                wanted.append(sum(y * pull for y, pull in pulls) / weight if weight else item.y)
            _settle(column, wanted)


def _settle(column: list[_Item], wanted: Sequence[float]) -> None:
    """Give a column the heights nearest to the wanted ones (least squares) that keep its order and spacing."""
    offsets = [0.0]
    for upper, lower in zip(column, column[1:], strict=False):
        offsets.append(offsets[-1] + upper.half_height + lower.half_height + _GAP)
    # With the spacing taken out, what is left is a falling sequence: pool neighbours that stand in the wrong order.
    blocks: list[tuple[float, int]] = []
    for height, offset in zip(wanted, offsets, strict=True):
        mean, size = height + offset, 1
        while blocks and blocks[-1][0] < mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    means = [mean for mean, size in blocks for _ in range(size)]
    for item, mean, offset in zip(column, means, offsets, strict=True):
        item.y = mean - offset


def _column_centres(columns: Sequence[list[_Item]], words: Sequence[tuple[int, str]]) -> list[float]:
    widths = [_STATE_WIDTH] * len(columns)
    for index in range(1, len(columns), 2):
        longest = max((_word_width(word) for column, word in words if column == index), default=0.5)
        widths[index] = longest + 1.0
    edges = [0.0]
    for width in widths:
        edges.append(edges[-1] + width)
    return [(left + right) / 2 for left, right in zip(edges, edges[1:], strict=False)]


def _word_width(word: str) -> float:
    return 0.4 + _LETTER_WIDTH * len(word)
