"""A skipped test proves nothing: with `--skips-fail`, as in .ci/run, a skip fails the session unless this machine cannot help it.

Loaded by tests/conftest.py. The reasons that are accepted are few, and a test that skips begins its reason with one of them.
"""

import pytest

NEEDS_DATA = "needs ../shared/data"  # large files that are not in the repository
NEEDS_ROOT = "needs root"  # to mount a small disk, to start SLURM; a container may take the rights from root, too
NEEDS_VIEWER = "needs OpenSeadragon"  # of the npm registry, which the installation asks; a machine may not reach it
HAS_GPU = "there is a GPU"
ACCEPTED = (NEEDS_DATA, NEEDS_ROOT, NEEDS_VIEWER, HAS_GPU)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--skips-fail", action="store_true", help="a skipped test fails, unless tests/skips.py accepts its reason")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked gpu on a machine without one: `python -m benchmarks.gpu` runs the same where there is one."""
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    if not left_out:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session, where all its reports are (under xdist in its main process), that has skipped what it could have run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not session.config.getoption("--skips-fail") or reporter is None or hasattr(session.config, "workerinput"):
        return
    refused = [report for report in reporter.stats.get("skipped", []) if not reason_of(report).startswith(ACCEPTED)]
    if refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for report in refused:
        reporter.write_line(f"\nSKIPPED, and may not be: {report.nodeid}: {reason_of(report)}", red=True)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why a test was skipped, or why it is expected to fail."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", report.longrepr))
