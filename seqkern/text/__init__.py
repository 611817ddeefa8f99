"""Text to train on."""

from seqkern.text.sources import documentation_text, read_text

__all__ = ["documentation_text", "read_text"]
