"""A character-level language model: embedding, LSTM, and a linear layer onto the characters.

The model of Graves, "Generating Sequences With Recurrent Neural Networks" (2013), section 2, with
one output layer. It is written with plain ``torch.nn.LSTM``; ``seqkern.swap`` speeds it up.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""Hidden and cell state of the LSTM, each (layers, batch, hidden)."""


class Alphabet:
    """The characters a model knows, numbered by how often they occur in a text.

    Number 0 is reserved for every character that is not in the alphabet and reads as U+FFFD.

    Args:
        characters: the known characters, each once; the first gets number 1.

    Raises:
        ValueError: a character comes twice.
    """

    UNKNOWN = "\N{REPLACEMENT CHARACTER}"

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters):
            raise ValueError("characters must not repeat")
        self._characters = self.UNKNOWN + characters.replace(self.UNKNOWN, "")
        self._numbers = {character: i for i, character in enumerate(self._characters)}

    @classmethod
    def of(cls, text: str, limit: int = 1024) -> Alphabet:
        """The alphabet of a text: its ``limit`` most frequent characters."""
        return cls("".join(character for character, _ in Counter(text).most_common(limit)))

    def __len__(self) -> int:
        """The size of the alphabet, the number for unknown characters included."""
        return len(self._characters)

    def encode(self, text: str) -> Tensor:
        """The numbers of the text's characters, int64, shape (len(text),)."""
        numbers = [self._numbers.get(character, 0) for character in text]
        return torch.tensor(numbers, dtype=torch.int64)

    def decode(self, numbers: Tensor) -> str:
        """The text of a vector of numbers; the inverse of :meth:`encode`."""
        return "".join(self._characters[number] for number in numbers.tolist())


class CharLM(nn.Module):
    """Predicts the next character from all the characters before it.

    Args:
        characters: size of the alphabet.
        embedding: size of a character's vector.
        hidden: size of the LSTM's state.
        layers: number of LSTM layers.
        dropout: dropout probability between LSTM layers.
    """

    def __init__(
        self,
        characters: int,
        *,
        embedding: int = 64,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout)
        self.output = nn.Linear(hidden, characters)

    def forward(self, numbers: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Score every next character.

        Args:
            numbers: character numbers, int64, shape (batch, time).
            state: what an earlier call returned, to continue from it; None starts anew.

        Returns:
            Logits of the character after each one, shape (batch, time, characters), and the state
            after the last one.
        """
        hidden, state = self.lstm(self.embedding(numbers), state)
        return self.output(hidden), state

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue a prompt by drawing one character after another.

        Dropout is off meanwhile, whatever the model's mode is.

        Args:
            prompt: character numbers, int64, shape (time,), at least one.
            length: how many characters to draw.
            temperature: divides the logits: below 1 the likely characters become likelier; 0 always
                takes the likeliest.
            generator: the random generator to draw from; None takes torch's own.

        Returns:
            The numbers drawn, int64, shape (length,), without the prompt.

        Raises:
            ValueError: the prompt is not a vector or is empty, or the temperature is negative.
        """
        if prompt.dim() != 1 or prompt.numel() == 0:
            raise ValueError(
                f"prompt must be a vector with at least one element, "
                f"got shape {tuple(prompt.shape)}"
            )
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        training = self.training
        self.eval()
        try:
            numbers, state, drawn = prompt[None], None, []
            for _ in range(length):
                logits, state = self(numbers, state)
                last = logits[0, -1].float()
                if temperature == 0:
                    number = last.argmax(keepdim=True)
                else:
                    chances = torch.softmax(last / temperature, dim=0)
                    number = torch.multinomial(chances, 1, generator=generator)
                drawn.append(number)
                numbers = number[None]
        finally:
            self.train(training)
        return torch.cat(drawn) if drawn else prompt.new_empty(0)
