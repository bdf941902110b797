"""Processes: ranks joined and started, run directories, checkpoints in time, signals."""
