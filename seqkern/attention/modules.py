"""Multi-head attention: a drop-in module for `torch.nn.MultiheadAttention`.

Constructor, attributes, `state_dict` keys, masks and errors are torch.nn's; a trained module turns
into this one by assigning its ``__class__`` (`seqkern.swap`). There is one path for training and
evaluation, and torch's `_native_multi_head_attention` is never on it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from seqkern.attention import causal_bias, checks, choice, masks, multi_head, overrides
from seqkern.attention.dense import dispatched_attention
from seqkern.attention.ops import attention
from seqkern.attention.packing import occupied, packed, padded
from seqkern.attention.seeds import draw_seed
from seqkern.attention.varlen import attention_varlen
from seqkern.attention.weights import attention_weights, by_torch
from seqkern.core.fx_leaf import record_call

_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_function_stack
_tracing = torch._C._get_tracing_state  # torch.jit's, which knows no optional results
_Projections: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]


class _Sizes(NamedTuple):
    """What the shapes of a dense call say."""

    batched: bool
    batch_first: bool  # of these tensors; unbatched ones count as the first and only of a batch
    batch: int
    queries: int
    keys: int


class _PackedCall(NamedTuple):
    """What one call of the operator on packed sequences took and gave, (total, H, D)."""

    query: Tensor
    key: Tensor
    output: Tensor
    lse: Tensor
    dropout_p: float
    seed: Tensor | None


class MultiheadAttention(torch.nn.MultiheadAttention):
    """Multi-head attention, `torch.nn.MultiheadAttention` (Vaswani et al. 2017)::

        head_h = softmax(Q_h K_h^T / sqrt(D)) V_h,    Q_h = query W_h^Q, K_h = key W_h^K, ...
        output = concat(head_1, ..., head_H) W^O

    Args:
        embed_dim, num_heads, dropout, bias: as in torch.nn.MultiheadAttention.
        add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype: as there.

    Results and errors are torch.nn's, except that

    - a query that attends to no key (all masked) has the weights 0 and the output that W^O makes of
      0. PyTorch gives NaN or that, depending on need_weights and on the mode;
    - evaluation and training compute the same: `is_causal=True` without attn_mask raises in both
      (PyTorch ignores it in evaluation), and what rules out PyTorch's fast path (an odd number of
      heads, batch_first=False, ...) costs nothing here;
    - nested tensors of both layouts work, in training too, for cross-attention, and with causal
      attention inside each sequence (`is_causal=True`); weights then come padded with zeros, as
      PyTorch's do.

    Call: `output, weights = module(query, key, value, key_padding_mask=None, need_weights=True,
    attn_mask=None, average_attn_weights=True, is_causal=False)`, see torch.nn. With batch_first,
    query is (B, N, embed_dim), key (B, M, kdim), value (B, M, vdim) and output (B, N, embed_dim);
    otherwise (N, B, ...); without a batch (N, ...). key_padding_mask (B, M) and attn_mask (N, M) or
    (B * num_heads, N, M) are boolean, True to leave a key out, or floating, to add. weights are
    (B, N, M), or (B, num_heads, N, M) if not averaged. Dtypes as in
    `seqkern.nn.functional.scaled_dot_product_attention`. On the CPU the weights are the
    probabilities that the output is made of; elsewhere, for nested tensors and for gradients
    through them they cost one more product and B x H x N x M exponentials. With `is_causal=True`
    attn_mask has to be the causal mask: where no weights are requested the hint is trusted, as in
    PyTorch. attn_mask may also be a causal mask of `torch.nn.attention.bias` for (N, M), whose
    variant says what it is.

    Raises:
        AssertionError, RuntimeError, ValueError: as torch.nn.MultiheadAttention.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if type(query) is not Tensor or type(key) is not Tensor or type(value) is not Tensor:
            options = {
                "key_padding_mask": key_padding_mask,
                "need_weights": need_weights,
                "attn_mask": attn_mask,
                "average_attn_weights": average_attn_weights,
                "is_causal": is_causal,
            }
            node = record_call(self, (query, key, value), options)
            if node is not None:
                return node
        masks.check_types(key_padding_mask, attn_mask)
        if query.is_nested or key.is_nested or value.is_nested:
            if key_padding_mask is not None or attn_mask is not None:
                raise AssertionError(
                    "MultiheadAttention does not support NestedTensor together with "
                    "key_padding_mask or attn_mask: its lengths say what is there"
                )
            return self._nested(query, key, value, need_weights, average_attn_weights, is_causal)
        declared, aligned = attn_mask, None
        if causal_bias.is_causal_bias(attn_mask):
            attn_mask = None
        masks.warn_of_mixed_types(key_padding_mask, attn_mask)
        masks.check_ranks(query, key, value, key_padding_mask, attn_mask)
        if is_causal and declared is None:
            raise RuntimeError(
                "Need attn_mask if specifying the is_causal hint. You may use the Transformer "
                "module method `generate_square_subsequent_mask` to create this mask."
            )
        sizes = self._sizes(query, key, value)
        trusted = bool(is_causal) and not need_weights and attn_mask is declared
        if attn_mask is not declared:
            aligned = causal_bias.alignment(declared, sizes.queries, sizes.keys)
            # Every query attends to added keys, and weights and PyTorch need an explicit mask.
            if need_weights or self._adds_keys() or not choice.runs_directly(query):
                allowed = causal_bias.allowed(aligned, sizes.queries, sizes.keys, query.device)
                attn_mask, aligned = ~allowed, None
        if trusted and key_padding_mask is None:
            attn_mask = None  # as in PyTorch: the hint replaces it, whatever its shape
        if attn_mask is not None:
            masks.check_attn_shape(attn_mask, self.num_heads, *sizes[2:], sizes.batched)
            if trusted and not attn_mask.requires_grad and not self._adds_keys():
                attn_mask = None
        if key_padding_mask is not None:
            masks.check_padding_shape(key_padding_mask, sizes.batch, sizes.keys, sizes.batched)

        causal = aligned == causal_bias.TOP_LEFT or (trusted and attn_mask is None)
        projections = self._projections(query, key, value)
        if (
            choice.runs_directly(query)
            and aligned != causal_bias.BOTTOM_RIGHT
            and self._attends_at_once(*projections, key_padding_mask, attn_mask)
        ):
            wanted = multi_head.NO_WEIGHTS
            if need_weights:
                wanted = multi_head.MEAN if average_attn_weights else multi_head.OF_EACH_HEAD
            return self._attend(projections, key_padding_mask, attn_mask, sizes, causal, wanted)
        q, k, v = (_heads_first(x, sizes) for x in self._all_heads(projections))
        k, v = self._with_added_keys(k, v)
        mask, bias = masks.for_operator(
            key_padding_mask, attn_mask, sizes.batch, self.num_heads, k.shape[2] - sizes.keys
        )
        if bias is not None:
            checks.mask_dtype(q, bias)
        if not need_weights and overrides.is_overridden(q, k, v, mask, bias):
            if aligned == causal_bias.BOTTOM_RIGHT:
                allowed = causal_bias.allowed(aligned, sizes.queries, sizes.keys, query.device)
                mask = allowed[None, None] if mask is None else mask & allowed
            output = dispatched_attention(q, k, v, mask, bias, self._dropout_probability(), causal)
            return self._projected_out(_heads_merged(output, sizes)), None
        dropout_p, seed = self._dropout(query.device)
        weights = backend = None
        if need_weights and not choice.runs_directly(q):
            backend = choice.choose(q, (k, v, bias))
        if need_weights and (backend == "torch" or overrides.overriding((q, k, v, mask, bias))):
            output, weights = by_torch(q, k, v, mask, bias, dropout_p, average_attn_weights)
        else:
            output, lse = attention(
                q,
                k,
                v,
                mask=mask,
                bias=bias,
                dropout_p=dropout_p,
                is_causal=causal,
                window=(-1, 0) if aligned == causal_bias.BOTTOM_RIGHT else (-1, -1),
                seed=seed,
                need_lse=need_weights,
                backend=backend,
            )
            if need_weights:
                weights = attention_weights(
                    q, k, lse, mask, bias, dropout_p, seed, average_attn_weights
                )
        if weights is not None and not sizes.batched:
            weights = weights.squeeze(0)
        return self._projected_out(_heads_merged(output, sizes)), weights

    def _attends_at_once(self, *tensors: Tensor | None) -> bool:
        """Whether `_attend` takes a call with these projections and masks: ordinary ones, outside
        compilers and tracers, with nobody between the projections and the attention."""
        return (
            all(
                tensor is None or (type(tensor) in overrides.PLAIN_TYPES and tensor.is_cpu)
                for tensor in tensors
            )
            and not self._adds_keys()
            and not _modes()
            and not _compiling()
            and not _tracing()
        )

    def _attend(
        self,
        projections: _Projections,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        sizes: _Sizes,
        causal: bool,
        weights: int,
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of checked arguments by the operator between the projections."""
        mask = bias = None
        mask_excludes = False
        if (
            attn_mask is None
            and key_padding_mask is not None
            and key_padding_mask.dtype == torch.bool
        ):
            mask = key_padding_mask if sizes.batched else key_padding_mask[None]
            mask_excludes = True
        elif attn_mask is not None or key_padding_mask is not None:
            mask, bias = masks.for_operator(
                key_padding_mask, attn_mask, sizes.batch, self.num_heads, 0
            )
            if bias is not None:
                checks.mask_dtype(projections[0], bias)
        dropout_p, seed = self._dropout(projections[0].device)
        call = multi_head.Call(
            self.num_heads, sizes.batch_first, mask, mask_excludes, seed, dropout_p, causal, weights
        )
        output, found = multi_head.attend(*projections, bias, call)
        if found is not None and not sizes.batched:
            found = found.squeeze(0)
        return self._projected_out(output), found

    def attend_packed(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_offsets: Tensor,
        key_offsets: Tensor,
        is_causal: bool = False,
    ) -> Tensor:
        """Attention inside each of B concatenated sequences, without padding.

        Args:
            query: (total queries, embed_dim).
            key: (total keys, kdim).
            value: (total keys, vdim).
            query_offsets, key_offsets: (B + 1,) int64 on the CPU: where each sequence starts.
            is_causal: query i of a sequence attends to its keys 0 to i.

        Returns:
            (total queries, embed_dim)

        Raises:
            RuntimeError: the offsets do not fit the tensors, as in `varlen_attention`.
        """
        call = self._packed_call(query, key, value, query_offsets, key_offsets, is_causal)
        return self._projected_out(call.output.flatten(1))

    def _nested(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool,
        average: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` of nested tensors."""
        if not self.batch_first or self._adds_keys():
            raise AssertionError(
                "MultiheadAttention does not support NestedTensor with batch_first=False, "
                "add_bias_kv=True or add_zero_attn=True"
            )
        queries = packed(query, "query")
        keys = queries if key is query else packed(key, "key")
        values = keys if value is key else packed(value, "value")
        if len(queries.offsets) != len(keys.offsets):
            raise AssertionError(
                "query and key must hold the same number of sequences, got "
                f"{len(queries.offsets) - 1} and {len(keys.offsets) - 1}"
            )
        compiling = torch.compiler.is_compiling()  # which cannot read values
        if values is not keys and not compiling and not torch.equal(keys.offsets, values.offsets):
            raise AssertionError("the sequences of key and value must have the same lengths")
        self._check_features(queries.values, keys.values, values.values)
        offsets = (queries.offsets, keys.offsets)
        call = self._packed_call(queries.values, keys.values, values.values, *offsets, is_causal)
        output = queries.nested(self._projected_out(call.output.flatten(1)))
        return output, _padded_weights(call, *offsets, is_causal, average) if need_weights else None

    def _packed_call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_offsets: Tensor,
        key_offsets: Tensor,
        is_causal: bool,
    ) -> _PackedCall:
        q, k, v = self._projected(query, key, value)
        dropout_p, seed = self._dropout(query.device)
        output, lse = attention_varlen(
            q,
            k,
            v,
            query_offsets,
            key_offsets,
            is_causal=is_causal,
            dropout_p=dropout_p,
            seed=seed,
        )
        return _PackedCall(q, k, output, lse, dropout_p, seed)

    def _projected_out(self, heads: Tensor) -> Tensor:
        return F.linear(heads, self.out_proj.weight, self.out_proj.bias)

    def _dropout(self, device: torch.device) -> tuple[float, Tensor | None]:
        """The probability, and the seed where there is one."""
        dropout_p = self._dropout_probability()
        return dropout_p, draw_seed(device) if dropout_p else None

    def _dropout_probability(self) -> float:
        if not self.training or self.dropout == 0:
            return 0.0
        if not 0 <= self.dropout <= 1:
            raise ValueError(
                f"dropout probability has to be between 0 and 1, but got {self.dropout}"
            )
        return self.dropout

    def _adds_keys(self) -> bool:
        return self.bias_k is not None or self.bias_v is not None or self.add_zero_attn

    def _with_added_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends to (B, H, M, D) what add_bias_kv and add_zero_attn ask for."""
        if self.bias_k is not None and self.bias_v is not None:
            batch, heads, _, width = k.shape

            def row(bias: Tensor) -> Tensor:
                return bias.to(k.dtype).view(1, heads, 1, width).expand(batch, -1, -1, -1)

            k, v = torch.cat([k, row(self.bias_k)], 2), torch.cat([v, row(self.bias_v)], 2)
        elif self.bias_k is not None or self.bias_v is not None:
            one, other = ("bias_k", "bias_v") if self.bias_v is None else ("bias_v", "bias_k")
            raise AssertionError(f"{one} is set but {other} is None")
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return k, v

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """(..., E) -> (..., H, D) for each of query, key and value, in one product for those that
        are the same object."""
        return self._all_heads(self._projections(query, key, value))

    def _all_heads(self, projections: _Projections) -> tuple[Tensor, ...]:
        """Query, key and value (..., H, D)."""
        return tuple(
            heads for each in projections if each is not None for heads in self._heads(each)
        )

    def _projections(self, query: Tensor, key: Tensor, value: Tensor) -> _Projections:
        """(..., count * E), the projections of one object side by side: of all three in the first
        result, or of key and value in the second."""
        bias = self._parameter("in_proj_bias")
        if not self._qkv_same_embed_dim:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            for name, x, weight in zip(("key", "value"), (key, value), weights[1:], strict=True):
                expected = (self.embed_dim, x.shape[-1])
                if weight.shape != expected:
                    raise AssertionError(
                        f"expecting {name} weights shape of {expected}, but got {weight.shape}"
                    )
        else:
            weight = self._parameter("in_proj_weight")
            assert weight is not None
            if query is key and key is value:
                return F.linear(query, weight, bias), None, None
            if key is value:
                parts = (self.embed_dim, 2 * self.embed_dim)
                w_q, w_kv = weight.split(parts)
                b_q, b_kv = (None, None) if bias is None else bias.split(parts)
                return F.linear(query, w_q, b_q), F.linear(key, w_kv, b_kv), None
            weights = weight.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, b)
            for x, weight, b in zip((query, key, value), weights, biases, strict=True)
        )
        return q, k, v

    def _parameter(self, name: str) -> Tensor | None:
        """The parameter, without the detour through `__getattr__` where it is an ordinary one."""
        parameters = self._parameters
        return parameters[name] if name in parameters else getattr(self, name)

    def _heads(self, projections: Tensor) -> tuple[Tensor, ...]:
        """(..., count * E) -> count views (..., H, D). The backward joins their gradients."""
        count = projections.shape[-1] // self.embed_dim
        return projections.unflatten(-1, (count, self.num_heads, -1)).unbind(-3)

    def _sizes(self, query: Tensor, key: Tensor, value: Tensor) -> _Sizes:
        """Checks the sizes that query, key and value have to share."""
        self._check_features(query, key, value)
        if query.dim() == 2:
            return _Sizes(False, True, 1, query.shape[0], key.shape[0])
        at = 0 if self.batch_first else 1
        if query.shape[at] != key.shape[at]:
            raise RuntimeError(
                "MultiheadAttention: query and key must have the same batch size, got query of "
                f"{list(query.shape)} and key of {list(key.shape)} (batch_first={self.batch_first})"
            )
        return _Sizes(
            True, self.batch_first, query.shape[at], query.shape[1 - at], key.shape[1 - at]
        )

    def _check_features(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        if query.shape[-1] != self.embed_dim:
            raise AssertionError(
                f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]}"
            )
        if self._qkv_same_embed_dim:
            if key.shape != value.shape:
                raise AssertionError(
                    f"key shape {key.shape} does not match value shape {value.shape}"
                )
        elif key.shape[:-1] != value.shape[:-1]:
            raise AssertionError(
                f"key's sequence and batch dims {key.shape[:-1]} do not match value's "
                f"{value.shape[:-1]}"
            )


def _heads_first(x: Tensor, sizes: _Sizes) -> Tensor:
    """(B, N, H, D), (N, B, H, D) or (N, H, D) as a view (B, H, N, D)."""
    if not sizes.batched:
        return x.transpose(0, 1).unsqueeze(0)
    return x.transpose(1, 2) if sizes.batch_first else x.permute(1, 2, 0, 3)


def _heads_merged(x: Tensor, sizes: _Sizes) -> Tensor:
    """(B, H, N, D) as (B, N, E), (N, B, E) or (N, E), contiguous.

    The operator lays its output out as (B, N, H, D) where the query was, so that only sequence
    first is a copy. F.linear would make it as well, and then add its bias in a pass of its own.
    """
    if not sizes.batched:
        return x.squeeze(0).transpose(0, 1).flatten(1)
    if sizes.batch_first:
        return x.transpose(1, 2).flatten(2)
    return x.permute(2, 0, 1, 3).flatten(2).contiguous()


def _padded_weights(
    call: _PackedCall,
    query_offsets: Tensor,
    key_offsets: Tensor,
    is_causal: bool,
    average: bool,
) -> Tensor:
    """The weights of packed sequences, (B, N, M) or (B, H, N, M), N and M those of the longest;
    0 beyond the ends."""
    rows, columns = (occupied(offsets) for offsets in (query_offsets, key_offsets))
    query = padded(call.query, query_offsets).transpose(1, 2)
    key = padded(call.key, key_offsets).transpose(1, 2)
    lse = padded(call.lse.transpose(0, 1), query_offsets).transpose(1, 2)
    lse = lse.masked_fill(~rows[:, None].to(lse.device), float("-inf"))
    mask = columns[:, None, None]
    if is_causal:
        mask = mask & torch.ones(rows.shape[1], columns.shape[1], dtype=torch.bool).tril()
    mask = mask.to(query.device)
    return attention_weights(query, key, lse, mask, None, call.dropout_p, call.seed, average)
