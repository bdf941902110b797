"""Processes and the command line: ranks, launchers, and the `hnm` command."""
