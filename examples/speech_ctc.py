"""Speech-like sequences of unequal length: a bidirectional LSTM over a PackedSequence, with CTC.

Each "utterance" is a series of tones, held for a random number of noisy frames; the model learns
which tones they are, without being told where they begin. No step is spent on padding, forward or
backward.

    python examples/speech_ctc.py
"""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import seqkern

TONES, FEATURES = 5, 20  # 0 is CTC's blank


class Recogniser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = seqkern.nn.LSTM(FEATURES, 48, bidirectional=True)
        self.out = nn.Linear(96, TONES + 1)

    def forward(self, frames: PackedSequence) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, lengths = pad_packed_sequence(self.lstm(frames)[0])
        return self.out(hidden).log_softmax(-1), lengths


def utterances(count: int) -> tuple[PackedSequence, list[torch.Tensor]]:
    """Frames of 8 to 60 steps, packed, and the tones of each utterance."""
    spectra = torch.eye(TONES).repeat_interleave(FEATURES // TONES, 1)
    frames, labels = [], []
    for _ in range(count):
        tones = torch.randint(TONES, (int(torch.randint(2, 7, ())),))
        held = torch.randint(4, 11, (len(tones),))
        clean = spectra[tones].repeat_interleave(held, 0)
        frames.append(clean + 0.3 * torch.randn_like(clean))
        labels.append(tones + 1)
    return pack_sequence(frames, enforce_sorted=False), labels


def decode(scores: torch.Tensor, length: int) -> list[int]:
    """The likeliest labels: repetitions and blanks left out."""
    best = scores[:length].argmax(-1)
    return [int(label) for label in torch.unique_consecutive(best) if label]


def main(steps: int = 300) -> float:
    """Train, and return the share of new utterances that are recognised without an error."""
    torch.manual_seed(0)
    model = Recogniser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    ctc = nn.CTCLoss()
    for _ in range(steps):
        frames, labels = utterances(16)
        scores, lengths = model(frames)
        loss = ctc(scores, torch.cat(labels), lengths, torch.tensor([len(x) for x in labels]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    frames, labels = utterances(100)
    with torch.inference_mode():
        scores, lengths = model(frames)
    # A tone that is repeated at once cannot be told from one held long: it counts once.
    right = [
        decode(scores[:, number], int(length)) == torch.unique_consecutive(label).tolist()
        for number, (length, label) in enumerate(zip(lengths, labels, strict=True))
    ]
    share = sum(right) / len(right)
    print(f"loss {loss.item():.3f}; {share:.0%} of the utterances are recognised without an error")
    return share


if __name__ == "__main__":
    main()
