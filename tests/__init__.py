"""The tests; `tests/rig` holds their tools."""
