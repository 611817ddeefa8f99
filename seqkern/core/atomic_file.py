"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

FilePath = str | PathLike[str]


@contextmanager
def whole_file(path: FilePath, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A new file, to write and read, that becomes `path` at the end of the block.

    Until then it is beside it under another name. If the block raises it is deleted; if that or
    the process fails, whatever was at `path` stays as it was.

    Args:
        path: the file; a link is followed. The mode of a file that is there already is kept.
        sync: wait until all of it is on the disk, so that even if the machine stops one of the two
        is there. False for what can be recreated.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "x+b") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if target.exists():
            os.chmod(partial, target.stat().st_mode & 0o7777)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
