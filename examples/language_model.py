"""A character language model on a GRU: trained on whole windows, sampled one character at a time.

The text is made of a few sentences, so that what the model writes shows whether it has learnt them.

    python examples/language_model.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import seqkern

SENTENCES = ("the cat sat on the mat. ", "a dog ran in the park. ", "the sun is out today. ")


class LanguageModel(nn.Module):
    def __init__(self, characters: int, hidden: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, 24)
        self.gru = seqkern.nn.GRU(24, hidden, batch_first=True)
        self.out = nn.Linear(hidden, characters)

    def forward(
        self, text: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, state = self.gru(self.embed(text), state)
        return self.out(hidden), state


@torch.inference_mode()
def sample(model: LanguageModel, first: int, length: int) -> list[int]:
    """The likeliest continuation of one character; the state goes from call to call."""
    state, drawn = None, [first]
    for _ in range(length):
        logits, state = model(torch.tensor([[drawn[-1]]]), state)
        drawn.append(int(logits[0, -1].argmax()))
    return drawn


def main(steps: int = 120) -> tuple[float, str]:
    """Train, and return the last loss in nats a character and a sample."""
    torch.manual_seed(0)
    order = torch.randint(len(SENTENCES), (400,)).tolist()
    text = "".join(SENTENCES[number] for number in order)
    alphabet = sorted(set(text))
    numbers = torch.tensor([alphabet.index(character) for character in text])

    model = LanguageModel(len(alphabet))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        starts = torch.randint(len(numbers) - 65, (16, 1))
        windows = numbers[starts + torch.arange(65)]
        logits, _ = model(windows[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    written = "".join(alphabet[n] for n in sample(model, alphabet.index("t"), 60))
    print(f"loss {loss.item():.3f} nats a character; it writes: {written!r}")
    return loss.item(), written


if __name__ == "__main__":
    main()
