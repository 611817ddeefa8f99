"""The commands for a GPU: what GPU there is, or in a sentence why there is none; and the tests that
need one.

    python -m tests.gpu
    python -m tests.gpu run [PYTEST'S ARGUMENTS]

Most of the tests' time goes into compiling kernels, on the CPU. So `run` spreads the tests over
several processes, which share the GPU and Triton's cache on disk, and ends within a time limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from seqkern.core.triton import support

SECONDS = 400.0
MOST_PARTS = 8
_HANGS = 150  # seconds after which a test that still runs has its stack printed
_SHOWN = 6000  # characters


def trouble() -> str:
    """Why no kernel runs on a GPU here; "" where one does."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    return support.device_refusal(torch.device("cuda", torch.cuda.current_device()))


def parts() -> int:
    """How many processes: each keeps a core busy with Python and another one with compilers."""
    return max(1, min(MOST_PARTS, (os.cpu_count() or 1) // 2))


def run(arguments: Sequence[str], count: int, seconds: float = SECONDS) -> int:
    """Runs pytest in `count` processes, each with its part of the tests, and prints what they say.

    Returns:
        0 if all tests passed in time, else 1.
    """
    command = [sys.executable, "-m", "pytest", "-v", "-o", f"faulthandler_timeout={_HANGS}"]
    ended = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{part}.txt") for part in range(count)]
        processes = []
        for part, log in enumerate(logs):
            environment = {
                "SEQKERN_TEST_DEVICE": "cuda", **os.environ, "SEQKERN_TEST_PART": f"{part}/{count}",
            }  # fmt: skip
            with open(log, "w") as file:
                processes.append(
                    subprocess.Popen(
                        [*command, *arguments], env=environment, stdout=file, stderr=file
                    )
                )
        right = [
            _ended(process, log, f"part {number} of {count}", ended)
            for number, (process, log) in enumerate(zip(processes, logs, strict=True), 1)
        ]
    return 0 if all(right) else 1


def _ended(process: subprocess.Popen[bytes], log: Path, name: str, until: float) -> bool:
    """Waits, prints the end of the log (more of it after a failure); whether all is well."""
    try:
        status = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"{name}: NOT DONE IN TIME, killed; what it did last:")
        print(log.read_text()[-_SHOWN:], flush=True)
        return False
    text = log.read_text()
    if status == 0:
        lines = text.strip().splitlines()
        skipped = [line for line in lines if line.startswith("SKIPPED")]
        print(f"{name}:", *skipped, lines[-1] if lines else "", sep="\n  ", flush=True)
        return True
    print(f"{name}: FAILED, status {status}", text[-_SHOWN:], sep="\n", flush=True)
    return False


def main(arguments: Sequence[str]) -> int:
    reason = trouble()
    if reason:
        print(f"This command needs a CUDA GPU, and cannot use one here: {reason}.", file=sys.stderr)
        return 1
    if list(arguments[:1]) == ["run"]:
        return run(arguments[1:], parts())
    major, minor = torch.cuda.get_device_capability()
    print(f"{torch.cuda.get_device_name()} (sm_{major}{minor}), Triton {support.state()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
