"""The word vectors' operators on CUDA: Triton's kernels.

The CPU library brings the operators' schemas and `fake` their shapes; here they get one more
dispatch key. What the operators save does not depend on what ran them.
"""

from __future__ import annotations

from seqkern.core.triton.operators import TritonOperators

_OBJECTIVE = ("embedding_objective", "embedding_objective_backward",
              "embedding_objective_backward_sparse", "embedding_objective_update_")  # fmt: skip
_BAGS = ("embedding_bags", "embedding_bags_backward", "embedding_bags_backward_sparse")
_MODULES = {
    **dict.fromkeys(_OBJECTIVE, "triton.objective"),
    **dict.fromkeys(_BAGS, "triton.bags"),
    "embedding_train_": "triton.train",
    "sparse_adam_": "triton.sparse_adam",
}

triton_operators = TritonOperators(
    {name: f"seqkern.embedding.{module}:{name}" for name, module in _MODULES.items()},
    compiled=_MODULES,
)
