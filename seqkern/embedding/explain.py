"""`seqkern.explain` for the modules and functions of word vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from seqkern.core.backends import Explanation, explains
from seqkern.embedding import checks, choice
from seqkern.embedding.modules import CBOW, SkipGram, SubwordEmbedding
from seqkern.embedding.ops import cbow_loss, skipgram_loss


@explains(SkipGram, CBOW)
def explain_module(module: Any, *arguments: Any, **options: Any) -> Explanation:
    """The arguments are those of the module's forward; its weights decide."""
    return choice.explanation(repr(module), module.in_embed.weight, (module.out_embed.weight,))


@explains(SubwordEmbedding)
def explain_subwords(module: Any, *arguments: Any, **options: Any) -> Explanation:
    """The arguments are those of the module's forward; its weight decides."""
    return choice.explanation(repr(module), module.weight, ())


@explains("skipgram_loss", skipgram_loss, "cbow_loss", cbow_loss)
def explain_function(
    function: Any, in_weight: Tensor, out_weight: Tensor, *arguments: Any, **options: Any
) -> Explanation:
    """The arguments are those of the function; its weights decide."""
    name = function if isinstance(function, str) else function.__name__
    checks.table_("in_weight", in_weight)
    checks.table_("out_weight", out_weight)
    return choice.explanation(name, in_weight, (out_weight,))
