"""The peers that seqkern is measured against, and whether they are installed."""

from __future__ import annotations

import importlib.metadata

import torch

# Distribution name -> whether it needs a CUDA device
_OPTIONAL = {"flashrnn": True, "gensim": False}


def peers() -> dict[str, str]:
    """Version of each peer, or why it takes no part in this run."""
    found = {"torch": str(torch.__version__)}
    for name, needs_cuda in _OPTIONAL.items():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing: not installed"
        if needs_cuda and not torch.cuda.is_available():
            found[name] = "missing: needs a CUDA device"
    return found
