"""Disks that are too small, or no disks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqkern.text import TextFileError, read_corpus, room
from tests.limits import HANGS

from .compressing import KINDS, compress
from .test_reading import write
from .test_robustness import ROOT, leaves

SHARED_MEMORY = Path("/dev/shm")
LINE = b"some words and some more of them, eight now\n"  # 9 words


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk, as large as its tests say, for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    real = os.statvfs
    made = SimpleNamespace(folder=folder, free=0)

    def statvfs(path):
        if Path(path) != folder:
            return real(path)
        return SimpleNamespace(f_bavail=made.free // 512, f_frsize=512)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return made


@pytest.fixture
def nothing_is_read(monkeypatch):
    def fail(*_):
        raise AssertionError("the work began")

    monkeypatch.setattr("seqkern.text.encoding._Encoding._split_lines", fail)
    monkeypatch.setattr("seqkern.text.encoding._Encoding._match_lines", fail)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_too_small_is_an_error_before_the_work(tmp_path, disk, kind, nothing_is_read):
    """40,000 lines: 400,000 numbers of 4 bytes, twice."""
    draw = random.Random(0)
    data = b"".join(
        b" ".join(b"%x" % draw.getrandbits(40) for _ in range(9)) + b"\n" for _ in range(40_000)
    )
    path = write(tmp_path, data if kind is None else compress(kind, data))
    for free in (0, 1_000_000, 2_000_000):
        disk.free = free
        with pytest.raises(TextFileError, match=rf"encoding {path} takes about 3\.\d MB") as caught:
            read_corpus(path)
        message = str(caught.value)
        assert message.startswith(f"cannot write the encoded corpus in {disk.folder}: ")
        assert f"but {free / 1e6:.1f} MB are free. The environment variable TMPDIR" in message
        assert caught.value.errno == 28
    disk.free = 4_000_000
    with pytest.raises(AssertionError, match="the work began"):
        read_corpus(path)


def test_by_the_words_of_a_pattern(tmp_path, disk, nothing_is_read):
    path = write(tmp_path, LINE * 40_000)
    disk.free = 4_000_000
    with pytest.raises(TextFileError, match=r"takes about 1\d\.\d MB"):
        read_corpus(path, pattern=r"\w")
    with pytest.raises(AssertionError, match="the work began"):
        read_corpus(path, pattern=r"\w+ \w+")


def test_beside_a_path_that_is_given(tmp_path, disk):
    path = write(tmp_path, LINE * 40_000)
    with pytest.raises(TextFileError, match="Another path may lie on another disk"):
        read_corpus(path, path=disk.folder / "ids")
    assert leaves(disk.folder) == set()
    read_corpus(path, path=tmp_path / "ids")[1].close()


def test_what_is_exactly_needed_before_the_corpus_is_written(disk, tmp_path):
    """The number of sentences is not known."""
    disk.free = 9_000
    with pytest.raises(TextFileError, match=r"it takes 0\.0 MB more, but 0\.0 MB are free"):
        read_corpus((["a", "b", "c"] for _ in range(1000)), min_count=1)
    disk.free = 13_000
    read_corpus((["a", "b", "c"] for _ in range(1000)), min_count=1)[1].close()


# A disk of 2 MB, made in a namespace of mounts of its own where that is allowed.
FULL = """
mount -t tmpfs -o size=2m none {folder} && TMPDIR={folder} exec {python} -W ignore -c '
from seqkern.text import TextFileError, read_corpus
for source in ([["word"] * 3] * 350_000, "{text}"):
    try:
        read_corpus(source, threads=2)
    except TextFileError as error:
        print(error, error.errno)
'
"""


def test_a_disk_that_is_full(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    text = write(tmp_path, LINE * 100_000)
    script = FULL.format(folder=folder, python=sys.executable, text=text)
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    sentences, file = done.stdout.splitlines()
    beginning = f"cannot write the encoded corpus in {folder}: "
    assert sentences.startswith(f"{beginning}No space left on device; "), done.stderr
    assert " MB are free, and the corpus takes as much again. The environment" in sentences
    assert file.startswith(f"{beginning}encoding {text} takes about 8.0 MB there, of which half")


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="no folder in memory")
class TestInMemory:
    @pytest.fixture(autouse=True)
    def folder(self, monkeypatch):
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
            monkeypatch.setattr(tempfile, "tempdir", folder)
            yield folder

    @pytest.mark.parametrize("kind", [None, "gzip"])
    def test_a_large_text(self, tmp_path, monkeypatch, folder, kind):
        monkeypatch.setattr(room, "LARGE", 100_000)
        data = LINE * 2_000
        path = write(tmp_path, data if kind is None else compress(kind, data))
        message = rf"takes? about 0.2 MB of memory: {folder} is no disk \(tmpfs\). .*TMPDIR"
        with pytest.warns(UserWarning, match=message) as caught:
            read_corpus(path)[1].close()
        assert len(caught) == 1

    def test_many_sentences(self, monkeypatch):
        monkeypatch.setattr(room, "LARGE", 200_000)
        with pytest.warns(UserWarning, match=r"takes 0\.\d MB of memory") as caught:
            read_corpus(["some", "words", str(n)] for n in range(60_000))[1].close()
        assert len(caught) == 1

    def test_a_pipe(self, tmp_path, monkeypatch):
        monkeypatch.setattr(room, "LARGE", 200_000)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(LINE * 9_000,))
        writer.start()
        with pytest.warns(UserWarning, match=r"takes 0\.\d MB of memory"):
            read_corpus(pipe)[1].close()
        writer.join()

    def test_a_small_one_is_no_news(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_corpus(write(tmp_path, LINE * 1000))[1].close()


def test_a_disk_is_no_news(tmp_path, monkeypatch):
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    kinds = {line.split()[4]: line.split(" - ")[1].split()[0] for line in lines}
    mount = max((m for m in kinds if f"{tmp_path}".startswith(m.rstrip("/") + "/")), key=len)
    if kinds[mount] in ("tmpfs", "ramfs"):
        pytest.skip("the tests' own folder is in memory")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "LARGE", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_corpus(write(tmp_path, LINE * 1000))[1].close()
