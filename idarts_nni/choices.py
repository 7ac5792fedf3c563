"""The choice that a node makes among its edges, as a mutable of NNI."""

import itertools
import math
from typing import Any

from nni.mutable import CategoricalMultiple

MOST_SETS = 100_000
"""Sets of edges that are listed for a tuner, at most."""


class EdgeChoice(CategoricalMultiple):
    """NNI's choice of n values, which NNI's tuners (``strategy.TPE``) can read too.

    NNI leaves that out for choices of several values; here a tuner sees one choice among all sets of n.
    """

    def as_legacy_dict(self) -> dict[str, Any]:
        """Return the choice in the format of NNI's tuners: one among all sets of n edges.

        Raises
        ------
        ValueError
            If there are too many sets to list.
        """
        sets = math.comb(len(self.values), self.n_chosen)
        if sets > MOST_SETS:
            raise ValueError(
                f"{self.label}: {self.n_chosen} of {len(self.values)} edges can be chosen in {sets:,} ways, too many "
                f"to list for a tuner. Use fewer edges_per_node, or strategy.Random or RegularizedEvolution."
            )
        return {
            "_type": "choice",
            "_value": [list(chosen) for chosen in itertools.combinations(self.values, self.n_chosen)],
        }
