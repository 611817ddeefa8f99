"""How much is measured: settings of one benchmark run."""

import os

QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
"""Only see that everything runs."""

THREADS = tuple(dict.fromkeys((1, min(2, os.cpu_count() or 1))))
"""Thread counts that are measured."""

SECONDS_PER_PAIR = 0.05 if QUICK else 0.5
"""Time for which a pair is measured, once it is warm; slow pairs take longer (see MIN_ROUNDS)."""

MIN_ROUNDS = 3
MAX_ROUNDS = 1000
"""Bounds on how often each of a pair is timed."""
