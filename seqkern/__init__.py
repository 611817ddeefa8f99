"""seqkern: accelerated kernels for sequence models in PyTorch."""

from seqkern._version import __version__
from seqkern.core.errors import without_traceback_on_the_command_line

with without_traceback_on_the_command_line():
    from seqkern import nn, optim
    from seqkern.core.backends import explain, use_backend
    from seqkern.core.info import info
    from seqkern.core.triton.tuning import tune
    from seqkern.recurrent.prepack import freeze_, prepack_, unfreeze_, unprepack_
    from seqkern.swapping.swap import swap, unswap
    from seqkern.word2vec import FastText, KeyedVectors, Word2Vec

__all__ = [
    "FastText",
    "KeyedVectors",
    "Word2Vec",
    "__version__",
    "explain",
    "freeze_",
    "info",
    "nn",
    "optim",
    "prepack_",
    "swap",
    "tune",
    "unfreeze_",
    "unprepack_",
    "unswap",
    "use_backend",
]
