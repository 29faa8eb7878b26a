"""Tools for tests: real servers, real processes, faults that can be proved, and the checker of the promises."""
