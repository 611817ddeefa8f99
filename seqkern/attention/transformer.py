"""The Transformer and its layers on seqkern's attention: drop-in modules for `torch.nn`'s.

They are torch.nn's classes with two things changed: their attention is `MultiheadAttention` of
this package, and the fused evaluation path of torch.nn, which computes a softmax over everything
that a mask excludes, is not taken. Feed-forward, norms and dropouts are PyTorch's. Evaluation and
training run the same code, and call their submodules, so that hooks on them fire in both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqkern.attention import choice, inference, masks
from seqkern.attention.modules import MultiheadAttention
from seqkern.attention.packing import packed
from seqkern.core.fx_leaf import leaf, record_call


def _adopting(layer: type[torch.nn.Module]) -> Any:
    """The constructor of a torch.nn layer, with its signature, that changes the parts it made to
    seqkern's classes."""

    @functools.wraps(layer.__init__)
    def construct(self: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        layer.__init__(self, *arguments, **options)
        _adopt(self)

    return construct


class TransformerEncoderLayer(torch.nn.TransformerEncoderLayer):
    """Self-attention and a feed-forward network (Vaswani et al. 2017; norm_first: Xiong et al.
    2020), `torch.nn.TransformerEncoderLayer`::

        x = norm1(x + dropout1(self_attn(x)))             norm_first:  x = x + self_attn(norm1(x))
        x = norm2(x + linear2(activation(linear1(x))))                 x = x + ff(norm2(x))

    Args:
        d_model, nhead, dim_feedforward, dropout: as in torch.nn.TransformerEncoderLayer.
        activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype: as there.

    Call: `module(src, src_mask=None, src_key_padding_mask=None, is_causal=False)`; src and the
    result are (B, L, d_model) with batch_first, else (L, B, d_model), or (L, d_model). See
    `MultiheadAttention` for dtypes and masks and for the differences of its attention. Nested
    input of both layouts works in training, too.

    Raises:
        AssertionError, RuntimeError, ValueError: as torch.nn.TransformerEncoderLayer.
    """

    __init__ = _adopting(torch.nn.TransformerEncoderLayer)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if type(src) is not Tensor:
            options = {
                "src_mask": src_mask,
                "src_key_padding_mask": src_key_padding_mask,
                "is_causal": is_causal,
            }
            node = record_call(self, (src,), options)
            if node is not None:
                return node
        masks.check_types(src_key_padding_mask, src_mask, "src_key_padding_mask", "src_mask")

        def attend(x: Tensor) -> Tensor:
            return self._sa_block(x, src_mask, src_key_padding_mask, is_causal=is_causal)

        if not src.is_nested:
            if inference.may_work_in_place(self, torch.nn.TransformerEncoderLayer):
                return self._infer(src, src_mask, src_key_padding_mask, is_causal)
            return self._blocks(src, attend)
        sequences = packed(src, "src")  # all but the attention works position by position
        values = self._blocks(
            sequences.values, lambda x: packed(attend(sequences.nested(x)), "src").values
        )
        return sequences.nested(values)

    def _blocks(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer around its attention."""
        if self.norm_first:
            x = x + attend(self.norm1(x))
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x + self._ff_block(x))

    def _infer(
        self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        """`_blocks` in place; see `seqkern.attention.inference`."""

        def attend(y: Tensor) -> Tensor:
            attention: Any = self.self_attn
            return attention(y, y, y, padding, False, mask, is_causal=is_causal)[0]

        if self.norm_first:
            x = inference.added(attend(self.norm1(x)), x)
            return inference.added(inference.feed_forward(self, self.norm2(x)), x)
        x = self.norm1(inference.added(attend(x), x))
        return self.norm2(inference.added(inference.feed_forward(self, x), x))

    def _forward_packed(self, x: Tensor, offsets: Tensor) -> Tensor:
        """`forward` of concatenated sequences, (total, d_model)."""
        attention: Any = self.self_attn
        return self._blocks(
            x, lambda y: self.dropout1(attention.attend_packed(y, y, y, offsets, offsets))
        )

    def _takes_packed(self) -> bool:
        """Whether `_forward_packed` can replace a call of the layer without a visible
        difference."""
        cls, attention = type(self), self.self_attn
        return (
            cls.forward is TransformerEncoderLayer.forward
            and not inference.hooks_everywhere()
            and inference.has_own_blocks(self, torch.nn.TransformerEncoderLayer)
            and type(attention).forward is MultiheadAttention.forward
            and not _reads_positions(attention)
            and not any(
                "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
                for module in self.modules()
            )
        )


class TransformerDecoderLayer(torch.nn.TransformerDecoderLayer):
    """Self-attention, attention to a memory and a feed-forward network (Vaswani et al. 2017),
    `torch.nn.TransformerDecoderLayer`::

        x = norm1(x + dropout1(self_attn(x)))
        x = norm2(x + dropout2(multihead_attn(x, memory)))
        x = norm3(x + linear2(activation(linear1(x))))      with norm_first each norm comes first

    Args:
        d_model, nhead, dim_feedforward, dropout: as in torch.nn.TransformerDecoderLayer.
        activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype: as there.

    Call: `module(tgt, memory, tgt_mask=None, ...)`; tgt and the result are (B, L, d_model) with
    batch_first, else (L, B, d_model), or (L, d_model), and so is memory, of its own length. See
    `MultiheadAttention` for dtypes and masks and for the differences of its attention.

    Raises:
        AssertionError, RuntimeError, ValueError: as torch.nn.TransformerDecoderLayer.
    """

    __init__ = _adopting(torch.nn.TransformerDecoderLayer)

    @leaf
    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        if not inference.may_work_in_place(self, torch.nn.TransformerDecoderLayer):
            return super().forward(
                tgt,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                tgt_is_causal,
                memory_is_causal,
            )

        def attend(y: Tensor) -> Tensor:
            attention: Any = self.self_attn
            return attention(
                y, y, y, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def attend_to_memory(y: Tensor) -> Tensor:
            attention: Any = self.multihead_attn
            return attention(
                y, memory, memory, memory_key_padding_mask, False, memory_mask,
                is_causal=memory_is_causal,
            )[0]  # fmt: skip

        x = tgt
        if self.norm_first:
            x = inference.added(attend(self.norm1(x)), x)
            x = inference.added(attend_to_memory(self.norm2(x)), x)
            return inference.added(inference.feed_forward(self, self.norm3(x)), x)
        x = self.norm1(inference.added(attend(x), x))
        x = self.norm2(inference.added(attend_to_memory(x), x))
        return self.norm3(inference.added(inference.feed_forward(self, x), x))


class TransformerEncoder(torch.nn.TransformerEncoder):
    """A stack of encoder layers (Vaswani et al. 2017), `torch.nn.TransformerEncoder`.

    Args:
        encoder_layer, num_layers, norm, enable_nested_tensor, mask_check: as in
            torch.nn.TransformerEncoder.

    Call: `module(src, mask=None, src_key_padding_mask=None, is_causal=None)`, with the shapes of
    `TransformerEncoderLayer`.

    Raises:
        AssertionError, RuntimeError, ValueError: as torch.nn.TransformerEncoder.

    In evaluation torch.nn.TransformerEncoder leaves padding out where it can
    (`enable_nested_tensor`), and then returns zeros at padded positions (what `norm` makes of zeros
    if there is one); in training, and wherever it cannot, padded positions hold what the layers
    computed there. This class gives the same in the same situations, which are: evaluation without
    gradients, autocast and torch.compile, `src_key_padding_mask` given and `mask` not, padding only
    behind the sequences, and layers of which the constructor thought it possible
    (`use_nested_tensor`).

    There the layers get no padding where their attention runs on seqkern's kernels. Layers that
    are not seqkern's, or that carry hooks, get padded tensors and masks, never nested tensors, and
    padded positions are set to zero at the end.
    """

    @leaf
    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        masks.check_types(src_key_padding_mask, mask, "src_key_padding_mask", "mask")
        causal = _is_causal(mask, is_causal, _length(src, self.layers))
        output = src
        valid = None
        if src_key_padding_mask is not None and self._drops_padding(src, mask, causal):
            valid = _positions(src, src_key_padding_mask, getattr(self, "mask_check", True))
        layers: Any = self.layers
        # Where no kernel runs, neither is there one for sequences without padding.
        if (
            valid is not None
            and choice.runs_directly(src)
            and all(isinstance(x, TransformerEncoderLayer) and x._takes_packed() for x in layers)
        ):
            output = _without_padding(src, valid, layers)
        else:
            for layer in layers:
                output = layer(
                    output,
                    src_mask=mask,
                    is_causal=causal,
                    src_key_padding_mask=src_key_padding_mask,
                )
            if valid is not None:
                output = output.masked_fill(~valid.unsqueeze(-1), 0)
        return output if self.norm is None else self.norm(output)

    def _drops_padding(self, src: Tensor, mask: Tensor | None, causal: bool) -> bool:
        """torch.nn.TransformerEncoder's conditions for zeros at padded positions, but for those on
        the padding mask itself."""
        first: Any = next(iter(self.layers), None)
        if (
            first is None
            or first.training
            or not getattr(self, "use_nested_tensor", False)
            or not torch.backends.mha.get_fastpath_enabled()
            or src.dim() != 3
            or src.is_nested
            or mask is not None
            or causal
            or torch.is_autocast_enabled(src.device.type)
            or torch.compiler.is_compiling()
        ):
            return False
        return not torch.is_grad_enabled() or not any(
            tensor.requires_grad for tensor in (src, *first.parameters())
        )


class TransformerDecoder(torch.nn.TransformerDecoder):
    """A stack of decoder layers (Vaswani et al. 2017), `torch.nn.TransformerDecoder`.

    Args:
        decoder_layer, num_layers, norm: as in torch.nn.TransformerDecoder.

    Call: `module(tgt, memory, tgt_mask=None, memory_mask=None, ...)`, with the shapes of
    `TransformerDecoderLayer`.

    Raises:
        AssertionError, RuntimeError, ValueError: as torch.nn.TransformerDecoder.
    """

    @leaf
    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        return super().forward(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            _is_causal(tgt_mask, tgt_is_causal, _length(tgt, self.layers)),
            memory_is_causal,
        )


class Transformer(torch.nn.Transformer):
    """Encoder and decoder (Vaswani et al. 2017), `torch.nn.Transformer`.

    Args:
        d_model, nhead, num_encoder_layers, num_decoder_layers: as in torch.nn.Transformer.
        dim_feedforward, dropout, activation, layer_norm_eps: as there.
        batch_first, norm_first, bias, device, dtype: as there.
        custom_encoder, custom_decoder: used as they are in place of the stacks.

    Call: `module(src, tgt, src_mask=None, tgt_mask=None, ...)`; src (B, S, d_model), tgt and the
    result (B, T, d_model) with batch_first, else the batch second, or without it.

    Raises:
        RuntimeError, AssertionError, ValueError: as torch.nn.Transformer.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model,
            nhead,
            num_encoder_layers,
            num_decoder_layers,
            dim_feedforward,
            dropout,
            activation,
            custom_encoder,
            custom_decoder,
            layer_norm_eps,
            batch_first,
            norm_first,
            bias,
            device,
            dtype,
        )
        if custom_encoder is None:
            _adopt(self.encoder)
        if custom_decoder is None:
            _adopt(self.decoder)

    forward = leaf(torch.nn.Transformer.forward)


_OURS: dict[type, type] = {
    torch.nn.MultiheadAttention: MultiheadAttention,
    torch.nn.TransformerEncoderLayer: TransformerEncoderLayer,
    torch.nn.TransformerDecoderLayer: TransformerDecoderLayer,
    torch.nn.TransformerEncoder: TransformerEncoder,
    torch.nn.TransformerDecoder: TransformerDecoder,
}


def _adopt(module: torch.nn.Module) -> None:
    """Changes the parts that torch.nn's constructor has made, and the module, to seqkern's
    classes."""
    for part in module.modules():
        part.__class__ = _OURS.get(type(part), type(part))


def _length(sequences: Tensor, layers: Any) -> int | None:
    """The length of dense sequences; None of nested ones."""
    if sequences.is_nested:
        return None
    first = next(iter(layers), None)
    batch_first = getattr(getattr(first, "self_attn", None), "batch_first", False)
    return sequences.shape[1 if sequences.dim() == 3 and batch_first else 0]


def _is_causal(mask: Tensor | None, hint: bool | None, length: int | None) -> bool:
    """The caller's hint, or without one whether the mask excludes exactly the later positions.

    A compiled function cannot read the mask's values and takes the mask as it is.
    """
    if hint is not None:
        return hint
    if mask is None or length is None or mask.shape != (length, length):
        return False
    if torch.compiler.is_compiling():
        return False
    ahead = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu_(1)
    if mask.dtype == torch.bool:
        return torch.equal(mask, ahead)
    return torch.equal(mask, torch.zeros_like(mask).masked_fill_(ahead, float("-inf")))


def _reads_positions(attention: Any) -> bool:
    """Whether the attention adds keys of its own, which packed sequences cannot hold."""
    return attention.bias_k is not None or attention.add_zero_attn


def _positions(src: Tensor, padding: Tensor, check: bool) -> Tensor | None:
    """(B, L), True where src holds a position; None where PyTorch would keep the padding.

    It keeps it where positions come after padding (unless `check` is off) and where a floating mask
    has values other than 0 and -inf.
    """
    if padding.shape != src.shape[:2]:
        return None  # for the attention to refuse
    if padding.dtype == torch.bool:
        valid = ~padding
    else:
        valid = padding == 0
        if not bool((valid | (padding == float("-inf"))).all()):
            return None
    if check and bool((valid[:, 1:] & ~valid[:, :-1]).any()):
        return None
    return valid


def _without_padding(src: Tensor, valid: Tensor, layers: Any) -> Tensor:
    """The layers' result for the positions that are valid, and zeros elsewhere."""
    batch, length, width = src.shape
    index = valid.flatten().nonzero().squeeze(1)
    offsets = F.pad(valid.sum(1).cumsum(0), (1, 0)).cpu()
    x = src.reshape(batch * length, width).index_select(0, index)
    if x.shape[0]:
        for layer in layers:
            x = layer._forward_packed(x, offsets)
    output = x.new_zeros(batch * length, width)
    return output.index_copy_(0, index, x).view(batch, length, width)
