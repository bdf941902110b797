"""Cores for each GPU, as `scontrol show node` tells them."""

from pathlib import Path

import pytest

from hnm.slurm_config import JobConfig
from launch.cluster import nodes
from launch.cluster.job_spec import JobSpec, graph_lines

NODES = """\
NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 Gres=gpu:a100:8(S:0-1),shard:16 State=IDLE Partitions=gpu,all Comment=a b
NodeName=g2 Arch=x86_64 CPUAlloc=0 CPUTot=48 Gres=gpu:4 State=MIXED Partitions=gpu
NodeName=g3 CPUEfctv=128 CPUTot=128 Gres=gpu:h100:4(S:0,1),gpu:a30:4 State=IDLE Partitions=big
NodeName=c1 CPUEfctv=16 CPUTot=16 Gres=(null) State=IDLE Partitions=all,cpu
"""


@pytest.mark.parametrize(
    ("partitions", "gpus", "cores"),
    [
        (["gpu"], 8, 7),  # 62 // 8
        (["gpu"], 2, 7),  # g1 or g2: the fewest
        (["big"], 1, 16),  # two kinds
        (["gpu", "big"], 4, 7),
        (["all"], 1, 7),
        (["cpu"], 1, None),
        (["gpu"], 9, None),
        (["nowhere"], 1, None),
    ],
)
def test_the_fewest_cores_for_each_gpu(partitions: list[str], gpus: int, cores: int | None) -> None:
    assert nodes.cores_per_gpu(NODES, partitions, gpus) == cores


def test_only_jobs_whose_ranks_have_gpus_and_no_cores_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"scontrol": NODES, "sinfo": "cpu\ngpu*\n"}
    monkeypatch.setattr(nodes.slurm, "ask", lambda program, *words, **how: answers[program])
    asked = JobConfig(gpus_per_node=8)

    def job(stage: str, resources: JobConfig, ranks: int = 8) -> JobSpec:
        return JobSpec(stage, Path("run"), [[stage]], resources, ranks)

    given = [job("train", asked), job("train", asked, 4), job("train", asked.model_copy(update={"cpus": 3})),
             job("train", JobConfig()), job("predict", asked)]  # fmt: skip
    specs = nodes.with_cores(given)
    assert [spec.resources.cpus for spec in specs] == [7, 14, 3, None, None]
    assert specs[2:] == given[2:]
    (line,) = graph_lines(specs[:1])
    assert "cpus 7" in line
    assert "(slurm.cpus is not set: nodes of gpu have 7 cores for each GPU)" in line
