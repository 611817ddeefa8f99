"""Registers and spills of every CUDA kernel on every architecture, as ptxas reports them.

cuda_resources.json holds what is accepted. After a change that is meant, write it anew:

    python -m tests.cuda_resources
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_tools.cuda import require_nvcc
from build_tools.libraries import cuda_sources, nvcc_command
from build_tools.ninja_file import ROOT

RECORD = Path(__file__).with_suffix(".json")
# {"nvcc": "13.0", "kernels": {kernel: {architecture: {"registers": 28, "spilled_bytes": 0}}}}
Table = dict[str, dict[str, dict[str, int]]]

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def nvcc_release() -> str:
    """The release that the numbers of registers depend on, as "13.0"."""
    text = subprocess.run([require_nvcc(), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release (\d+\.\d+)", text.stdout)
    assert found is not None, text.stdout
    return found[1]


def measure(directory: Path) -> Table:
    """Compiles the device code of all CUDA sources into `directory`, which nothing else needs."""

    def compile_(source: Path) -> Table:
        target = directory / f"{source.stem}.fatbin"
        command = [*nvcc_command(), "-Xptxas=-v", "-fatbin", str(source), "-o", str(target)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return parse(done.stdout + done.stderr)

    table: Table = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(compile_, cuda_sources()):
            table |= part
    return table


def parse(report: str) -> Table:
    """What ptxas -v said, by the kernels' readable names."""
    table: Table = {}
    for entry in ENTRY.finditer(report):
        table.setdefault(readable(entry["name"]), {})[entry["arch"]] = {
            "registers": int(entry["registers"]),
            "spilled_bytes": int(entry["stores"]) + int(entry["loads"]),
        }
    return table


def readable(symbol: str) -> str:
    """_ZN7seqkern14prepare_kernelIfEE... as prepare_kernel<float>."""
    done = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True)
    name = done.stdout.strip().removeprefix("void ")
    name = name.replace("seqkern::", "").replace("device::", "")
    depth = 0
    for at, letter in enumerate(name):
        if letter == "(" and depth == 0:  # where the arguments begin; template arguments have more
            return name[:at]
        depth += (letter == "<") - (letter == ">")
    return name


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        record = {"nvcc": nvcc_release(), "kernels": measure(Path(directory))}
    RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
