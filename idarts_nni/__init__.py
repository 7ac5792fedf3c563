"""I-DARTS for Microsoft NNI: one softmax over all edges that enter a node, then the top-n edges of each node.

The public names are loaded when they are first used, because the tuner, which needs none of torch, starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architecture import Architecture, Edge
    from .derive import derive_architecture, node_probabilities
    from .mixed_cell import MixedCell, MixedNode
    from .model_architecture import ModelArchitecture, read_architecture
    from .modules import FixedRecurrentCell, RecurrentCell
    from .mutator import MixedRecurrentCell
    from .node import FixedNode, Node
    from .space import CellSpace
    from .strategy import IDARTS
    from .tuner import SearchThenRetrain

__all__ = [
    "IDARTS",
    "Architecture",
    "CellSpace",
    "Edge",
    "FixedNode",
    "FixedRecurrentCell",
    "MixedCell",
    "MixedNode",
    "MixedRecurrentCell",
    "ModelArchitecture",
    "Node",
    "RecurrentCell",
    "SearchThenRetrain",
    "derive_architecture",
    "node_probabilities",
    "read_architecture",
]

__version__ = "0.1.0"

_HOMES = {
    "IDARTS": "strategy",
    "Architecture": "architecture",
    "CellSpace": "space",
    "Edge": "architecture",
    "FixedNode": "node",
    "FixedRecurrentCell": "modules",
    "MixedCell": "mixed_cell",
    "MixedNode": "mixed_cell",
    "MixedRecurrentCell": "mutator",
    "ModelArchitecture": "model_architecture",
    "Node": "node",
    "RecurrentCell": "modules",
    "SearchThenRetrain": "tuner",
    "derive_architecture": "derive",
    "node_probabilities": "derive",
    "read_architecture": "model_architecture",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
