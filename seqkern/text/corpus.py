"""A text as word ids, memory-mapped from disk."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from seqkern.core.atomic_file import FilePath
from seqkern.core.library import require_text
from seqkern.text.files import CorpusFormatError, file_error

HEADER_BYTES = 64
# MAP_NORESERVE, so that a file larger than memory can be mapped; Python names it from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


@dataclass(frozen=True)
class Sizes:
    """What the header of an encoded corpus says."""

    entries: int
    words: int
    sentences: int
    vocabulary: int


class EncodedCorpus:
    """The ids of the known words of a text, with -1 after each sentence.

    It is made by `read_corpus` and `encode_corpus`, or by `EncodedCorpus.open`. The ids stay on
    disk: they are mapped into memory, privately, so writing to `tokens` never changes the file.
    The file must stay as it is while it is mapped; a process that reads pages which were cut off
    the file meanwhile is killed by the system (SIGBUS), as with every mapped file.

    A corpus that was made without a path is in a file without a name, which takes disk space as
    long as the object or a tensor made of it lives, or the process at the latest. As a context
    manager a corpus closes itself.

    Args:
        path, sizes, tokens, text_words, text_sentences: what those functions found; the constructor
            is theirs.

    Attributes:
        tokens: int32 tensor (n,): word ids, and -1 at the end of each sentence, also of the last.
        num_tokens: how many of them are word ids.
        num_sentences: how many are -1. Sentences of unknown words only are not there.
        vocabulary_size: every id is below.
        path: the file; None for one without a name.
        text_words, text_sentences: how many words and sentences the text has, unknown words
            included; None for an opened file, which does not say.
    """

    def __init__(
        self,
        path: Path | None,
        sizes: Sizes,
        tokens: Tensor,
        *,
        text_words: int | None = None,
        text_sentences: int | None = None,
    ) -> None:
        self.path = path
        self.text_words = text_words
        self.text_sentences = text_sentences
        self.num_tokens = sizes.words
        self.num_sentences = sizes.sentences
        self.vocabulary_size = sizes.vocabulary
        self._tokens: Tensor | None = tokens

    @classmethod
    def open(cls, path: FilePath, *, vocabulary_size: int | None = None) -> EncodedCorpus:
        """Maps a file that `read_corpus` or `encode_corpus` wrote.

        The whole file is read once and checked before it is mapped: header, sizes, that every id
        is a word's, and a checksum.

        Args:
            path: the file.
            vocabulary_size: how many words the vocabulary has that is used with it.

        Raises:
            TextFileError: the file cannot be read; MissingTextFileError if it is not there. Both
                are OSErrors.
            CorpusFormatError: it is no encoded corpus, was cut off or changed, or has ids beyond
                `vocabulary_size`. The message says what was found, at which byte.
            RuntimeError: the text core is not built.
        """
        path = Path(path)
        check = require_text().check_corpus
        try:
            # Not blocking, so that a pipe is an error instead of a wait.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise file_error("read the encoded corpus", path, error) from error
        try:
            try:
                wrong, *numbers = check(descriptor)
            except OSError as error:
                raise file_error("read the encoded corpus", path, error) from error
            if wrong:
                raise CorpusFormatError(f"the encoded corpus {path} {wrong}")
            sizes = Sizes(*numbers)
            if vocabulary_size is not None and sizes.vocabulary > vocabulary_size:
                raise CorpusFormatError(
                    f"the encoded corpus {path} was made with a vocabulary of {sizes.vocabulary} "
                    f"words; the one used with it has {vocabulary_size}"
                )
            return cls(path, sizes, map_tokens(descriptor, sizes.entries, path))
        finally:
            os.close(descriptor)

    @property
    def tokens(self) -> Tensor:
        if self._tokens is None:
            raise ValueError(f"the encoded corpus {self.path or 'without a name'} is closed")
        return self._tokens

    def close(self) -> None:
        """Closes the file. Tensors made of `tokens` stay valid."""
        self._tokens = None

    def __enter__(self) -> EncodedCorpus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"EncodedCorpus({self.path and str(self.path)!r}, {self.num_tokens:,} words in"
            f" {self.num_sentences:,} sentences)"
        )


def map_tokens(descriptor: int, entries: int, path: Path | None) -> Tensor:
    """The ids of an encoded corpus: int32 (entries,), which keep the file when it is closed.

    Args:
        descriptor: of the file.
        entries: how many numbers follow its header.
        path: of the file, for errors; None where it has none.
    """
    if entries == 0:
        return torch.empty(0, dtype=torch.int32)  # nothing cannot be mapped
    length = HEADER_BYTES + 4 * entries
    name = path or "without a name"
    try:
        # Written pages become private to this process; torch has no read-only tensors.
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(descriptor, length, flags=flags, prot=protection)
    except ValueError as error:  # mmap's error for a file shorter than `length`
        raise CorpusFormatError(f"the encoded corpus {name} shrank: {error}") from error
    except OSError as error:
        raise file_error("map the encoded corpus", name, error) from error
    return torch.frombuffer(mapped, dtype=torch.int32, count=entries, offset=HEADER_BYTES)
