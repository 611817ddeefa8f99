"""Compressed files of every kind that can be written here."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from functools import partial
from importlib import import_module

import pytest

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": partial(lzma.compress, preset=0),
}
ZSTD_PACKAGES = ("compression.zstd", "backports.zstd", "pyzstd", "zstandard")


def zstd_frame(data: bytes) -> bytes:
    """A frame of blocks that are stored as they are: zstd's format without a compressor (RFC 8878,
    "Zstandard Compression and the application/zstd Media Type")."""
    size = 2**16
    blocks = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    body = b"".join(
        (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
        for number, block in enumerate(blocks)
    )
    # A single segment, whose size has 8 bytes.
    return b"\x28\xb5\x2f\xfd" + b"\xe0" + len(data).to_bytes(8, "little") + body


def zstd_packages() -> list[str]:
    """Those that are installed."""
    found = []
    for name in ZSTD_PACKAGES:
        try:
            import_module(name)
        except ImportError:
            continue
        found.append(name)
    return found


KINDS = [
    *COMPRESS,
    pytest.param(
        "zstd",
        marks=pytest.mark.skipif(not zstd_packages(), reason="no package that reads zstd"),
    ),
]


def compress(kind: str, data: bytes) -> bytes:
    return zstd_frame(data) if kind == "zstd" else COMPRESS[kind](data)
