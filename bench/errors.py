"""How far results are from the reference."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def relative_errors(
    names: Sequence[str], results: Sequence[Tensor], reference: Sequence[Tensor]
) -> dict[str, float]:
    """Error of each result of a training step, and of all its gradients together.

    Args:
        names: what the results are; the output first, then what the gradients belong to.
        results: the output and the gradients.
        reference: the same in more precision.

    Returns:
        By name, the norm of the difference relative to that of the reference; ``gradients`` takes
        all gradients for one long vector.
    """
    differences = [
        (result.detach().double() - true.detach().double()).norm().item()
        for result, true in zip(results, reference, strict=True)
    ]
    lengths = [true.detach().double().norm().item() for true in reference]
    errors = {
        name: difference / length
        for name, difference, length in zip(names, differences, lengths, strict=True)
    }
    squares = [sum(norm**2 for norm in norms[1:]) for norms in (differences, lengths)]
    return errors | {"gradients": (squares[0] / squares[1]) ** 0.5}
