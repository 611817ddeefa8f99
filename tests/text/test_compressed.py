"""Texts that were compressed: read as what they are, or an error that names the file."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time

import pytest

from seqkern.core.errors import UserError
from seqkern.text import (
    TextFormatError,
    encode_corpus,
    encoding,
    opening,
    read_corpus,
    read_text,
)
from seqkern.text.opening import PlainFile
from tests.limits import HANGS

from .compressing import COMPRESS, KINDS, ZSTD_PACKAGES, compress, zstd_frame, zstd_packages
from .oracle import expected, sentences
from .test_reading import KOREAN, POEM, outcome, write
from .test_robustness import ROOT, leaves, run

TEXT = "".join(
    f"word{n % 701} 낱말{n % 97}{' ' if n % 9 else chr(10)}" for n in range(60_000)
).encode()
WANT = expected(sentences(TEXT))


@pytest.mark.parametrize("kind", KINDS)
class TestRead:
    @pytest.mark.parametrize("threads", [1, 3])
    def test_as_what_it_is(self, tmp_path, kind, threads):
        """Whatever it is called."""
        path = write(tmp_path, compress(kind, TEXT))
        assert outcome(path, min_count=1, threads=threads) == WANT

    def test_members_one_after_the_other(self, tmp_path, kind):
        """As `cat a.gz b.gz` makes them, also within a word, and empty ones."""
        parts = [TEXT[:1000], b"", TEXT[1000:1001], TEXT[1001:200_000], TEXT[200_000:], b""]
        path = write(tmp_path, b"".join(compress(kind, part) for part in parts))
        assert outcome(path, min_count=1, threads=2) == WANT

    def test_padding_after_and_between_members(self, tmp_path, kind):
        halves = [compress(kind, half) for half in (TEXT[:5000], TEXT[5000:])]
        path = write(tmp_path, halves[0] + bytes(8) + halves[1] + bytes(512))
        assert outcome(path, min_count=1) == WANT

    def test_nothing(self, tmp_path, kind):
        path = write(tmp_path, compress(kind, b""))
        assert outcome(path) == expected([])

    def test_with_a_pattern(self, tmp_path, kind):
        path = write(tmp_path, compress(kind, TEXT))
        assert outcome(path, min_count=1, pattern=r"\S+") == WANT

    def test_from_a_pipe(self, tmp_path, kind):
        for pattern in (None, r"\S+"):
            pipe = tmp_path / f"pipe{pattern is None}"
            os.mkfifo(pipe)
            data = compress(kind, TEXT)

            def feed(pipe=pipe, data=data):
                with open(pipe, "wb", buffering=0) as file:
                    for start in (0, 5, len(data) // 2):  # not even the first bytes at once
                        end = {0: 5, 5: len(data) // 2}.get(start, len(data))
                        file.write(data[start:end])
                        time.sleep(
                            0.06
                        )  # longer than the reader waits before it checks for interrupts

            writer = threading.Thread(target=feed)
            writer.start()
            found = outcome(pipe, min_count=1, pattern=pattern, threads=2)
            writer.join()
            assert found == WANT

    def test_progress_counts_the_files_own_bytes(self, tmp_path, kind):
        path = write(tmp_path, compress(kind, TEXT))
        seen = []
        read_corpus(path, progress=lambda *done: seen.append(done))[1].close()
        assert seen[-1] == (path.stat().st_size, path.stat().st_size)
        assert all(done <= total for done, total in seen)

    def test_the_other_readers(self, tmp_path, kind):
        path = write(tmp_path, compress(kind, KOREAN.encode()))
        assert read_text(path, 10**6) == KOREAN
        vocabulary, corpus = read_corpus(path, min_count=1)
        with corpus, encode_corpus(path, vocabulary) as again:
            assert again.tokens.equal(corpus.tokens)


@pytest.mark.parametrize("pattern", [None, r"\S+"])
@pytest.mark.parametrize("kind", KINDS)
class TestDamaged:
    def check(self, path, message, pattern, **options):
        with pytest.raises(TextFormatError, match=re.escape(f"cannot read {path}: ")) as caught:
            read_corpus(path, path=path.with_name("ids"), pattern=pattern, **options)
        assert isinstance(caught.value, UserError) and re.search(message, str(caught.value))
        assert leaves(path.parent) == {"text"}

    def test_cut_off(self, tmp_path, kind, pattern):
        whole = compress(kind, TEXT[:3000])
        for length in (*range(BEGIN[kind], 40), len(whole) // 2, len(whole) - 1):
            path = write(tmp_path, whole[:length])
            self.check(path, f"its {kind} data stop at byte {length}, before their end", pattern)
        path = write(tmp_path, whole + whole[:-5])
        length = 2 * len(whole) - 5
        self.check(path, f"its {kind} data stop at byte {length}, before their end", pattern)

    def test_damaged(self, tmp_path, kind, pattern):
        if kind == "zstd":
            pytest.skip("the stored blocks of these tests have no checksum")
        for place in (0.3, 0.5, 0.9):
            whole = bytearray(compress(kind, TEXT))
            whole[int(len(whole) * place)] ^= 16
            # What is damaged may claim to be longer than it is.
            message = f"its {kind} data (are damaged before|stop at) byte"
            self.check(write(tmp_path, whole), message, pattern, errors="replace")
            self.check(write(tmp_path, whole), f"(its|unless its) {kind} data ", pattern)

    def test_followed_by_something_else(self, tmp_path, kind, pattern):
        whole = compress(kind, b"some words\n" * 9)
        path = write(tmp_path, whole + b"and more words, uncompressed")
        message = f"something else follows its {kind} data at byte {len(whole)}$"
        self.check(path, message, pattern)


# How many bytes tell what a file is.
BEGIN = {"gzip": 3, "bzip2": 10, "xz": 6, "zstd": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_utf8_in_it(tmp_path, kind):
    path = write(tmp_path, compress(kind, b"one\ntwo \xb0\xa1\xb3\n"))
    place = "line 2, byte 8 after decompression: 0xb0 0xa1 0xb3 0x0a is no UTF-8"
    for pattern in (None, r"\w+"):
        with pytest.raises(TextFormatError, match=place):
            read_corpus(path, pattern=pattern)
    assert outcome(path, min_count=1, errors="replace").words == ["one", "two", "\ufffd" * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_constant(tmp_path, kind):
    """40 MB of text in a file of some kilobytes."""
    data = compress(kind, b"some more words\n" * 2**16)
    path = write(tmp_path, data * 40)
    program = (
        "import resource, sys; from seqkern.text import read_corpus;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "v, c = read_corpus(sys.argv[1], threads=2, path=sys.argv[2]); print(v.total_words);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = run(program, path, tmp_path / "ids")
    words, grown = map(int, done.stdout.split())
    assert words == 3 * 40 * 2**16
    assert grown < 20 * 1024  # kilobytes


WAITING = """
import signal, sys
from seqkern.text import read_corpus
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
try:
    read_corpus(sys.argv[1], threads=2, progress=lambda done, total: print(done, flush=True))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_while_a_compressed_pipe_is_silent(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = [sys.executable, "-c", WAITING, str(pipe)]
    reader = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    with open(pipe, "wb") as writer:
        writer.write(compress("gzip", TEXT)[:1000])
        writer.flush()
        assert any(line == "1000\n" for line in reader.stdout)
        reader.send_signal(signal.SIGINT)
        assert reader.communicate(timeout=HANGS)[0].splitlines()[-1] == "interrupted"


class TestZstd:
    def test_without_a_package_the_error_names_one(self, tmp_path, monkeypatch):
        for name in ZSTD_PACKAGES:
            monkeypatch.setitem(sys.modules, name, None)
        path = write(tmp_path, zstd_frame(TEXT))
        message = f"cannot read {path}: it is compressed with zstd; install .* zstandard"
        for pattern in (None, r"\w+"):
            with pytest.raises(TextFormatError, match=message):
                read_corpus(path, pattern=pattern)

    @pytest.mark.skipif(not zstd_packages(), reason="no package that reads zstd")
    @pytest.mark.parametrize("package", ZSTD_PACKAGES)
    def test_each_package(self, tmp_path, monkeypatch, package):
        if package not in zstd_packages():
            pytest.skip(f"{package} is not installed")
        for name in ZSTD_PACKAGES:
            if name != package:
                monkeypatch.setitem(sys.modules, name, None)
        skipped = struct.pack("<2I", 0x184D2A53, 9) + b"skip this"
        parts = [skipped, zstd_frame(TEXT[:99_999]), skipped, zstd_frame(TEXT[99_999:])]
        assert outcome(write(tmp_path, b"".join(parts)), min_count=1) == WANT
        with pytest.raises(TextFormatError, match="its zstd data stop at byte"):
            read_corpus(write(tmp_path, zstd_frame(TEXT)[:-1]))
        with pytest.raises(TextFormatError, match="its zstd data are damaged before byte"):
            read_corpus(write(tmp_path, b"\x28\xb5\x2f\xfd" + b"\xff" * 100))


@pytest.mark.parametrize("module", ["zlib", "bz2", "lzma"])
def test_a_python_without_the_module(tmp_path, monkeypatch, module):
    """Some are built without."""
    kind = {"zlib": "gzip", "bz2": "bzip2", "lzma": "xz"}[module]
    path = write(tmp_path, compress(kind, TEXT))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TextFormatError, match=f"with {kind}; this Python was built without"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x01\0", "a rar archive"),
        (b"LZIP\x01\x0c", "lzip"),
        (b"\x04\x22\x4d\x18\x64", "LZ4"),
        (b"\x1f\x9d\x90", "compress"),
        (b"\x5d\0\0\x80\0\xff\xff", "lzma"),
    ],
)
def test_what_is_not_read(tmp_path, beginning, message):
    path = write(tmp_path, beginning + b" words of a text" * 9)
    for errors in ("strict", "replace"):
        with pytest.raises(
            TextFormatError, match=f"its first bytes are those of {message}; unpack it first"
        ):
            read_corpus(path, errors=errors)


def test_words_that_begin_as_archives_do(tmp_path):
    for text in ("BZh9 is a word", "BZh91AY&S is one, too", "PK and 7z", "LZIP", POEM):
        assert outcome(write(tmp_path, text), min_count=1) == expected(sentences(text.encode()))


@pytest.mark.parametrize("kind", [None, *COMPRESS])
def test_a_tar_archive(tmp_path, kind):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        (tmp_path / "member").write_text(POEM)
        archive.add(tmp_path / "member")
    data = made.getvalue() if kind is None else compress(kind, made.getvalue())
    with pytest.raises(TextFormatError, match="it is a tar archive; unpack it first"):
        read_corpus(write(tmp_path, data))


def test_a_stream_is_read_again_from_its_beginning(tmp_path):
    path = write(tmp_path, compress("gzip", TEXT))
    with PlainFile(path) as file:
        assert file.compression == "gzip" and file.stream.seekable()
        assert file.stream.read(300_000) == TEXT[:300_000]
        file.stream.seek(0)
        assert file.stream.read() == TEXT and file.taken == file.size
        with pytest.raises(io.UnsupportedOperation):
            file.stream.seek(10)


@pytest.mark.parametrize("chunk", [4, 1000])
def test_small_steps(tmp_path, monkeypatch, chunk):
    """Everything comes in pieces of a few bytes: members' ends, words, characters."""
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    monkeypatch.setattr(opening, "_PIECE", 7)
    text = TEXT[:4000]
    for kind in COMPRESS:
        data = compress(kind, text[:1234]) + compress(kind, text[1234:])
        found = outcome(write(tmp_path, data), min_count=1, threads=2, errors="replace")
        assert found == expected(sentences(text))
