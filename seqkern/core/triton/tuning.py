"""Choosing among a few ways to launch a GPU kernel by timing them, where the user asks.

A kernel comes with a short list of candidates that compute the same, tile sizes for instance. The
first is the fixed choice, and what runs unless tuning is on: nothing stalls a first call, and a
program gives the same bits in every run. `tune` or the variable SEQKERN_TUNE=1 turns tuning on.
Then the first call that is large enough to be timed runs every candidate a dozen times, and the
fastest is kept, in memory and in a small file of its own, for as long as GPU, Triton and seqkern
are the same ones. Batches and lengths are in no key: what comes later is not timed again.

The files lie in `folder()`, one for each key, readable by people. One that is damaged, foreign or
not to be written is passed over with one warning: the worst that a file can do is to name another
candidate. Several processes may tune at once; each writes whole files, and the last one stays.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
import stat
import statistics
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from seqkern.core.atomic_file import whole_file
from seqkern.core.errors import SettingError
from seqkern.core.thread_setting import Choice, ThreadSetting

ENVIRONMENT_VARIABLE = "SEQKERN_TUNE"
FOLDER_VARIABLE = "SEQKERN_CACHE_DIR"
_ROUNDS = 10
_LARGEST_FILE = 1 << 16  # bytes; ours have a few hundred

Candidate = TypeVar("Candidate", bound="tuple[Any, ...]")


def _default() -> bool:
    word = os.environ.get(ENVIRONMENT_VARIABLE) or "0"
    if word not in ("0", "1"):
        raise SettingError(f"{ENVIRONMENT_VARIABLE}: must be 0 or 1, got {word!r}")
    return word == "1"


wanted = ThreadSetting(_default())


class tune(Choice[bool]):
    """Turns tuning of the Triton kernels on or off in this thread.

    As a function it holds until the next time, as a context manager until the end of the block::

        seqkern.tune()
        with seqkern.tune(False):
            ...

    While it is on, the first large enough call of a kernel on a GPU takes seconds: it compiles and
    times each of a few tile sizes. The choice is kept on disk and in later processes used, where
    tuning is on, without timing. Results then differ from those of the fixed tiles by rounding, and
    so may those of two GPUs or two installations. Under torch.use_deterministic_algorithms(True)
    nothing is tuned and the fixed choice runs.

    Args:
        on: whether to tune.

    The environment variable SEQKERN_TUNE (0 or 1), read at import, gives the default for all
    threads; SEQKERN_CACHE_DIR names the folder of the choices, by default
    $XDG_CACHE_HOME/seqkern or ~/.cache/seqkern.

    Raises:
        TypeError: `on` is not a bool.
    """

    def __init__(self, on: bool = True) -> None:
        if not isinstance(on, bool):
            raise TypeError(f"tune: on must be True or False, got {on!r}")
        super().__init__(wanted, on)


class Key(NamedTuple):
    """What a choice is good for."""

    kernel: str  # with all of a layer that it depends on: "attention keys, width 64, ..."
    gpu: str
    triton: str
    seqkern: str


# What was found in this process, and what is not on the disk; `_tuning` is held meanwhile.
_known: dict[Key, tuple[Any, ...]] = {}
_absent: set[Key] = set()
_tuning = threading.RLock()
_warned: list[str] = []


def choose(
    kernel: str,
    candidates: Sequence[Candidate],
    launch: Callable[[Candidate], object],
    device: torch.device,
    *,
    large: bool = True,
) -> Candidate:
    """The candidate with which to launch a kernel; the caller then launches it.

    Args:
        kernel: its name and all that the choice depends on, without batch and lengths.
        candidates: tuples of integers, the fixed choice first.
        launch: runs the kernel with a candidate. It fills all of its results anew each time, so
            that it may run any number of times on the call's own tensors.
        large: whether this call is large enough to be timed. One that is not takes what is known.
    """
    if len(candidates) == 1 or not wanted.value or refusal(device):
        return candidates[0]
    key = Key(kernel, gpu(device), _version("triton"), _version("seqkern"))
    found = _known.get(key)
    if found is None and not torch.cuda.is_current_stream_capturing():
        with _tuning:
            found = _known.get(key) or _found(key, candidates, launch, large)
    return next((c for c in candidates if c == found), candidates[0])


def refusal(device: torch.device) -> str:
    """Why the fixed choice runs on a device even where tuning is on; "" if it need not.

    A CUDA graph that is being captured is no reason: it takes what its warm-up found, or the fixed
    choice. It is only that nothing is read or timed meanwhile.
    """
    if device.type != "cuda":
        return f"only a CUDA GPU is tuned for, not {device}"
    if torch.are_deterministic_algorithms_enabled():
        return "torch.use_deterministic_algorithms is on"
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    return ""


def state() -> str:
    """For `python -m seqkern info`."""
    if not wanted.value:
        return f"off, fixed tile sizes ({ENVIRONMENT_VARIABLE}=1 or seqkern.tune() turns it on)"
    try:
        where = folder()
        return f"on, {len(list(where.glob('*.json')))} choices in {where}"
    except OSError as error:
        return f"on, without a cache: {error}"


def folder() -> Path:
    """Where the choices lie, whether it exists or not.

    Raises:
        OSError: this user has no home.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute() / "tuning"
    shared = os.environ.get("XDG_CACHE_HOME") or ""
    if os.path.isabs(shared):  # others are to be ignored, says the XDG specification
        return Path(shared) / "seqkern" / "tuning"
    try:
        return Path.home() / ".cache" / "seqkern" / "tuning"
    except RuntimeError as error:
        raise OSError(f"no home folder: {error}; {FOLDER_VARIABLE} can name one") from error


@functools.cache
def gpu(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device))


def milliseconds(launches: Sequence[Callable[[], object]]) -> list[float]:
    """The median time of each on the current stream, in turns, so that all meet the same weather.
    The first round compiles and the second one warms up. What takes more shared memory than this
    GPU has is infinitely slow."""
    from triton.runtime.errors import OutOfResources

    spans: list[list[tuple[Any, Any]]] = [[] for _ in launches]
    too_large = set()
    for number in range(_ROUNDS + 2):
        for place, launch in enumerate(launches):
            if place in too_large:
                continue
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            try:
                launch()
            except OutOfResources:
                too_large.add(place)
                continue
            stop.record()
            if number >= 2:
                spans[place].append((start, stop))
    torch.cuda.current_stream().synchronize()
    return [
        statistics.median(a.elapsed_time(b) for a, b in own) if own else math.inf for own in spans
    ]


def _found(
    key: Key,
    candidates: Sequence[Candidate],
    launch: Callable[[Candidate], object],
    large: bool,
) -> Candidate | None:
    """From the disk, or by timing; None where neither can be."""
    found = None if key in _absent else _read(key, candidates)
    if found is None:
        _absent.add(key)
        if not large:
            return None
        times = milliseconds([functools.partial(launch, c) for c in candidates])
        found = candidates[times.index(min(times))]
        _write(key, found, {str(list(c)): t for c, t in zip(candidates, times, strict=True)})
    _known[key] = found
    return found


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _path(key: Key) -> Path:
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{key.kernel} {key.gpu}")[:100]
    return folder() / f"{name}.{hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:16]}.json"


def _read(key: Key, candidates: Sequence[Candidate]) -> Candidate | None:
    """What the file of a key names, if that is a candidate. None where there is no file."""
    try:
        path = _path(key)
        # A pipe would keep us waiting, and something endless fill the memory.
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST_FILE:
            raise ValueError("no file of seqkern's")
        found = json.loads(path.read_bytes())
        if found["key"] != key._asdict():
            raise ValueError("of another key")
        named = found["chosen"]
        for candidate in candidates:
            if list(candidate) == named:
                return candidate
        raise ValueError(f"it names no candidate: {str(named)[:80]}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        _warn(f"cannot use a tuning choice, it is timed again: {_said(error)}")
        return None


def _write(key: Key, chosen: Candidate, times: dict[str, float]) -> None:
    record = {"key": key._asdict(), "chosen": list(chosen), "milliseconds": times}
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, sync=False) as file:
            file.write(json.dumps(record, indent=1).encode() + b"\n")
    except OSError as error:
        _warn(f"cannot keep a tuning choice, each process will time its own: {_said(error)}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _warn(message: str) -> None:
    """Once in a process."""
    if not _warned:
        _warned.append(message)
        warnings.warn(f"seqkern: {message}", RuntimeWarning, stacklevel=2)
