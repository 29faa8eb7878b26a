"""The long run: seeded random faults under load, then the checker (RELIABILITY F78). `make soak`, `python -m tests.soak`."""
