"""Small complete models, written with ``torch.nn`` so that they can be swapped."""

from seqkern.models.char_lm import Alphabet, CharLM

__all__ = ["Alphabet", "CharLM"]
