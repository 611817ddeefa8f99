"""A computation in a process, in a child forked from it, and in the process once more."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from tests.limits import HANGS


def results_around_a_fork(run: Callable[..., float], *args: Any) -> tuple[float, float, float]:
    """What `run(*args)` returns with two threads, then in a forked child, then with two again.

    In a new process, for what other tests did shall not matter: where a fake tensor came before the
    first backward, a PyTorch built for CUDA allows a child no backward, without a GPU, too.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as new_process:
        return new_process.submit(_around_a_fork, run, *args).result()


def _around_a_fork(run: Callable[..., float], *args: Any) -> tuple[float, float, float]:
    torch.set_num_threads(2)
    before = run(*args)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, run, *args))
    child.start()
    try:
        child.join(HANGS)
        assert child.exitcode == 0, f"the child's exit code is {child.exitcode}"
        found = queue.get()
    finally:
        child.kill()
    return before, found, run(*args)


def _in_child(queue: Any, run: Callable[..., float], *args: Any) -> None:
    torch.set_num_threads(1)  # as a DataLoader does in its workers: OpenMP does not survive a fork
    queue.put(run(*args))
