"""The numbers that others have published, to stand beside measured ones: always marked, never mixed with them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    method: str
    n: str
    validation: float | None
    test: float
    note: str
    source: str


_JIANG = "Jiang et al. 2019"
_PTB = "850 hidden units, 3,000 epochs"
_PLAIN, _CONTEXTUAL = "GloVe alone", "GloVe and contextual embeddings"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "ptb": (
        Published("I-DARTS", "1", 58.0, 56.0, f"{_PTB}; search 0.17 GPU-days", _JIANG),
        Published("DARTS", "1", 58.3, 56.1, f"{_PTB}; search 0.25 GPU-days", _JIANG),
        Published("ENAS", "-", 60.8, 58.6, "search 0.50 GPU-days", _JIANG),
        Published("random cell", "1", 63.7, 61.2, _PTB, _JIANG),
        Published("AWD-LSTM", "-", 60.0, 57.3, "without fine-tuning; with it 58.8 / 56.5", "Merity et al. 2018"),
    ),
    "conll": (
        Published("I-DARTS", "1", None, 91.23, _PLAIN, _JIANG),
        Published("I-DARTS", "2", None, 90.96, _PLAIN, _JIANG),
        Published("DARTS", "1", None, 91.05, _PLAIN, _JIANG),
        Published("random cells", "1", None, 90.64, _PLAIN, _JIANG),
        Published("BiLSTM-CRF", "-", None, 90.94, _PLAIN, _JIANG),
        Published("I-DARTS", "1", None, 93.47, _CONTEXTUAL, _JIANG),
        Published("I-DARTS", "2", None, 93.14, _CONTEXTUAL, _JIANG),
        Published("DARTS", "1", None, 93.13, _CONTEXTUAL, _JIANG),
        Published("random cells", "1", None, 92.89, _CONTEXTUAL, _JIANG),
        Published("BiLSTM-CRF", "-", None, 93.18, _CONTEXTUAL, _JIANG),
    ),
}
"""Task -> rows: perplexity on the Penn Treebank, F1 on CoNLL-2003."""
CORPORA = {"ptb": "Penn Treebank", "conll": "CoNLL-2003"}
"""Task -> the data of the published numbers, as records call them."""
METRICS = {"ptb": "perplexity", "conll": "F1", "digits": "accuracy"}
"""Task -> its metric, for results files, which do not name it."""
LOWER_IS_BETTER = {"perplexity": True, "F1": False, "accuracy": False}


def published_rows(task: str, corpora: Collection[str]) -> tuple[Published, ...]:
    """Return the published rows of a task that may stand beside results on these data.

    On other data than the published ones nothing may; of data that are not known ("", in files of earlier versions)
    it is assumed that they are the same.
    """
    known = {corpus for corpus in corpora if corpus}
    return PUBLISHED.get(task, ()) if known <= {CORPORA.get(task)} else ()
