"""seqkern's drop-in modules: the names of `torch.nn`, with the same behaviour."""

from seqkern.nn import explaining as _explaining  # noqa: F401  (registers with seqkern.explain)
from seqkern.nn import functional
from seqkern.recurrent.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "functional"]
