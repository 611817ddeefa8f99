"""seqkern's drop-in modules: the names of `torch.nn`, with the same behaviour."""

from seqkern.attention.modules import MultiheadAttention
from seqkern.attention.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from seqkern.embedding.modules import CBOW, SkipGram, SubwordEmbedding
from seqkern.nn import explaining as _explaining  # noqa: F401  (registers with seqkern.explain)
from seqkern.nn import explaining_attention_modules as _explaining_too  # noqa: F401
from seqkern.nn import explaining_embedding as _explaining_words  # noqa: F401
from seqkern.nn import functional
from seqkern.recurrent.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = [
    "CBOW",
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "MultiheadAttention",
    "RNNCell",
    "SkipGram",
    "SubwordEmbedding",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "functional",
]
