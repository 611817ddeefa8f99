"""Registers, spills and shared memory of every Triton kernel in every shipped configuration.

triton_resources.json holds what they are. After a change to a kernel, write it anew:

    make resources

That compiles what the change touches, for each architecture, and takes minutes; no GPU is needed.
The tests only look whether the record is of the kernels as they are now, and compile a sample.

A domain lists in `tests/<domain>/triton_calls.py`, as `calls()`, functions that call its host
functions with meta tensors, by name. What they launch is compiled.
"""

from __future__ import annotations

import ast
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
from typing import Any

import triton

from tests.triton_launches import Launch, recorded

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_suffix(".json")
DOMAINS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton_calls.py"))
# Bytes that a block may have, by architecture (CUDA programming guide, table of capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
ARCHITECTURES = tuple(SHARED_LIMIT)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
USAGE = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) .*?LOCAL:(?P<local>\d+)")

# {kernel: {"sm_80": {"registers": 128, "spilled_bytes": 0, "shared_bytes": 65536}}}
Row = dict[str, dict[str, dict[str, int]]]


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


def fingerprint(name: str) -> str:
    """Changes with what the call launches and with the code of the domain's kernels."""
    text = [kernels(name.partition(" ")[0]), triton.__version__]
    for architecture in ARCHITECTURES:
        text += [launch.key(architecture) for launch in launches(calls()[name], architecture)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


@functools.cache
def kernels(domain: str) -> str:
    """The code of all `@triton.jit` functions of a domain, without comments and docstrings."""
    code = []
    for path in sorted((ROOT / "seqkern" / domain / "triton").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                "triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                if ast.get_docstring(node) is not None:
                    del node.body[0]
                code.append(ast.dump(node))
    return "\n".join(code)


def measure(name: str, architectures: Iterable[int] = ARCHITECTURES) -> Row:
    """Compiles what a call launches."""
    row: Row = {}
    for architecture in architectures:
        for launch in launches(calls()[name], architecture):
            kernel = launch.compile(architecture)
            used = {**usage(kernel.asm["cubin"]), "shared_bytes": kernel.metadata.shared}
            column = row.setdefault(launch.name, {})
            worst = column.setdefault(f"sm_{architecture}", used)
            worst.update({what: max(value, used[what]) for what, value in worst.items()})
    return row


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and the bytes of it that did not fit into them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse(done.stdout + done.stderr)


def parse(report: str) -> dict[str, int]:
    """The most of all functions."""
    found = [{k: int(v) for k, v in m.groupdict().items()} for m in USAGE.finditer(report)]
    assert found, report
    spilled = max(f["stack"] + f["local"] for f in found)
    return {"registers": max(f["registers"] for f in found), "spilled_bytes": spilled}


def too_much(name: str, row: Row) -> list[str]:
    """What of a row no GPU should be asked for."""
    found = []
    for kernel, architectures in row.items():
        for architecture, used in architectures.items():
            where = f"{name}: {kernel} on {architecture}"
            if used["spilled_bytes"]:
                found.append(f"{where} spills {used['spilled_bytes']} bytes")
            if used["shared_bytes"] > SHARED_LIMIT[int(architecture[3:])]:
                found.append(f"{where} wants {used['shared_bytes']} bytes of shared memory")
    return found


def write(entries: dict[str, Any]) -> None:
    record = {"triton": triton.__version__, "calls": entries}
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def main() -> int:
    old: dict[str, Any] = json.loads(RECORD.read_text())["calls"] if RECORD.exists() else {}
    prints = {name: fingerprint(name) for name in calls()}
    known = {n: old[n] for n in prints if n in old and old[n]["fingerprint"] == prints[n]}
    changed = [name for name in prints if name not in known]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, row in zip(changed, pool.map(measure, changed), strict=True):
            print(f"compiled: {name}", *too_much(name, row), sep="\n  ", flush=True)
            known[name] = {"fingerprint": prints[name], "kernels": row}
            write(known)
    write(known)
    return any(too_much(name, entry["kernels"]) for name, entry in known.items())


if __name__ == "__main__":
    sys.exit(main())
