"""Texts: counting, encoding, sampling and n-grams."""

from seqkern.text.corpus import EncodedCorpus
from seqkern.text.encoding import encode_corpus, read_corpus
from seqkern.text.files import (
    CorpusFormatError,
    MissingTextFileError,
    TextFileError,
    TextFormatError,
)
from seqkern.text.samplers import (
    AliasTable,
    HuffmanPaths,
    alias_table,
    huffman,
    keep_probability,
)
from seqkern.text.sources import documentation_text, read_text
from seqkern.text.subwords import Bags, Subwords
from seqkern.text.vocabulary import Vocabulary

__all__ = [
    "AliasTable",
    "Bags",
    "CorpusFormatError",
    "EncodedCorpus",
    "HuffmanPaths",
    "MissingTextFileError",
    "Subwords",
    "TextFileError",
    "TextFormatError",
    "Vocabulary",
    "alias_table",
    "documentation_text",
    "encode_corpus",
    "huffman",
    "keep_probability",
    "read_corpus",
    "read_text",
]
