"""seqkern's drop-in optimizers: the names of `torch.optim`, with the same behaviour."""

from seqkern.core.backends import explains as _explains
from seqkern.embedding.sparse_adam import SparseAdam
from seqkern.embedding.sparse_adam import explain_optimizer as _explain_optimizer

__all__ = ["SparseAdam"]

_explains(SparseAdam)(_explain_optimizer)
