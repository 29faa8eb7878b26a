"""The benchmarks: Stockpot, the bare event loop as the limit, and fair peers, on the same work in one session.

`python -m ops.bench` (or `make bench`) starts its own Valkey, PostgreSQL and upstream on free ports, runs the
contenders in alternation, reads CPU from the processes and writes `RESULTS.md`, `results.json` and `plots/`.
"""
