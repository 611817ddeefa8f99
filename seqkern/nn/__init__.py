"""seqkern's drop-in modules: the names of `torch.nn`, with the same behaviour."""

from seqkern.attention import explain as _attention  # noqa: F401  (registers with seqkern.explain)
from seqkern.attention.modules import MultiheadAttention
from seqkern.attention.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from seqkern.embedding import explain as _embedding  # noqa: F401
from seqkern.embedding.modules import CBOW, SkipGram, SubwordEmbedding
from seqkern.nn import functional
from seqkern.recurrent import explain as _recurrent  # noqa: F401
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
