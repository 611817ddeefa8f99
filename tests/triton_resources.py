"""Registers, spills and shared memory of every Triton kernel in every shipped configuration.

triton_resources.json holds what is accepted. After a change that is meant, write it anew:

    make resources

A domain lists in `tests/<domain>/triton_calls.py`, as `calls()`, functions that call its host
functions with meta tensors, by name. What they launch is compiled; no GPU is needed.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import triton

from tests.triton_launches import recorded

RECORD = Path(__file__).with_suffix(".json")
DOMAINS = [path.parent.name for path in Path(__file__).parent.glob("*/triton_calls.py")]
# Bytes that a block may have, by architecture (CUDA programming guide, table of capabilities).
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
ARCHITECTURES = tuple(SHARED_LIMIT)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
USAGE = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) .*?LOCAL:(?P<local>\d+)")

# {call: {kernel: {"sm_80": {"registers": 128, "spilled_bytes": 0, "shared_bytes": 65536}}}}
Row = dict[str, dict[str, dict[str, int]]]
Table = dict[str, Row]


def calls() -> dict[str, Callable[[], object]]:
    """Of all domains: a name like "attention forward 64 bfloat16", and what to call."""
    return {
        f"{domain} {name}": call
        for domain in sorted(DOMAINS)
        for name, call in importlib.import_module(f"tests.{domain}.triton_calls").calls().items()
    }


def measure(call: Callable[[], object]) -> Row:
    """Compiles what a call launches."""
    row: Row = {}
    for architecture in ARCHITECTURES:
        with recorded(architecture) as launches:
            call()
        assert launches, "the call launches nothing"
        for launch in launches:
            kernel = launch.compile(architecture)
            used = {**usage(kernel.asm["cubin"]), "shared_bytes": kernel.metadata.shared}
            column = row.setdefault(launch.name, {})
            worst = column.setdefault(f"sm_{architecture}", used)
            worst.update({name: max(value, used[name]) for name, value in worst.items()})
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


def main() -> None:
    table = {name: measure(call) for name, call in calls().items()}
    record = {"triton": triton.__version__, "calls": table}
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
