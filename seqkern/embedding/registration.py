"""Where the word vectors' operators have their Triton kernels.

What the operators save does not depend on what ran them.
"""

from __future__ import annotations

from seqkern.core.triton.operators import TritonOperators
from seqkern.embedding.fake import FAKES

_OBJECTIVE = ("embedding_objective", "embedding_objective_backward",
              "embedding_objective_backward_sparse", "embedding_objective_update_")  # fmt: skip
_BAGS = ("embedding_bags", "embedding_bags_backward", "embedding_bags_backward_sparse")
_MODULES = {
    **dict.fromkeys(_OBJECTIVE, "objective"),
    **dict.fromkeys(_BAGS, "bags"),
    "embedding_train_": "train",
    "sparse_adam_": "sparse_adam",
}

triton_operators = TritonOperators(
    {name: f"seqkern.embedding.triton.{module}:{name}" for name, module in _MODULES.items()}, FAKES
)
