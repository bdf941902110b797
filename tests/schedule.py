"""Which worker of pytest-xdist runs what, and when: the longest files first, so that no worker ends long before the others.

Loaded by tests/conftest.py. Files that share what takes long to make go to one worker: a SLURM, and runs on several ranks.
"""

from typing import Any

import pytest

TOGETHER = {  # by what is shared
    "a SLURM, for which these mostly wait": ("tests/cluster/",),
    "phases_on_ranks": (
        *("tests/hnm/encoder/test_embed.py", "tests/hnm/encoder/test_finetune.py"),
        *("tests/hnm/encoder/test_simclr.py", "tests/hnm/mining/test_coordinator.py"),
    ),
    "run_on_2_ranks": tuple(f"tests/launch/process/test_{name}.py" for name in ("elastic", "local", "stale")),
}
# by file or what is shared, about how many seconds, slow tests included (2026-11-28); a wrong figure costs time, nothing else
SECONDS = {
    "a SLURM, for which these mostly wait": 500,
    "tests/test_readme.py": 350,
    "tests/launch/verbs/test_crossval.py": 150,
    "tests/test_site.py": 110,
    "tests/launch/process/test_other_settings.py": 90,
    "tests/test_survival.py": 80,
    "run_on_2_ranks": 110,
    "tests/hnm/encoder/test_parts.py": 70,
    "tests/launch/process/test_full_disk.py": 60,
    "tests/launch/process/test_secrets.py": 60,
    "tests/hnm/run/test_training.py": 60,
    "tests/hnm/engine/test_engine.py": 60,
    "tests/hnm/encoder/test_slide_loss.py": 60,
    "tests/shards/tiling/test_survival.py": 55,
    "phases_on_ranks": 60,
    "tests/launch/verbs/test_ui.py": 40,
    "tests/hnm/aggregator/test_aggregate.py": 40,
    "tests/launch/process/test_keeper.py": 40,
    "tests/launch/process/test_said.py": 35,
    "tests/hnm/encoder/test_grad_cache.py": 25,
    "tests/launch/process/test_hanging.py": 25,
    "tests/launch/verbs/test_encoders.py": 25,
    "tests/launch/verbs/test_adapters.py": 25,
    "tests/launch/process/test_preemption.py": 20,
    "tests/launch/cluster/test_submit.py": 20,
}
A_TEST_S = 0.2  # of any other file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler of `--dist loadfile`, with an order."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LongestFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = str(super()._split_scope(nodeid))
            return next((shared for shared, files in TOGETHER.items() if path.startswith(files)), path)

        def _assign_work_unit(self, node: Any) -> None:
            longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope, A_TEST_S * len(self.workqueue[scope])))
            self.workqueue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return LongestFirst(config, log)
