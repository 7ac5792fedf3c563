"""The tagger: words, one bidirectional layer of the cell, and a conditional random field.

Axis letters: ``T`` words, ``B`` sentences, ``D`` input width, ``H`` hidden width of each direction, ``C`` tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from idarts_nni.architecture import Architecture
from idarts_nni.mutator import MixedRecurrentCell
from idarts_nni.shares import own_columns
from idarts_nni.space import CellSpace

from .batching import Batch
from .chain import reverse_words
from .crf import LinearChainCRF
from .layers import locked_dropout, recurrent_layer


class WordInput(nn.Module):
    """All that stands for a word, side by side; each part is optional.

    Parameters
    ----------
    words
        Trained word vectors.
    characters
        A model of a word's characters.
    vectors
        Vectors from a file.
    feature_width
        Width of the frozen features that batches carry, 0 for none.

    Raises
    ------
    ValueError
        If there is no part at all.
    """

    def __init__(
        self,
        words: nn.Module | None = None,
        characters: nn.Module | None = None,
        vectors: nn.Module | None = None,
        feature_width: int = 0,
    ) -> None:
        super().__init__()
        self.words = words
        self.characters = characters
        self.vectors = vectors
        self.feature_width = feature_width
        self.width = feature_width + sum(part.width for part in (words, characters, vectors) if part is not None)
        if self.width == 0:
            raise ValueError("Nothing stands for a word: turn on word_width, characters, glove, transformer or flair.")

    def forward(self, batch: Batch) -> Tensor:
        """Return ``(T, B, D)``."""
        parts = []
        if self.words is not None:
            parts.append(self.words(batch.words))
        if self.characters is not None:
            parts.append(self.characters(batch.forms))
        if self.vectors is not None:
            parts.append(self.vectors(batch.forms))
        if self.feature_width:
            if batch.features is None or batch.features.shape[2] != self.feature_width:
                found = None if batch.features is None else batch.features.shape[2]
                raise ValueError(f"The batch's features have width {found}; the model expects {self.feature_width}.")
            parts.append(batch.features.float())
        return torch.cat(parts, dim=-1)


class BidirectionalLayer(nn.Module):
    """One recurrent layer that reads sentences forwards and one that reads them backwards.

    Both have the same architecture, in a search too, and their own weights. The second starts at each sentence's last
    word, not at its padding, which comes last for both: no state of padding reaches a word.

    Parameters
    ----------
    space, architecture, input_size, hidden_size, hidden_dropout, backend
        As in :func:`~trials.layers.recurrent_layer`; the outputs have width ``2 H``.
    """

    def __init__(
        self,
        space: CellSpace | None,
        architecture: Architecture | None,
        input_size: int,
        hidden_size: int,
        *,
        hidden_dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.onward, self.backward_reading = (
            recurrent_layer(
                space,
                architecture,
                input_size,
                hidden_size,
                hidden_dropout=hidden_dropout,
                label="cell",
                backend=backend,
            )
            for _ in range(2)
        )
        # As nn.LSTM starts. The cell's own range is that of the language model, and at other widths, with the small
        # learning rate of tagging, it hardly leaves zero.
        bound = hidden_size**-0.5
        for weight in self.parameters():
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Return the states of both directions ``(T, B, 2 H)`` for inputs ``(T, B, D)`` and lengths ``(B,)``."""
        onward, _ = self.onward(inputs)
        turned, _ = self.backward_reading(reverse_words(inputs, lengths))
        return torch.cat([onward, reverse_words(turned, lengths)], dim=-1)


class Tagger(ModelSpace):
    """From words to tags.

    Parameters
    ----------
    inputs
        What stands for a word.
    tags
        Names of the tags.
    scheme
        Exclude the transitions that this scheme never writes; None allows all.
    space
        Space of the cell; None for the LSTM baseline.
    architecture
        The found cell; None to search one.
    hidden_size
        H.
    dropout
        Rates of the variational dropout on the layer's input, in the cell, and on the layer's output.
    word_dropout
        Rate at which all of a word's input is dropped.
    backend
        How the cell is computed.
    """

    def __init__(
        self,
        inputs: WordInput,
        tags: Sequence[str],
        scheme: str | None,
        space: CellSpace | None,
        architecture: Architecture | None,
        hidden_size: int,
        *,
        dropout: tuple[float, float, float] = (0.0, 0.0, 0.0),
        word_dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.tags = tuple(tags)
        self.is_searching = space is not None and architecture is None
        self.input_dropout, hidden_dropout, self.output_dropout = dropout
        self.word_dropout = word_dropout
        self.inputs = inputs
        self.layer = BidirectionalLayer(
            space, architecture, inputs.width, hidden_size, hidden_dropout=hidden_dropout, backend=backend
        )
        self.scores = nn.Linear(2 * hidden_size, len(tags))
        self.crf = LinearChainCRF(tags, scheme)

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """Let NNI's own DARTS search this space too, with its own softmax."""
        return [MixedRecurrentCell.mutate]

    def forward(self, batch: Batch) -> Tensor:
        """Return the score of each tag at each word, ``(T, B, C)``.

        Raises
        ------
        ValueError
            If the batch is padded and the search network is being trained: its batch normalisation would mix padding
            into the statistics of the words.
        """
        if self.is_searching and self.training and not bool(batch.mask.all()):
            raise ValueError("Training the search network needs batches without padding: Batches(one_length=True).")
        words = self.inputs(batch)
        if self.training and self.word_dropout:
            # Not scaled: a dropped word is an unknown one, not noise to be averaged out.
            shape = (*words.shape[:2], 1)
            words = words * own_columns(
                shape, 1, lambda size: words.new_empty(size).bernoulli_(1.0 - self.word_dropout)
            )
        words = locked_dropout(words, self.input_dropout, self.training)
        states = self.layer(words, batch.lengths)
        return self.scores(locked_dropout(states, self.output_dropout, self.training))

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative log-likelihood of the true tags in nats, averaged over the sentences."""
        return -self.crf.log_likelihood(self(batch), batch.tags, batch.mask).mean()

    def decode(self, batch: Batch) -> list[list[str]]:
        """Return the most probable tags of each sentence."""
        return self.tag_names(self.crf.viterbi(self(batch), batch.mask), batch)

    def tag_names(self, numbers: Tensor, batch: Batch) -> list[list[str]]:
        """Name tag numbers ``(T, B)``, sentence by sentence, without the padding."""
        rows = zip(numbers.T.tolist(), batch.lengths.tolist(), strict=True)
        return [[self.tags[number] for number in row[:length]] for row, length in rows]
