"""The benchmarks: Stockpot, the bare event loop as the limit, and fair peers, on the same work in one session.

`python -m ops.bench` (or `make bench`) starts its own Valkey, PostgreSQL and upstream on free ports, runs the
contenders in alternation, reads CPU from the processes and writes `RESULTS.md`, `results.json` and `plots/`. Each other
question has a program of its own. All of them stand on the same few modules:

    rig        servers, workers, gateways and producers: started here and nowhere else
    children   child processes that speak JSON lines: the upstream, subscribers, producers, peers
    measure    CPU and memory of processes, medians and percentiles
    commands   `stockpot` commands, with what they took
    vitals     the memory of workers and of Redis while a run lasts
    options    sizes, and the command line
    page       the one writer: tables, plots, lines of JSON

    scenarios  what `python -m ops.bench` measures: contenders on the same work; `report` and `drawing` write it
    dashboard encryption gateway idle limits limits_background overnight readers recovery space web_apps webhooks year
    programs
"""
