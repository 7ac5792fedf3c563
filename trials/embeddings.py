"""What stands for a word at the input of the tagger, trained with it: word vectors and characters.

Axis letters: ``T`` words, ``B`` sentences, ``W`` characters of a word, ``U`` distinct words,
``E`` width of a word's vector.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from idarts_nni.shares import own_columns

from .batching import PADDING, UNKNOWN, Vocabulary

CHARACTER_WIDTH = 25
"""Width of a character's vector."""

CONVOLUTION = 3
"""Characters under one filter of the convolution (Ma and Hovy)."""


class WordEmbedding(nn.Module):
    """Word vectors, trained with the tagger.

    A vector for unknown words is learnt too: in training, a word that the training set has once is taken for unknown
    with probability ``unknown_rate`` (Lample et al.).

    Parameters
    ----------
    vocabulary
        The words.
    width
        E.
    unknown_rate
        For words seen once.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, unknown_rate: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.unknown_rate = unknown_rate
        self.embedding = nn.Embedding(len(vocabulary), width, padding_idx=PADDING)
        _init_vectors(self.embedding)
        # Not persistent: it follows from the training set.
        self.register_buffer("singletons", vocabulary.singletons, persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        """Return vectors ``(T, B, E)`` for words ``(T, B)``."""
        if self.training and self.unknown_rate > 0.0:
            chances = own_columns(words.shape, 1, lambda size: torch.rand(size, device=words.device))
            hidden = self.singletons[words] & (chances < self.unknown_rate)
            words = words.masked_fill(hidden, UNKNOWN)
        return self.embedding(words)


class CharacterCNN(nn.Module):
    """The strongest answer of each filter over a word's characters (Ma and Hovy, ACL 2016).

    Parameters
    ----------
    vocabulary
        The characters.
    width
        Number of filters, E.
    dropout
        On the characters' vectors.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(len(vocabulary), CHARACTER_WIDTH, padding_idx=PADDING)
        _init_vectors(self.embedding)
        self.filters = nn.Linear(CONVOLUTION * CHARACTER_WIDTH, width)

    def forward(self, characters: Tensor) -> Tensor:
        """Return features ``(T, B, E)`` for characters ``(T, B, W)``, 0 past the end of a word."""
        edge = CONVOLUTION // 2
        spelled, which = _distinct_words(characters)  # (U, W), (T, B)
        padded = nn.functional.pad(spelled, (edge, edge))
        windows = self.dropout(self.embedding(padded)).unfold(1, CONVOLUTION, 1)  # (U, W, width, CONVOLUTION)
        answers = self.filters(windows.flatten(2))  # (U, W, E)
        # Windows centred on padding are no part of the word: how much a batch is padded must not matter.
        answers = answers.masked_fill((spelled == PADDING)[:, :, None], -math.inf).amax(1)
        return answers.masked_fill((spelled[:, :1] == PADDING), 0.0)[which]


class CharacterLSTM(nn.Module):
    """Last states of an LSTM that reads a word's characters forwards and one that reads them backwards (Lample et al.).

    Parameters
    ----------
    vocabulary
        The characters.
    width
        E, both directions together; even.
    dropout
        On the characters' vectors.

    Raises
    ------
    ValueError
        If the width is odd.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"character_width: found {width}; two directions share it, so it must be even.")
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(len(vocabulary), CHARACTER_WIDTH, padding_idx=PADDING)
        _init_vectors(self.embedding)
        self.lstm = nn.LSTM(CHARACTER_WIDTH, width // 2, bidirectional=True, batch_first=True)

    def forward(self, characters: Tensor) -> Tensor:
        """Return features ``(T, B, E)`` for characters ``(T, B, W)``, 0 past the end of a word."""
        spelled, which = _distinct_words(characters)
        lengths = (spelled != PADDING).sum(1)
        vectors = self.dropout(self.embedding(spelled))
        packed = pack_padded_sequence(vectors, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)  # (2, U, E / 2)
        features = torch.cat([last[0], last[1]], dim=-1)
        return features.masked_fill((lengths == 0)[:, None], 0.0)[which]


CHARACTER_MODELS = {"cnn": CharacterCNN, "lstm": CharacterLSTM}
"""What the setting ``characters`` may name, beside ``none``."""


def _init_vectors(embedding: nn.Embedding) -> None:
    """Draw vectors uniformly with variance 1/E (Ma and Hovy: plus or minus the root of 3 / E); padding stays 0."""
    bound = math.sqrt(3.0 / embedding.embedding_dim)
    nn.init.uniform_(embedding.weight, -bound, bound)
    with torch.no_grad():
        embedding.weight[PADDING].zero_()


def _distinct_words(characters: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct words of ``(T, B, W)``, shape ``(U, W)``, and the number of each place's, ``(T, B)``.

    Frequent words, and the padding, are then spelt once in a batch.
    """
    distinct, which = torch.unique(characters.flatten(0, 1), dim=0, return_inverse=True)
    return distinct, which.view(characters.shape[:2])
