"""Faulty texts, disks and users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from seqkern.core.errors import UserError
from seqkern.text import (
    EncodedCorpus,
    MissingTextFileError,
    TextFileError,
    encoding,
    read_corpus,
)
from tests.limits import HANGS

from .oracle import LONGEST_WORD, expected, sentences
from .test_reading import outcome, write

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)


# ---- odd texts ----


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xef\xbb\xbfone two", ["one", "two"]),
        (b"one\xef\xbb\xbf two", ["one\ufeff", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"a\0b \0 \0", ["\0", "a\0b"]),
        (b"a a\0 a\0\0 a\0\0", ["a\0\0", "a", "a\0"]),
        (b"x\xffy x\xfey \xe2\x82 \xed\xa0\x80", ["x\ufffdy", "\ufffd", "\ufffd\ufffd\ufffd"]),
        (b"\xef\xbf\xbd \xff", ["\ufffd"]),
    ],
)
def test_odd_bytes(tmp_path, data, words):
    found = outcome(write(tmp_path, data), min_count=1, errors="replace")
    assert found.words == words
    assert found == expected(sentences(data))


@pytest.mark.parametrize("length", [LONGEST_WORD - 1, LONGEST_WORD, LONGEST_WORD + 1, 400_000])
@pytest.mark.parametrize("character", ["x", "é", "한"])
@pytest.mark.parametrize("chunk", [1000, 2**18])
def test_words_are_cut(tmp_path, monkeypatch, length, character, chunk):
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    long = (character * length).encode()[:length]
    data = b"start " + long + "\u3000and\n".encode() + long + b" end"
    words = [b"start", long[:LONGEST_WORD], b"and", b"end"]
    kept = [word.decode("utf-8", "replace") for word in words]
    # Where U+FFFD does not fit any more it is left out.
    kept = [word.encode()[:LONGEST_WORD].decode("utf-8", "ignore") for word in kept]
    want = expected([[kept[0], kept[1], kept[2]], [kept[1], kept[3]]])
    path = write(tmp_path, data)
    assert outcome(path, min_count=1, threads=2, errors="replace") == want
    if len(long) == length == len(long.decode("utf-8", "ignore").encode()):
        assert outcome(path, min_count=1, threads=2) == want
    words_given = [[w.decode("utf-8", "ignore") for w in (b"start", long)]]
    assert len(outcome(words_given, min_count=1).words[1].encode()) <= LONGEST_WORD


def test_a_line_of_100_megabytes(tmp_path):
    data = b"some more words " * (100 * 2**20 // 16) + "one last\n두 번째 줄".encode()
    vocabulary, corpus = read_corpus(write(tmp_path, data), min_count=1, threads=2)
    with corpus:
        assert vocabulary.total_words == 3 * (100 * 2**20 // 16) + 5
        assert vocabulary.total_sentences == 2
        assert corpus.num_sentences == -(-(vocabulary.total_words - 3) // 10_000) + 1
        assert vocabulary.words[:3] == ["more", "some", "words"]


def test_a_word_of_100_megabytes(tmp_path):
    data = b"a " + b"x" * (100 * 2**20) + b" b"
    program = (
        "import resource, sys; from seqkern.text import read_corpus;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "v, c = read_corpus(sys.argv[1], min_count=1, threads=2);"
        "print([w[:3] for w in v], [len(w) for w in v], c.tokens.tolist());"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = run(program, write(tmp_path, data))
    shown, grown = done.stdout.splitlines()
    assert shown == "['a', 'b', 'xxx'] [1, 1, 65536] [0, 2, 1, -1]"
    assert int(grown) < 50 * 1024  # kilobytes


@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n \r\n"])
def test_nothing_to_read(tmp_path, content):
    vocabulary, corpus = read_corpus(write(tmp_path, content), path=tmp_path / "ids")
    assert (len(vocabulary), vocabulary.total_words, vocabulary.total_sentences) == (0, 0, 0)
    assert corpus.tokens.shape == (0,)
    assert EncodedCorpus.open(corpus.path).num_sentences == 0
    corpus.close()


def test_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"\xef\xbb\xbfone two\nthree " * 50_000
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    found = outcome(pipe, min_count=1, threads=2)
    writer.join()
    assert found == expected(sentences(data))


# ---- files that are missing, or vanish ----


def test_missing_text(tmp_path):
    with pytest.raises(MissingTextFileError, match="cannot read the text file .*nowhere: No such"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        read_corpus(tmp_path / "nowhere")
    assert isinstance(caught.value, UserError)
    assert caught.value.errno == 2 and caught.value.filename == str(tmp_path / "nowhere")


def test_folder_as_text(tmp_path):
    with pytest.raises(TextFileError, match="cannot read the text file .*: Is a directory"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("pattern", [None, r"\w+"])
def test_text_that_shrinks(tmp_path, monkeypatch, pattern):
    path = write(tmp_path, b"some words\n" * 200_000)
    size = path.stat().st_size
    real = os.fstat

    def cut_after_looking(descriptor):
        status = real(descriptor)
        if status.st_size == size:
            os.truncate(path, 1000)
        return status

    monkeypatch.setattr(os, "fstat", cut_after_looking)
    with pytest.raises(TextFileError, match=f"shrank from {size} to 1000 bytes while it was read"):
        read_corpus(path, path=tmp_path / "ids", pattern=pattern)
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


def test_text_that_vanishes(tmp_path):
    """An open file stays readable when its name goes."""
    data = b"some words\n" * 2_000_000
    path = write(tmp_path, data)
    vocabulary, corpus = read_corpus(path, progress=lambda *_: path.unlink(missing_ok=True))
    assert vocabulary.counts.tolist() == [2_000_000, 2_000_000]
    corpus.close()


# ---- nothing half-written ----


def leaves(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_missing_folder(tmp_path):
    with pytest.raises(TextFileError, match="encoded corpus .*nowhere/ids: No such file"):
        read_corpus([["a"]], path=tmp_path / "nowhere" / "ids")


def test_folder_in_the_place_of_the_corpus(tmp_path):
    (tmp_path / "ids").mkdir()
    with pytest.raises(
        TextFileError, match="cannot write the encoded corpus .*ids: Is a directory"
    ):
        read_corpus([["a"]], path=tmp_path / "ids")
    assert leaves(tmp_path) == {"ids"}


# RLIMIT_FSIZE fails a write as a full disk does, with another number. 350,000 sentences of 3 words
# make 5.6 MB of spool file and, each word a sentence, 8.4 MB of corpus.
FULL_DISK = """
import resource, sys
from seqkern.text import TextFileError, read_corpus
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
source = [["word"] * 3] * 350_000 if sys.argv[1] == "-" else sys.argv[1]
try:
    read_corpus(source, path=sys.argv[2], threads=2, max_sentence=1)
except TextFileError as error:
    print(error, error.errno)
"""


@pytest.mark.parametrize("limit", [100_000, 6_000_000])  # the spool file's and the corpus' turn
@pytest.mark.parametrize("kind", ["file", "iterable"])
def test_full_disk(tmp_path, kind, limit):
    source = write(tmp_path, "word word word\n" * 350_000)
    target = tmp_path / "ids"
    target.write_text("what was there before")
    done = run(FULL_DISK, "-" if kind == "iterable" else source, target, limit)
    sentence = f"cannot write the encoded corpus {target}: File too large 27\n"
    assert done.stdout == sentence, done.stderr
    assert leaves(tmp_path) == {"text", "ids"}
    assert target.read_text() == "what was there before"


def test_what_progress_raises_ends_the_reading(tmp_path):
    def stop(done: int, total: int) -> None:
        raise RuntimeError("enough")

    path = write(tmp_path, b"some words\n" * 8_000_000)
    with pytest.raises(RuntimeError, match="enough"):
        read_corpus(path, path=tmp_path / "ids", progress=stop)
    assert leaves(tmp_path) == {"text"}


# A process that was started in the background may have inherited that interrupts are ignored.
INTERRUPTED = """
import signal, sys
from seqkern.text import read_corpus
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
try:
    read_corpus(sys.argv[1], path=sys.argv[2], threads=2)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_during_a_long_count(tmp_path):
    """A pipe that never ends, so the count cannot be over before the interrupt."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [sys.executable, "-c", INTERRUPTED, str(pipe), str(tmp_path / "ids")]
    reader = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    with open(pipe, "wb") as writer:
        writer.write(b"some words\n" * 10_000)
        writer.flush()
        time.sleep(0.3)
        reader.send_signal(signal.SIGINT)
        assert reader.communicate(timeout=HANGS)[0] == "interrupted\n"
    assert leaves(tmp_path) == {"pipe"}


# ---- temporary files ----


def test_a_temporary_corpus_has_no_name(tmp_path, monkeypatch):
    """So no end of the process leaves it behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, corpus = read_corpus([["a"]], min_count=1)
    assert corpus.path is None and leaves(tmp_path) == set()
    tokens = corpus.tokens
    assert "without a name" not in repr(corpus)
    corpus.close()
    corpus.close()
    assert tokens.tolist() == [0, -1]
    with pytest.raises(ValueError, match="the encoded corpus without a name is closed"):
        _ = corpus.tokens


def test_a_temporary_corpus_gives_its_room_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def held() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").open())

    _, corpus = read_corpus([["a"]], min_count=1)
    assert held() == 1
    del corpus
    assert held() == 0


KILLED = """
import sys, tempfile
from seqkern.text import read_corpus
from seqkern.word2vec import Word2Vec
tempfile.tempdir = sys.argv[1]
model = Word2Vec([["a", "b"]] * 1000, vector_size=4)
print("trained", flush=True)
read_corpus(sys.argv[2], threads=2, progress=lambda done, total: print(done, flush=True))
"""


def test_a_killed_process_leaves_no_file(tmp_path):
    """While it holds an encoded corpus and reads another text, whose numbers are spooled."""
    folder, pipe = tmp_path / "temporary", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    words = [sys.executable, "-c", KILLED, str(folder), str(pipe)]
    reader = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "trained\n"
    with open(pipe, "wb") as writer:
        writer.write(b"some words\n" * 100_000)
        writer.flush()
        while int(reader.stdout.readline()) < 1_000_000:
            pass
        reader.kill()
        reader.wait(HANGS)
    reader.stdout.close()
    assert leaves(folder) == set()


def test_named_corpus_stays(tmp_path):
    with read_corpus([["a"]], min_count=1, path=tmp_path / "ids")[1] as corpus:
        corpus.tokens[0] = 7  # a private mapping: the file does not change
    assert EncodedCorpus.open(tmp_path / "ids").tokens.tolist() == [0, -1]
