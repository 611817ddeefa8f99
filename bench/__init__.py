"""Benchmarks against the peers.

    pytest bench/*_bench.py --benchmark-enable --benchmark-json=FILE.json
    python -m bench.report FILE.json

`pair.py` times seqkern and a peer in turn; `<domain>_cases.py` lists what is measured and the
targets, `<domain>_bench.py` measures it, and `report.py` turns the recorded JSON into tables and
plots. ``BENCH_QUICK=1`` measures a few small shapes for a fraction of a second each, which shows
that everything runs, not how fast; ``-k "LSTM and float32 and training"`` selects cases by name.
"""
