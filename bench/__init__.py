"""Benchmarks against the peers.

    pytest bench/*_bench.py --benchmark-enable --benchmark-json=FILE.json
    python -m bench.report FILE.json ...

`<domain>_cases.py` lists what is measured and the targets, as `cases.py` describes it, and
`<domain>_bench.py` measures it: `pair.py` times seqkern and a peer in turn, `gemm.py` and
`bandwidth.py` know what the machine could do, `memory.py` and `errors.py` measure what their names
say. `report.py` turns the recorded JSON into tables and plots. ``BENCH_QUICK=1`` measures a few
small shapes for a fraction of a second each, which shows that everything runs, not how fast;
``-k "LSTM and float32 and training"`` selects cases by name.
"""
