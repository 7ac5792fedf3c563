"""Generated spaces and architectures, named for what they make."""

from hypothesis import strategies as st

from idarts_nni.architecture import Architecture, Edge
from idarts_nni.operations import OPERATIONS, ZEROIZE
from idarts_nni.space import CellSpace


@st.composite
def spaces(draw, max_nodes: int = 5) -> CellSpace:
    """Any space that can be described, with few nodes."""
    active = draw(st.lists(st.sampled_from([*OPERATIONS, "my_package.swish"]), min_size=1, max_size=4, unique=True))
    operations = draw(st.permutations([*active, *draw(st.sampled_from([[], [ZEROIZE]]))]))
    return CellSpace(
        num_nodes=draw(st.integers(1, max_nodes)),
        operations=tuple(operations),
        edges_per_node=draw(st.one_of(st.integers(1, 4), st.just("all"))),
        transform=draw(st.sampled_from(["target", "source"])),
        gate=draw(st.sampled_from(["highway", "none"])),
        combine=draw(st.sampled_from(["sum", "mean", "weighted"])),
        profile=draw(st.sampled_from(["paper", "authors-code"])),
    )


@st.composite
def architectures(draw, max_nodes: int = 6, max_edges: int = 3) -> Architecture:
    """Any cell: each node with some edges, some of them with weights."""
    nodes = []
    for node in range(1, draw(st.integers(1, max_nodes)) + 1):
        pairs = st.tuples(st.integers(0, node - 1), st.sampled_from(list(OPERATIONS)))
        edges = draw(st.lists(pairs, min_size=1, max_size=max_edges, unique=True))
        weights = st.one_of(st.none(), st.floats(0, 1, allow_nan=False))
        nodes.append(tuple(Edge(source, operation, draw(weights)) for source, operation in edges))
    return Architecture(tuple(nodes))


def spaces_of_all_kinds() -> list[CellSpace]:
    """A few spaces that together take every value of every field."""
    operations = ("zeroize", "tanh", "relu", "sigmoid", "identity")
    return [
        CellSpace(3, operations),
        CellSpace(3, operations, edges_per_node=2, combine="mean", transform="source"),
        CellSpace(2, ("tanh", "identity"), edges_per_node="all", combine="weighted", gate="none"),
        CellSpace(1, ("relu",), gate="none", transform="source"),
        CellSpace(4, ("sigmoid", "zeroize", "relu"), edges_per_node=3, combine="weighted", profile="authors-code"),
    ]
