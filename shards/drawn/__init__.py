"""Drawn slides: for the demo, tests and benchmarks."""
