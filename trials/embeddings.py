"""What stands for a word at the input of the tagger, trained with it: word vectors and characters.

Axis letters: ``T`` words, ``B`` sentences, ``W`` characters of a word, ``V`` word forms, ``U`` distinct words of a
batch, ``E`` width of a word's vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    sparse
        Let the gradient have only the rows of a batch's words. Most of a step with a small cell would otherwise go
        over vectors that it does not touch; plain SGD without weight decay gives the same.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, unknown_rate: float = 0.5, sparse: bool = False) -> None:
        super().__init__()
        self.width = width
        self.unknown_rate = unknown_rate
        self.embedding = nn.Embedding(len(vocabulary), width, padding_idx=PADDING, sparse=sparse)
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


class CharacterModel(nn.Module):
    """What the characters of a word say of it: computed once for each distinct word of a batch.

    Parameters
    ----------
    vocabulary
        The characters.
    spellings
        Characters of each word form, shape ``(V, W)``, as :func:`~trials.batching.spellings` returns them.
    width
        E.
    """

    spellings: Tensor

    def __init__(self, vocabulary: Vocabulary, spellings: Tensor, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(len(vocabulary), CHARACTER_WIDTH, padding_idx=PADDING)
        _init_vectors(self.embedding)
        # Not persistent: it follows from the corpus.
        self.register_buffer("spellings", spellings, persistent=False)

    def forward(self, forms: Tensor) -> Tensor:
        """Return features ``(T, B, E)`` for word forms ``(T, B)``; 0 for padding."""
        distinct, which = torch.unique(forms, return_inverse=True)
        spelled = self.spellings[distinct].long()  # (U, W)
        lengths = (spelled != PADDING).sum(1)
        features = self.features(spelled[:, : max(1, int(lengths.max()))], lengths)
        # As a lookup, whose gradient is faster than that of an index.
        return nn.functional.embedding(which, features.masked_fill((lengths == 0)[:, None], 0.0))

    def features(self, spelled: Tensor, lengths: Tensor) -> Tensor:
        """Return features ``(U, E)`` for the characters ``(U, W)`` of some words, and anything where there are none."""
        raise NotImplementedError


class CharacterCNN(CharacterModel):
    """The strongest answer of each filter over a word's characters (Ma and Hovy, ACL 2016).

    A filter's answer at a place is a sum over the characters under it, each with a summand of its own that is
    the same in every word. So the summands are computed once for each character, and gradients follow only the
    places whose answers are the strongest.
    """

    def __init__(self, vocabulary: Vocabulary, spellings: Tensor, width: int) -> None:
        super().__init__(vocabulary, spellings, width)
        self.filters = nn.Linear(CONVOLUTION * CHARACTER_WIDTH, width)

    def features(self, spelled: Tensor, lengths: Tensor) -> Tensor:
        """Return the answers at windows centred on characters; how much a batch is padded does not matter."""
        every = torch.arange(self.embedding.num_embeddings, device=spelled.device)
        weight = self.filters.weight.view(self.width, CHARACTER_WIDTH, CONVOLUTION)
        summands = torch.einsum("vc,eck->kve", self.embedding(every), weight).unbind()  # each (characters, E)
        edge = CONVOLUTION // 2
        padded = nn.functional.pad(spelled, (edge, edge))  # (U, W + 2 edge)
        strongest = self._strongest(padded, spelled == PADDING, summands)  # (U, E): a place in the word
        answers = [part.gather(0, padded.gather(1, strongest + place)) for place, part in enumerate(summands)]
        return sum(answers, start=self.filters.bias)

    @staticmethod
    @torch.no_grad()
    def _strongest(padded: Tensor, is_padding: Tensor, summands: Sequence[Tensor]) -> Tensor:
        width = is_padding.shape[1]
        answers = nn.functional.embedding(padded[:, :width], summands[0])  # (U, W, E)
        for place, part in enumerate(summands[1:], start=1):
            answers += nn.functional.embedding(padded[:, place : place + width], part)
        # What is no number is taken for the largest, so that it shows in the loss.
        answers.nan_to_num_(math.inf, math.inf, -math.inf).masked_fill_(is_padding[:, :, None], -math.inf)
        # The first place that has the largest answer; argmax takes ten times as long for it.
        places = torch.arange(width, 0, -1, dtype=answers.dtype, device=answers.device)[:, None]
        return width - (places * (answers == answers.amax(1, keepdim=True))).amax(1).long()


class CharacterLSTM(CharacterModel):
    """Last states of an LSTM that reads a word's characters forwards and one that reads them backwards (Lample et al.).

    The width is of both directions together.

    Raises
    ------
    ValueError
        If the width is odd.
    """

    def __init__(self, vocabulary: Vocabulary, spellings: Tensor, width: int) -> None:
        if width % 2:
            raise ValueError(f"character_width: found {width}; two directions share it, so it must be even.")
        super().__init__(vocabulary, spellings, width)
        self.lstm = nn.LSTM(CHARACTER_WIDTH, width // 2, bidirectional=True, batch_first=True)

    def features(self, spelled: Tensor, lengths: Tensor) -> Tensor:
        """Return the last states of both directions."""
        vectors = self.embedding(spelled)
        packed = pack_padded_sequence(vectors, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)  # (2, U, E / 2)
        return torch.cat([last[0], last[1]], dim=-1)


CHARACTER_MODELS = {"cnn": CharacterCNN, "lstm": CharacterLSTM}
"""What the setting ``characters`` may name, beside ``none``."""


def _init_vectors(embedding: nn.Embedding) -> None:
    """Draw vectors uniformly with variance 1/E (Ma and Hovy: plus or minus the root of 3 / E); padding stays 0."""
    bound = math.sqrt(3.0 / embedding.embedding_dim)
    nn.init.uniform_(embedding.weight, -bound, bound)
    with torch.no_grad():
        embedding.weight[PADDING].zero_()
