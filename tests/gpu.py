"""Says what GPU the commands for one will use, or in a sentence why there is none.

python -m tests.gpu
"""

from __future__ import annotations

import sys

import torch

from seqkern import triton_support


def trouble() -> str:
    """Why no kernel runs on a GPU here; "" where one does."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    return triton_support.device_refusal(torch.device("cuda", torch.cuda.current_device()))


def main() -> int:
    reason = trouble()
    if reason:
        print(f"This command needs a CUDA GPU, and cannot use one here: {reason}.", file=sys.stderr)
        return 1
    major, minor = torch.cuda.get_device_capability()
    print(f"{torch.cuda.get_device_name()} (sm_{major}{minor}), Triton {triton_support.state()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
