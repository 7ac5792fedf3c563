"""The elementwise operations that an edge may apply.

The table holds import paths, not functions, so that a search space can be read and checked without loading torch.
To add an operation, add one entry here, or name your own function by its import path in a search space
(``operations: [tanh, my_package.my_module.swish]``).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ZEROIZE = "zeroize"
"""The edge that is not there: it takes part in the softmax and contributes nothing, not even the carry."""

NO_OPERATIONS = (ZEROIZE, "none")
"""Names under which a space of any kind may list the edge that is not there; ``none`` is the word of DARTS's code."""

OPERATIONS: dict[str, str] = {
    "tanh": "torch.tanh",
    "relu": "torch.relu",
    "sigmoid": "torch.sigmoid",
    "identity": "torch.Tensor.clone",
    "gelu": "torch.nn.functional.gelu",
    "silu": "torch.nn.functional.silu",
}
"""Name of an operation -> import path of the elementwise function it applies."""

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def is_operation_name(name: object) -> bool:
    """Tell whether ``name`` can stand in a search space: ``zeroize``, a known name, or an import path."""
    return isinstance(name, str) and (name == ZEROIZE or name in OPERATIONS or bool(_IMPORT_PATH.fullmatch(name)))


def operation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Import the elementwise function behind an operation.

    Parameters
    ----------
    name
        A key of :data:`OPERATIONS`, or the import path of a function from tensor to tensor of the same shape.

    Raises
    ------
    ValueError
        If the name is ``zeroize`` (which computes nothing), is unknown, or cannot be imported.
    """
    if name == ZEROIZE:
        raise ValueError(f"{ZEROIZE!r} computes nothing: an edge that carries it is left out of the cell.")
    path = OPERATIONS.get(name, name)
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError(
            f"Operation {name!r} is unknown. Known operations: {', '.join([ZEROIZE, *OPERATIONS])}; "
            f"or the import path of a function, such as my_package.my_function."
        )
    # The longest prefix that imports is the module; the rest are attributes (torch.Tensor.clone).
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            found = getattr(found, attribute, None)
        if callable(found):
            return found
    raise ValueError(f"Operation {name!r}: no function can be imported as {path}. Is its folder on PYTHONPATH?")
