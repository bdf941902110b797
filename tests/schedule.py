"""Which worker of pytest-xdist runs what, and when: the longest files first, so that no worker ends long before the others.

Loaded by tests/conftest.py. All of tests/cluster goes to one worker: its tests share a SLURM, and mostly wait for it.
"""

from typing import Any

import pytest

CLUSTER = "tests/cluster"
# by file, seconds on 2 quiet cores with all its slow tests (2026-11-28); a stale figure costs time, nothing else
SECONDS = {
    CLUSTER: 500,
    "tests/test_readme.py": 350,
    "tests/launch/verbs/test_crossval.py": 150,
    "tests/test_site.py": 110,
    "tests/launch/process/test_other_settings.py": 90,
    "tests/test_survival.py": 80,
    "tests/launch/process/test_local.py": 80,
    "tests/hnm/encoder/test_parts.py": 70,
    "tests/launch/process/test_full_disk.py": 60,
    "tests/launch/process/test_secrets.py": 60,
    "tests/hnm/run/test_training.py": 60,
    "tests/hnm/engine/test_engine.py": 60,
    "tests/hnm/encoder/test_slide_loss.py": 60,
    "tests/launch/process/test_elastic.py": 55,
    "tests/shards/tiling/test_survival.py": 55,
    "tests/hnm/mining/test_coordinator.py": 45,
    "tests/launch/verbs/test_ui.py": 40,
    "tests/hnm/aggregator/test_aggregate.py": 40,
    "tests/launch/process/test_keeper.py": 40,
    "tests/launch/process/test_said.py": 35,
    "tests/launch/process/test_stale.py": 35,
    "tests/hnm/encoder/test_finetune.py": 30,
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
            return CLUSTER if nodeid.startswith(CLUSTER) else str(super()._split_scope(nodeid))

        def _assign_work_unit(self, node: Any) -> None:
            longest = max(self.workqueue, key=lambda scope: SECONDS.get(scope, A_TEST_S * len(self.workqueue[scope])))
            self.workqueue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return LongestFirst(config, log)
