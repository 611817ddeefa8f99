"""The functional form of attention, of the recurrent layers and cells, and of the losses of word
vectors. Each says in its own documentation what it takes."""

from seqkern.attention.dense import scaled_dot_product_attention
from seqkern.attention.varlen import varlen_attention
from seqkern.embedding.ops import cbow_loss, skipgram_loss
from seqkern.recurrent.functional import (
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    rnn_relu,
    rnn_relu_cell,
    rnn_tanh,
    rnn_tanh_cell,
)

__all__ = [
    "cbow_loss",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
    "scaled_dot_product_attention",
    "skipgram_loss",
    "varlen_attention",
]
