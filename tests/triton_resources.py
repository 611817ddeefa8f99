"""Registers, spills and shared memory of every Triton kernel in every shipped configuration.

triton_resources.json holds what they are with the release of Triton that make installs, for which
the configurations are chosen; triton_resources-3.8.0.json, where there is one, with that (nearly
every row differs between releases). Each names its release, and has one line for each configuration
of a kernel::

    "NAME OF A CALL": ["ITS LAUNCHES", [REGISTERS, SPILLED BYTES, SHARED BYTES], ...for each GPU]

After a change to a kernel, write anew the record of the release that is installed:

    make resources               # what the change touches
    make resources ARGS=--all    # everything
    make resources VENV=build/venv-2.14 TORCH='torch==2.14.*'    # with its Triton

That compiles for each architecture and takes minutes (all: most of an hour); no GPU is needed. The
tests only look whether the installed release's record is of the kernels as they are now, and
compile a sample. To move on to another release, give its record the name triton_resources.json.

A domain lists in `tests/<domain>/triton_calls.py`, as `calls()`, functions that call its host
functions with meta tensors, by name. What they launch is compiled: launches that several calls have
in common stand in the record once, under the first one's name.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.runtime.jit import JITFunction

from tests.triton_code import code_of
from tests.triton_launches import Launch, recorded

RECORD = Path(__file__).with_suffix(".json")
DOMAINS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton_calls.py"))
# Bytes that a block may have, by architecture (CUDA programming guide, table of capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
ARCHITECTURES = tuple(SHARED_LIMIT)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
USAGE = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) .*?LOCAL:(?P<local>\d+)")


class Usage(NamedTuple):
    """What a program takes of a GPU."""

    registers: int  # of a thread
    spilled: int  # bytes of it that did not fit into them
    shared: int  # bytes

    def or_more(self, other: Usage) -> Usage:
        return Usage(*map(max, self, other))


class Row(NamedTuple):
    """A configuration of a kernel."""

    launches: str  # changes with what the call launches of the kernel
    used: dict[int, Usage]  # by architecture


class Kernel(NamedTuple):
    code: str  # changes with the code of the kernel and of what it calls
    rows: dict[str, Row]  # by call


@functools.cache
def calls() -> dict[str, Callable[[], object]]:
    """Of all domains: a name like "attention forward 64 bfloat16", and what to call."""
    return {
        f"{domain} {name}": call
        for domain in DOMAINS
        for name, call in importlib.import_module(f"tests.{domain}.triton_calls").calls().items()
    }


def launches(call: Callable[[], object], architecture: int) -> list[Launch]:
    """What a call launches on a GPU of this architecture."""
    with recorded(architecture) as found:
        call()
    assert found, "the call launches nothing"
    return found


@functools.cache
def shipped() -> dict[str, Kernel]:
    """Every kernel with its configurations, none of which is compiled yet."""
    functions: dict[str, JITFunction] = {}
    configurations: dict[str, dict[str, str]] = {}  # of a kernel: its launches, and by which call
    for call_name, call in calls().items():
        keys: dict[str, set[str]] = {}
        for architecture in ARCHITECTURES:
            for launch in launches(call, architecture):
                known = functions.setdefault(launch.name, launch.kernel)
                assert known is launch.kernel, f"two kernels are called {launch.name}"
                key = f"sm_{architecture} {launch.key(architecture)}"
                keys.setdefault(launch.name, set()).add(key)
        for kernel, its_own in keys.items():
            configurations.setdefault(kernel, {}).setdefault(_hash(sorted(its_own)), call_name)
    return {
        kernel: Kernel(
            _hash([code_of(functions[kernel])]),
            {call: Row(print_, {}) for print_, call in configurations[kernel].items()},
        )
        for kernel in sorted(configurations)
    }


def _hash(text: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:12]


def measure(
    kernel: str, call: str, architectures: Iterable[int] = ARCHITECTURES
) -> dict[int, Usage]:
    """Compiles what a call launches of a kernel: the most that a launch uses."""
    found: dict[int, Usage] = {}
    for architecture in architectures:
        for launch in launches(calls()[call], architecture):
            if launch.name == kernel:
                compiled = launch.compile(architecture)
                used = usage(compiled.asm["cubin"], compiled.metadata.shared)
                found[architecture] = used.or_more(found.get(architecture, used))
    return found


def usage(cubin: bytes, shared: int) -> Usage:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Usage(*parse(done.stdout + done.stderr), shared)


def parse(report: str) -> tuple[int, int]:
    """Registers and spilled bytes, the most of all functions."""
    found = [{k: int(v) for k, v in m.groupdict().items()} for m in USAGE.finditer(report)]
    assert found, report
    return max(f["registers"] for f in found), max(f["stack"] + f["local"] for f in found)


def too_much(name: str, used: dict[int, Usage], *, may_spill: bool = False) -> list[str]:
    """What no GPU should be asked for."""
    found = []
    for architecture, (_, spilled, shared) in used.items():
        where = f"{name} on sm_{architecture}"
        if spilled and not may_spill:
            found.append(f"{where} spills {spilled} bytes")
        if shared > SHARED_LIMIT[architecture]:
            found.append(f"{where} wants {shared} bytes of shared memory")
    return found


def record_of(release: str) -> Path:
    """Where the record of a release of Triton is, or would be."""
    if not RECORD.exists() or read(RECORD)[0] == release:
        return RECORD
    return RECORD.with_stem(f"{RECORD.stem}-{release}")


def read(path: Path) -> tuple[str, dict[str, Kernel]]:
    """The release of Triton that a record is of, and its kernels."""
    record = json.loads(path.read_text())
    assert record["architectures"] == list(ARCHITECTURES)
    return record["triton"], {
        name: Kernel(
            kernel["code"],
            {
                call: Row(of, dict(zip(ARCHITECTURES, (Usage(*u) for u in used), strict=True)))
                for call, (of, *used) in kernel["rows"].items()
            },
        )
        for name, kernel in record["kernels"].items()
    }


def write(path: Path, kernels: dict[str, Kernel]) -> None:
    """One line for each row, so that a change shows as the lines of its kernel."""
    named = json.dumps
    lines = []
    for name in sorted(kernels):
        rows = ",\n".join(
            f"   {named(call)}: {json.dumps([row.launches, *row.used.values()])}"
            for call, row in sorted(kernels[name].rows.items())
        )
        code = named(kernels[name].code)
        lines.append(f'  {named(name)}: {{\n   "code": {code}, "rows": {{\n{rows}}}}}')
    head = f' "triton": {named(triton.__version__)},\n "architectures": {[*ARCHITECTURES]},'
    path.write_text(f'{{\n{head}\n "kernels": {{\n' + ",\n".join(lines) + "}}\n")


def main(arguments: list[str]) -> int:
    path = record_of(triton.__version__)
    old = read(path)[1] if path.exists() and "--all" not in arguments else {}
    found: dict[str, Kernel] = {}
    changed: list[tuple[str, str]] = []
    for name, kernel in shipped().items():
        before = old.get(name)
        same_code = before is not None and before.code == kernel.code
        known = {row.launches: row.used for row in before.rows.values()} if same_code else {}
        found[name] = kernel._replace(rows={})
        for call, row in kernel.rows.items():
            if row.launches in known:
                found[name].rows[call] = row._replace(used=known[row.launches])
            else:
                changed.append((name, call))
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        measured = pool.map(measure, *zip(*changed, strict=True)) if changed else ()
        for (name, call), used in zip(changed, measured, strict=True):
            print(f"compiled: {name}, {call}", *too_much(name, used), sep="\n  ", flush=True)
            found[name].rows[call] = shipped()[name].rows[call]._replace(used=used)
            write(path, found)  # so that what is interrupted goes on from here
    write(path, found)
    rows: list[Any] = [(n, row.used) for n, k in found.items() for row in k.rows.values()]
    return any(too_much(name, used, may_spill=path != RECORD) for name, used in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
