"""seqkern: accelerated kernels for sequence models in PyTorch."""

from seqkern._version import __version__
from seqkern.core.errors import without_traceback_on_the_command_line

with without_traceback_on_the_command_line():
    from seqkern import nn, optim
    from seqkern.attention import flash_registry
    from seqkern.attention.sdpa_override import override_sdpa
    from seqkern.core.backends import Explanation, explain, use_backend
    from seqkern.core.errors import UserError
    from seqkern.core.info import info
    from seqkern.core.triton.tuning import tune
    from seqkern.recurrent.prepack import freeze_, prepack_, unfreeze_, unprepack_
    from seqkern.swapping.swap import SwapReport, swap, unswap
    from seqkern.swapping.verify import VerificationError
    from seqkern.word2vec import FastText, KeyedVectors, Word2Vec

flash_registry.register()

__all__ = [
    "Explanation",
    "FastText",
    "KeyedVectors",
    "SwapReport",
    "UserError",
    "VerificationError",
    "Word2Vec",
    "__version__",
    "explain",
    "freeze_",
    "info",
    "nn",
    "optim",
    "override_sdpa",
    "prepack_",
    "swap",
    "tune",
    "unfreeze_",
    "unprepack_",
    "unswap",
    "use_backend",
]
