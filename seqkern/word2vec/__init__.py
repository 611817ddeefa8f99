"""Word vectors: training, queries, evaluation, files."""

from seqkern.word2vec.corpora import CorpusError
from seqkern.word2vec.divergence import DivergenceError
from seqkern.word2vec.fasttext import FastText
from seqkern.word2vec.formats import FormatError
from seqkern.word2vec.keyed_vectors import KeyedVectors
from seqkern.word2vec.model import Word2Vec
from seqkern.word2vec.progress import Progress
from seqkern.word2vec.subword_vectors import FastTextKeyedVectors

__all__ = [
    "CorpusError",
    "DivergenceError",
    "FastText",
    "FastTextKeyedVectors",
    "FormatError",
    "KeyedVectors",
    "Progress",
    "Word2Vec",
]
