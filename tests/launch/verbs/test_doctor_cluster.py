"""`hnm doctor --cluster`: measured by two real ranks; and what is made of measurements that this machine does not give."""

import re
from pathlib import Path
from typing import Any

import pytest

from hnm.engine.ranks import World
from launch.process.probe import Facts, read_rate
from launch.verbs.doctor_cluster import measure, report_lines
from launch.verbs.doctor_findings import findings, named
from tests.command_line import hnm
from tests.ranks import on_ranks, world_of

SOUND: Facts = {
    "rank": 0, "host": "node1", "local_rank": 0, "device": "cuda:0", "device_name": "H100, 80 GiB", "cores": 8,
    "machine_cores": 64, "threads": 8, "open_files": 4096, "open_files_hard": 4096, "disk": "nfs4", "versions": "hnm 1, torch 2",
    "problem": None, "write_s": 0.01, "listed_s": 0.02, "named_s": 0.05, "links": True, "clock_s": 0.001, "read_bytes_per_s": 4e8,
}  # fmt: skip
OTHER = {**SOUND, "rank": 1, "device": "cuda:1"}
FAR = {**SOUND, "rank": 1, "host": "node2"}
FAST: Facts = {"backend": "nccl", "latency_s": 1e-4, "all_reduce_bytes_per_s": 1e10, "all_gather_bytes_per_s": 1e10}


def measured(world: World, folder: Path, shard: Path) -> tuple[list[Facts], list[Facts]]:
    return measure(world, folder, [shard, shard])


def test_two_ranks_measure_each_other(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    shard.write_bytes(b"\1" * (16 << 20))
    (ranks, networks), others = on_ranks(2, measured, tmp_path / "shared", shard)
    assert others == ([], [])
    assert [facts["rank"] for facts in ranks] == [0, 1]
    for facts in ranks:
        assert facts["host"]
        assert (facts["threads"], facts["links"], facts["device"]) == (1, True, "cpu")
        assert 1 <= facts["cores"] <= facts["machine_cores"]
        assert 0 <= facts["listed_s"] < 30
        assert 0 <= facts["named_s"] < 30
        assert abs(facts["clock_s"]) < 1  # the same clock
        assert facts["read_bytes_per_s"] > 1e6
    (gloo,) = networks
    assert gloo["backend"] == "gloo"
    assert 1e6 < gloo["all_reduce_bytes_per_s"] < 1e12
    assert 1e6 < gloo["all_gather_bytes_per_s"] < 1e12
    assert 0 < gloo["latency_s"] < 10
    assert list((tmp_path / "shared").iterdir()) == []
    lines = list(report_lines(ranks, networks, []))
    assert re.match(r"rank 1 of 2  \S+, cpu \(CPU\), \d+ of \d+ cores, 1 threads, ", lines[1])
    assert lines[-1] == "nothing to mend"


def test_one_rank_is_told_to_be_one(tmp_path: Path) -> None:
    done = hnm("doctor", "--cluster", "--folder", tmp_path, "device=cpu")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("rank 0 of 1  ")
    assert "better       this is one rank: start as many as your runs have" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = hnm("doctor", "--cluster", "--folder", tmp_path / "file", "device=cpu")
    assert done.exit_code == 1
    assert f"to mend      {tmp_path / 'file'}: rank 0 cannot write there (Not a directory)" in done.output


@pytest.mark.parametrize("ranks", [[SOUND, OTHER], [SOUND, FAR]])
def test_a_sound_cluster_has_no_findings(ranks: list[Facts]) -> None:
    assert findings(ranks, [FAST], Path("runs")) == []


@pytest.mark.parametrize(
    ("other", "change", "must", "told"),
    [
        (OTHER, {"cores": 1, "threads": 1}, False, "rank 1: one core, for decoding and everything else. slurm.cpus=8"),
        (OTHER, {"threads": 64}, False, "node1: 2 ranks start 72 threads on 16 cores, and get"),
        (OTHER, {"open_files": 256}, False, "rank 1: 256 open files at most. Add 'ulimit -n 4096' to slurm.setup"),
        (OTHER, {"clock_s": -61.2}, False, "rank 1: the clock differs from rank 0's, by -61.2 s"),
        (OTHER, {"device": "cuda:0"}, True, "node1: 2 ranks share 1 GPU(s), which NCCL refuses. Start a rank for each GPU"),
        (FAR, {"device_name": "A30, 24 GiB"}, False, "ranks have different devices (A30, 24 GiB; H100, 80 GiB)"),
        (FAR, {"versions": "hnm 1, torch 1"}, True, "ranks run different code (hnm 1, torch 1; hnm 1, torch 2)"),
        (FAR, {"listed_s": None, "named_s": None}, True, "runs: rank 1 did not see the others' files within 60 s"),
        (FAR, {"named_s": 31.0}, False, "found by its name 31 s after another node has written it"),
        (FAR, {"problem": "Read-only file system"}, True, "runs: rank 1 cannot write there (Read-only file system)"),
        (FAR, {"links": False}, True, "runs: no hard links, by which hnm claims a run"),
        (FAR, {"read_bytes_per_s": 2e7}, False, "a rank reads 20 MB/s of the cohort's shards: decoding will wait"),
    ],
)
def test_each_finding_has_its_remedy(other: Facts, change: dict[str, Any], must: bool, told: str) -> None:
    (finding,) = findings([SOUND, {**other, **change}], [FAST], Path("runs"))
    assert finding.must is must
    assert told in finding.text


def test_a_slow_network_between_nodes_is_told() -> None:
    slow = {**FAST, "backend": "gloo", "all_gather_bytes_per_s": 1.2e8}
    (finding,) = findings([SOUND, FAR], [slow, FAST], Path("runs"))
    assert finding.text.startswith("gloo moves 0.12 GB/s between the nodes. If there is a faster network")
    assert findings([SOUND, OTHER], [slow], Path("runs")) == []  # one node: there is no network


def test_many_ranks_are_named_by_the_first() -> None:
    assert (named([3]), named([0, 1]), named(list(range(7)))) == ("rank 3", "ranks 0, 1", "ranks 0, 1, 2, 3 and 3 others")


def test_a_rate_of_a_few_bytes_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\1" * 1000)
    assert read_rate([tmp_path / "a.tar"], world_of(0, 1)) is None
