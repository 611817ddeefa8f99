"""The picture of the demo's loss curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqkern.core.errors import UserError
from seqkern.core.timing import PairTimes


def draw(first: list[float], second: list[float], times: PairTimes, path: Path) -> None:
    """Draw both loss curves, over the steps and over the time that they take.

    Time is counted in median steps, which leaves out the moments when the machine was busy
    otherwise.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    over_steps, over_seconds = figure.subplots(1, 2, sharey=True)
    before, after = times.medians()
    curves: tuple[tuple[str, list[float], float, dict[str, Any]], ...] = (
        ("torch.nn", first, before, {"color": "tab:orange", "linewidth": 2.5, "alpha": 0.6}),
        ("seqkern", second, after, {"color": "tab:blue", "linewidth": 1.0}),
    )
    for name, losses, seconds, style in curves:
        steps = range(1, len(losses) + 1)
        over_steps.plot(steps, losses, label=name, **style)
        over_seconds.plot([step * seconds for step in steps], losses, label=name, **style)
    over_steps.set(xlabel="step", ylabel="loss (nats per character)", title="same losses")
    over_seconds.set(xlabel="seconds of training", title="in this time")
    for axes in (over_steps, over_seconds):
        axes.grid(alpha=0.3)
        axes.legend()
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"--out: cannot write {path}: {error.strerror}") from error
