"""A classifier of padded sequences: a Transformer encoder with a padding mask and dropout.

A sequence belongs to class 1 if its first word comes back later. The encoder is built with
torch.nn and swapped, as one would with a model that exists.

    python examples/attention_classifier.py
"""

import torch
from torch import nn

import seqkern

WORDS, LONGEST, PAD = 12, 16, 0


class Classifier(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width, padding_idx=PAD)
        self.position = nn.Parameter(0.1 * torch.randn(LONGEST, width))
        layer = nn.TransformerEncoderLayer(width, 4, 96, dropout=0.05, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embed(words) + self.position[: words.shape[1]]
        encoded = self.encoder(x, src_key_padding_mask=words == PAD)
        return self.out(encoded[:, 0])


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words (count, LONGEST), padded with 0 behind each sequence, and the classes."""
    words = torch.randint(1, WORDS, (count, LONGEST))
    words[torch.arange(LONGEST) >= torch.randint(6, LONGEST + 1, (count, 1))] = PAD
    return words, (words[:, 1:] == words[:, :1]).any(1).long()


def main(steps: int = 200) -> float:
    """Train, and return the share of new sequences that are classified right."""
    torch.manual_seed(0)
    model = Classifier()
    print(seqkern.swap(model, verify=batch(8)[0]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        words, classes = batch(64)
        loss = nn.functional.cross_entropy(model(words), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    words, classes = batch(500)
    with torch.inference_mode():
        right = (model(words).argmax(-1) == classes).float().mean().item()
    print(f"{right:.1%} of the sequences are classified right")
    return right


if __name__ == "__main__":
    main()
