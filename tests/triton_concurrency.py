"""Cooperative launches in Triton's interpreter, whose programs wait for each other.

The interpreter runs one program after the other, so the first one that waits would wait for ever.
Here each program of a launch with `launch_cooperative_grid` is a thread, and one of them runs at a
time: a seed decides who is next, so a run can be repeated. Two ways show what is missing:

- in turns: memory is one, and programs take turns at every load, store and atomic operation: what
  is read before it is written, or overwritten before it is read, shows.
- apart: memory is as late as a GPU's may be at the worst. Each program has a copy of its own; a
  releasing atomic operation gives to all what the program has written, an acquiring one takes what
  others have given, and nothing else does. Programs take turns at atomic operations. A release or
  an acquire that is missing, or of one block only, shows.

What happens within a program, whose threads the interpreter does not know, does not show.
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from seqkern.core.triton import support

# Polls without anything else between them, for each program: one that could go on would have had a
# turn, but for one chance in e^50.
PATIENCE = 50


class Stuck(AssertionError):
    """All programs wait."""


class _Stopped(BaseException):
    """Another program has failed. No Exception: the interpreter would make it one of its own."""


class _Memory:
    """What a program sees of one storage, a copy of its own, and what it has written there."""

    def __init__(self, shared: np.ndarray) -> None:
        self.shared = shared
        self.start, self.end = shared.ctypes.data, shared.ctypes.data + shared.nbytes
        self.copy = shared.copy()
        self.base = shared.copy()  # the copy as it was before the program's own writes
        self.shift = self.copy.ctypes.data - self.start
        self.written: tuple[int, int] | None = None

    def write(self, first: int, last: int) -> None:
        """Addresses in the copy of the first and the last element that is written."""
        low, high = first - self.copy.ctypes.data, last + 8 - self.copy.ctypes.data
        before = self.written or (low, high)
        self.written = min(low, before[0]), min(max(high, before[1]), self.copy.nbytes)

    def give(self) -> None:
        if self.written is not None:
            part = slice(*self.written)
            new = self.copy[part] != self.base[part]
            self.shared[part][new] = self.copy[part][new]
            self.base[part] = self.copy[part]
            self.written = None

    def take(self) -> None:
        kept = None
        if self.written is not None:
            part = slice(*self.written)
            new = self.copy[part] != self.base[part]
            kept = part, new, self.copy[part][new]
        self.copy[:] = self.base[:] = self.shared
        if kept is not None:
            part, new, values = kept
            self.copy[part][new] = values


class _Program:
    def __init__(self, index: tuple[int, ...], arguments: dict[str, Any]) -> None:
        self.index = index
        self.arguments = arguments
        self.turn = threading.Semaphore(0)
        self.memories: list[_Memory] = []
        self.seen: dict[int, int] = {}
        self.error: BaseException | None = None

    def memory_at(self, address: int) -> int:
        """Which of `memories` has this address in its copy."""
        for place, memory in enumerate(self.memories):
            if memory.start <= address - memory.shift < memory.end:
                return place
        raise AssertionError("a program writes outside of all tensors")


class _Launch:
    """Stands for a kernel's function while the interpreter walks through the grid: takes note of
    each program and, at the last one, runs them all."""

    def __init__(self, fn: Callable[..., None], chance: random.Random, apart: bool) -> None:
        self.fn = fn
        self.chance = chance
        self.apart = apart
        self.tensors: list[Tensor] = []
        self.programs: list[_Program] = []
        self.waiting: list[_Program] = []
        self.versions: dict[int, int] = {}
        self.polls = 0
        self.failed = False
        # What the interpreter asks of a function.
        self.__globals__ = fn.__globals__
        self.__name__ = fn.__name__
        self.__annotations__ = fn.__annotations__
        self.__signature__ = inspect.signature(fn)

    def __call__(self, **arguments: Any) -> None:
        from triton.runtime.interpreter import interpreter_builder as builder

        self.programs.append(_Program(builder.grid_idx, arguments))
        if len(self.programs) == np.prod(builder.grid_dim):
            self._run()

    def _run(self) -> None:
        global _running
        if self.apart:
            for program in self.programs:
                self._separate(program)
        threads = [
            threading.Thread(target=self._program, args=(program,)) for program in self.programs
        ]
        self.waiting = list(self.programs)
        _running = self
        try:
            for thread in threads:
                thread.start()
            self._next()
            for thread in threads:
                thread.join()
        finally:
            _running = None
        for program in self.programs:
            if program.error is not None and not isinstance(program.error, _Stopped):
                raise program.error

    def _separate(self, program: _Program) -> None:
        """Gives a program memory of its own."""
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in self.tensors}
        program.memories = [
            _Memory(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
            for storage in storages.values()
            if storage.nbytes()
        ]
        for name, value in program.arguments.items():
            if isinstance(value, tl.tensor) and value.dtype.is_ptr():
                address = int(value.handle.data.item())
                if address == 0:  # a tensor without elements
                    continue
                memory = next(m for m in program.memories if m.start <= address < m.end)
                moved = np.array([address + memory.shift], dtype=np.uint64)
                program.arguments[name] = tl.tensor(
                    TensorHandle(moved, value.handle.dtype), value.dtype
                )

    # ---- turns ----

    def _program(self, program: _Program) -> None:
        self._wait_for_turn(program)
        try:
            if not self.failed:
                self.fn(**program.arguments)
                for memory in program.memories:  # the end of a kernel gives everything
                    memory.give()
        except BaseException as error:
            program.error = error
            self.failed = True
        finally:
            self.waiting.remove(program)
            self._next()

    def _wait_for_turn(self, program: _Program) -> None:
        from triton.runtime.interpreter import interpreter_builder

        program.turn.acquire()
        self.current = program
        interpreter_builder.grid_idx = program.index

    def _next(self) -> None:
        if self.waiting:
            self.chance.choice(self.waiting).turn.release()

    def take_turns(self) -> None:
        program = self.current
        self._next()
        self._wait_for_turn(program)
        if self.failed:
            raise _Stopped

    # ---- memory ----

    def access(self) -> None:
        """Before a load or a store."""
        self.polls = 0
        if not self.apart:
            self.take_turns()

    def written(self, addresses: np.ndarray) -> None:
        if self.apart and addresses.size:
            place = self.current.memory_at(int(addresses.min()))
            self.current.memories[place].write(int(addresses.min()), int(addresses.max()))

    def atomic(self, run: Callable[[Any], Any], pointer: Any, sem: Any, scope: Any) -> Any:
        """`run` works on the memory that all see."""
        from triton._C.libtriton import ir
        from triton.runtime.interpreter import TensorHandle

        self.take_turns()
        program, semantic = self.current, ir.MEM_SEMANTIC
        to_others = scope != ir.MEM_SYNC_SCOPE.CTA
        if self.apart:
            if to_others and sem in (semantic.RELEASE, semantic.ACQUIRE_RELEASE):
                for place, memory in enumerate(program.memories):
                    if memory.written is not None:
                        memory.give()
                        self.versions[place] = self.versions.get(place, 0) + 1
            memory = program.memories[program.memory_at(int(pointer.data.min()))]
            addresses = pointer.data - np.uint64(memory.shift % 2**64)
            pointer = TensorHandle(addresses, pointer.dtype)
        found = run(pointer)
        if self.apart and to_others and sem in (semantic.ACQUIRE, semantic.ACQUIRE_RELEASE):
            for place, version in self.versions.items():
                if program.seen.get(place) != version:
                    program.memories[place].take()
                    program.seen[place] = version
        return found

    def poll(self, changes_nothing: bool) -> None:
        self.polls = self.polls + 1 if changes_nothing else 0
        if self.polls > PATIENCE * len(self.waiting):
            raise Stuck("every program waits for another one")


_running: _Launch | None = None


@contextmanager
def programs_at_once(seed: int = 0, apart: bool = True) -> Iterator[None]:
    """Within the block cooperative launches run so. Nothing outside of the interpreter."""
    if not support.INTERPRETED:
        yield
        return
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    chance = random.Random(seed)
    call, load = GridExecutor.__call__, InterpreterBuilder.create_masked_load
    store, rmw = InterpreterBuilder.create_masked_store, InterpreterBuilder.create_atomic_rmw

    def called(executor: Any, *arguments: Any, **options: Any) -> None:
        if options.get("launch_cooperative_grid"):
            launch = executor.fn = _Launch(executor.fn, chance, apart)

            def on_the_host(*given: Any) -> Any:
                found, named = type(executor)._init_args_hst(executor, *given)
                launch.tensors = [t for t in (*found, *named.values()) if isinstance(t, Tensor)]
                return found, named

            executor._init_args_hst = on_the_host
        call(executor, *arguments, **options)

    def loaded(builder: Any, pointers: Any, *rest: Any) -> Any:
        if _running is not None:
            _running.access()
        return load(builder, pointers, *rest)

    def stored(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if _running is not None:
            _running.access()
            _running.written(np.broadcast_to(pointers.data, mask.data.shape)[mask.data])
        return store(builder, pointers, value, mask, *rest)

    def changed(builder: Any, op: Any, pointer: Any, value: Any, mask: Any, *how: Any) -> Any:
        def run(pointer: Any) -> Any:
            return rmw(builder, op, pointer, value, mask, *how)

        if _running is None:
            return run(pointer)
        launch = _running
        found = launch.atomic(run, pointer, *how)
        launch.poll(changes_nothing=not value.data.any())
        return found

    with (
        mock.patch.object(GridExecutor, "__call__", called),
        mock.patch.object(InterpreterBuilder, "create_masked_load", loaded),
        mock.patch.object(InterpreterBuilder, "create_masked_store", stored),
        mock.patch.object(InterpreterBuilder, "create_atomic_rmw", changed),
    ):
        yield
