"""The command line called in this process, for tests: its result, and how it refuses."""

from pathlib import Path

from typer.testing import CliRunner, Result

from launch.cli.main import app


def hnm(*arguments: str | Path) -> Result:
    """Run the command in this process; exceptions that are no messages to the user fail the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    for part in parts:
        assert part in result.stderr
    assert "Traceback" not in result.output
