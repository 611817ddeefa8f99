"""From a text to a vocabulary and an encoded corpus, in one pass over the text."""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

import torch

from seqkern.core.atomic_file import FilePath
from seqkern.core.library import require_text
from seqkern.text.corpus import EncodedCorpus, Sizes, map_tokens
from seqkern.text.files import TextFileError, file_error, whole_file
from seqkern.text.opening import PlainFile, check_is_text, undecodable
from seqkern.text.room import Room
from seqkern.text.vocabulary import Vocabulary, check_limits

Source = FilePath | Iterable[Iterable[str]]
Progress = Callable[[int, int], None]

_BETWEEN_REPORTS = 1000  # sentences
# Bytes that a thread takes at a time: they, their words' numbers and the frequent words fit a
# L2 cache together.
CHUNK = 2**18
_BEGINNING = 2**12  # bytes by which a text is told from something else
_REMEDY = ', or pass errors="replace" to read U+FFFD there'


def read_corpus(
    source: Source,
    *,
    min_count: int = 5,
    max_vocab: int | None = None,
    pattern: str | re.Pattern[str] | None = None,
    max_sentence: int = 10_000,
    path: FilePath | None = None,
    errors: str = "strict",
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Vocabulary, EncodedCorpus]:
    """Counts the words of a text and encodes it, reading it once.

    A text file is UTF-8 with a sentence in each line, ended by a line feed. Words are what
    `str.split()` gives: separated by Unicode white space (gensim's `LineSentence` does the same;
    word2vec.c and fastText recognise less white space). A byte order mark at the beginning is
    dropped, NUL and other control characters are characters like any other, and a word is cut after
    65,536 bytes. Files that are larger than memory can be read; the different words have to fit,
    once for each thread.

    A file that gzip, bzip2, xz or zstd compressed, as its first bytes tell, is decompressed while
    it is read (zstd by a package such as `zstandard`, or by Python 3.14).

    While it works, twice four bytes for each word of the text are on disk, beside `path`.

    Args:
        source: the path of a text file (or of a pipe), or an iterable of sentences, each an
            iterable of words, which is iterated once.
        min_count: rarer words are left out.
        max_vocab: at most as many words are kept, the most frequent ones.
        pattern: a regular expression that matches words, for text files; it is matched by `re`
            against each decoded line, in one thread. This takes much longer than white space.
        max_sentence: a sentence is cut after as many known words.
        path: the encoded corpus, which is written completely or not at all. None: a temporary file
            without a name in `tempfile.gettempdir()`, which is removed with the EncodedCorpus or
            with the process, however that ends. If that folder is in memory (tmpfs) there is a
            warning where the file is large.
        errors: "strict": a text file that is no UTF-8 is an error. "replace": each ill-formed part
            becomes U+FFFD.
        threads: how many threads read the file; None: `torch.get_num_threads()`. The result is the
            same for any number.
        progress: called a few times a second with what is done and what there is to do: bytes of a
            file (as it is, compressed or not), sentences of an iterable; 0 stands for an unknown
            end. An exception that it raises ends the reading.

    Returns:
        The vocabulary, in which ids are given by falling count, ties by the bytes of the word; and
        the text's known words as ids, without sentences that have none.

    Raises:
        MissingTextFileError (a FileNotFoundError): there is no such text.
        TextFileError (an OSError): the text cannot be read, or became shorter meanwhile; the corpus
            cannot be written, because the disk is full say, or (before the text is read) because it
            is too small.
        TextFormatError (a ValueError): the text is no UTF-8, and the message says at which line and
            byte; or it is compressed and damaged, or in a way that is not known here. All three are
            UserErrors.
        TypeError: a sentence is a str, or holds something else than str.
        ValueError: an argument out of its range; a pattern for an iterable.
        RuntimeError: the text core is not built.
    """
    least, most = check_limits(min_count, max_vocab)
    with _Encoding(source, pattern, max_sentence, path, errors, threads, progress) as encoding:
        encoding.read()
        words, counts = encoding.counter.choose(least, most)
        corpus = encoding.write()
    assert corpus.text_sentences is not None
    vocabulary = Vocabulary(
        words,
        torch.from_numpy(counts),
        total_words=corpus.text_words,
        total_sentences=corpus.text_sentences,
    )
    return vocabulary, corpus


def encode_corpus(
    source: Source,
    vocabulary: Vocabulary,
    *,
    pattern: str | re.Pattern[str] | None = None,
    max_sentence: int = 10_000,
    path: FilePath | None = None,
    errors: str = "strict",
    threads: int | None = None,
    progress: Progress | None = None,
) -> EncodedCorpus:
    """Encodes a text with an existing vocabulary; other words are left out.

    Args:
        source: as in `read_corpus`.
        vocabulary: the words that are known, with their ids.
        pattern, max_sentence, path, errors, threads, progress: as in `read_corpus`.

    Returns:
        The text's known words as ids, without sentences that have none.

    Raises:
        MissingTextFileError, TextFileError, TextFormatError, TypeError, ValueError, RuntimeError:
            as `read_corpus`.
    """
    with _Encoding(source, pattern, max_sentence, path, errors, threads, progress) as encoding:
        encoding.read()
        encoding.counter.impose(vocabulary.words)
        return encoding.write()


class _Encoding:
    """A text while it is encoded: the counter with its spool file, and what names files in
    errors."""

    def __init__(
        self,
        source: Source,
        pattern: str | re.Pattern[str] | None,
        max_sentence: int,
        path: FilePath | None,
        errors: str,
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        if errors not in ("strict", "replace"):
            raise ValueError(f"errors should be 'strict' or 'replace'; it is {errors!r}")
        if max_sentence < 1:
            raise ValueError(f"max_sentence should be at least 1; it is {max_sentence}")
        if threads is not None and not 1 <= threads <= 1024:
            raise ValueError(f"threads should be None or from 1 to 1024; it is {threads}")
        is_file = isinstance(source, str | os.PathLike)
        if pattern is not None and not is_file:
            raise ValueError("pattern is for text files; an iterable has words already")
        self._source = source
        self._pattern = re.compile(pattern) if isinstance(pattern, str) else pattern
        if self._pattern is not None and not isinstance(self._pattern.pattern, str):
            raise TypeError("pattern should be a regular expression for str; it is one for bytes")
        self._max_sentence = max_sentence
        self._path = None if path is None else Path(path)
        if self._path is not None and _same_file(source, self._path):
            raise ValueError(f"path should not be the text itself; both are {self._path}")
        self._folder = Path(tempfile.gettempdir()) if self._path is None else self._path.parent
        self._strict = errors == "strict"
        self._threads = threads or torch.get_num_threads()
        self._progress = progress

    def __enter__(self) -> _Encoding:
        text = require_text()
        try:
            # Without a name from the start: it is removed with the process, however that ends.
            self._spool = tempfile.TemporaryFile(dir=self._folder)
        except OSError as error:
            target = self._path or self._folder
            raise file_error("write beside the encoded corpus", target, error) from error
        self.counter = text.Counter(self._spool.fileno())
        advice = "The environment variable TMPDIR names another folder"
        if self._path is not None:
            advice = "Another path may lie on another disk"
        self._room = Room(self._folder, self.counter.in_memory(), advice)
        return self

    def __exit__(self, *failure: object) -> None:
        self._spool.close()

    def read(self) -> None:
        source = self._source
        if isinstance(source, str | os.PathLike):
            self._read_file(Path(source))
        else:
            self._read_sentences(source)

    def _read_file(self, path: Path) -> None:
        try:
            file = PlainFile(path, patient=self._pattern is not None)
        except OSError as error:
            raise file_error("read the text file", path, error) from error
        with file, self._naming_files(path):
            if self._strict:
                check_is_text(path, file.peek(_BEGINNING))
            self._room.expect(path, file, self._pattern)
            read = self._match_lines if self._pattern else self._split_lines
            done = read(path, file)
            done = file.taken if file.compression else done
        if self._progress is not None:
            self._progress(done, file.size)
        if done < file.size:  # a file that grows meanwhile is read as far as it was seen
            raise TextFileError(
                f"the text file {path} shrank from {file.size} to {done} bytes while it was read"
            )

    def _split_lines(self, path: Path, file: PlainFile) -> int:
        """Words between white space, by the text core; returns the bytes that it read."""

        def report(done: int) -> None:
            self._room.taken(self.counter.spooled())
            if self._progress is not None:
                self._progress(file.taken if file.compression else done, file.size)

        threads = self._threads
        if file.size and not file.compression:
            threads = min(threads, file.size // CHUNK + 1)
        source, beginning = file.source
        done: int
        done, wrong = self.counter.read_text(
            source, beginning, threads, CHUNK, self._strict, report
        )
        if wrong is not None:
            byte, line, found = wrong
            raise undecodable(path, line, byte, found, compressed=file.compression, remedy=_REMEDY)
        return done

    def _match_lines(self, path: Path, file: PlainFile) -> int:
        """Words that the pattern matches; returns the bytes that were read."""
        assert self._pattern is not None
        done = 0
        for number, line in enumerate(_lines(path, file)):
            start = done
            done += len(line)
            if number == 0 and line.startswith(codecs.BOM_UTF8):
                line = line.removeprefix(codecs.BOM_UTF8)
                start += len(codecs.BOM_UTF8)
            try:
                decoded = line.decode("utf-8", "strict" if self._strict else "replace")
            except UnicodeDecodeError as error:
                raise undecodable(
                    path,
                    number + 1,
                    start + error.start,
                    line[error.start : error.start + 4],
                    compressed=file.compression,
                    remedy=_REMEDY,
                ) from error
            found = self._pattern.finditer(decoded)
            self.counter.add_sentence([match.group() for match in found if match.group()])
            if number % _BETWEEN_REPORTS == 0:
                self._room.taken(self.counter.spooled())
                if self._progress is not None:
                    self._progress(file.taken if file.compression else done, file.size)
        return done

    def _read_sentences(self, sentences: Iterable[Iterable[str]]) -> None:
        total = len(sentences) if isinstance(sentences, Sized) else 0
        number = -1
        for number, sentence in enumerate(sentences):
            if isinstance(sentence, str | bytes):
                raise TypeError(
                    f"each sentence should be a list of words; sentence {number} is"
                    f" {type(sentence).__name__}: {sentence[:40]!r}"
                )
            with self._naming_files(None):
                self.counter.add_sentence(sentence)
            if number % _BETWEEN_REPORTS == 0:
                self._room.taken(self.counter.spooled())
                if self._progress is not None:
                    self._progress(number, total)
        if self._progress is not None:
            self._progress(number + 1, total)

    def write(self) -> EncodedCorpus:
        """The encoded corpus."""
        self._room.check_corpus(self.counter.known())
        self._room.taken(2 * self.counter.spooled())
        with self._corpus_file() as descriptor:
            with self._naming_files(None):
                words, sentences, *numbers = self.counter.encode(descriptor, self._max_sentence)
            sizes = Sizes(*numbers)
            tokens = map_tokens(descriptor, sizes.entries, self._path)
        return EncodedCorpus(self._path, sizes, tokens, text_words=words, text_sentences=sentences)

    @contextmanager
    def _corpus_file(self) -> Iterator[int]:
        """The descriptor of a new file, at `path` or without a name."""
        if self._path is not None:
            with whole_file(self._path, "the encoded corpus") as descriptor:
                yield descriptor
            return
        try:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  only its own errors
        except OSError as error:
            raise self._unwritten(error) from error
        with file:
            yield file.fileno()

    @contextmanager
    def _naming_files(self, text: Path | None) -> Iterator[None]:
        """Puts names into the text core's errors, which say "source", "spool" or "corpus". Those of
        callbacks and of iterables pass as they are."""
        try:
            yield
        except OSError as error:
            if error.filename in ("spool", "corpus"):
                raise self._unwritten(error) from error
            if error.filename == "source" and text is not None:
                raise file_error("read the text file", text, error) from error
            raise

    def _unwritten(self, error: OSError) -> TextFileError:
        target = f"in {self._folder}" if self._path is None else self._path
        named = file_error("write the encoded corpus", target, error)
        if error.errno in (ENOSPC, EDQUOT):
            named.args = (f"{named}{self._room.full(self.counter.spooled())}",)
        return named


def _same_file(source: Source, path: Path) -> bool:
    if not isinstance(source, str | os.PathLike):
        return False
    return os.path.exists(source) and path.exists() and os.path.samefile(source, path)


def _lines(path: Path, file: PlainFile) -> Iterator[bytes]:
    try:
        yield from file.stream
    except TextFileError:
        raise
    except OSError as error:
        raise file_error("read the text file", path, error) from error
