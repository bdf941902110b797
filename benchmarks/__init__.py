"""Measurements: each module prints one JSON line, run with `python -m benchmarks.NAME`."""
