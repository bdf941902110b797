"""What `hnm doctor --cluster` makes of its measurements: what is wrong or slow, and what to do about it. Pure functions."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from hnm.engine.ranks import SEEN_WITHIN_S
from launch.process.probe import SEE_WITHIN_S, Facts

FEW_CORES, FEW_FILES = 2, 1024  # a rank: to decode beside the GPU; with tars, features and connections open
SKEW_S = 5.0  # a heartbeat is written as often
SLOW_NETWORK, SLOW_READING = 0.3e9, 50e6  # bytes/s: 2.5 Gbit Ethernet; 3,000 patches of 15 kB
LATE_S = 2.0


class Finding(NamedTuple):
    """One sentence with its remedy; `must`: no run can work like this."""

    must: bool
    text: str


def findings(ranks: Sequence[Facts], networks: Sequence[Facts], folder: Path) -> list[Finding]:
    """Return what to mend, in order.

    Args:
        ranks: of every rank, by rank, what launch/process/probe.py found.
        networks: of every backend, what it found.
        folder: where files were tried.
    """
    found = [*of_processes(ranks), *of_limits(ranks), *of_nodes(ranks), *of_folder(ranks, folder), *of_speed(ranks, networks)]
    return sorted(found, key=lambda finding: not finding.must)


def of_processes(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """Judge how many ranks there are, and whether they are of one kind."""
    if len(ranks) == 1:
        yield Finding(False, "this is one rank: start as many as your runs have, by srun -n, hnm submit doctor or --ranks")
    devices, versions = ({facts[name] for facts in ranks} for name in ("device_name", "versions"))
    if len(devices) > 1:
        yield Finding(
            False,
            f"ranks have different devices ({'; '.join(sorted(devices))}): all wait for the slowest. Ask for one kind of node "
            "(slurm.constraint); a rank on a CPU beside GPUs sees none",
        )
    if len(versions) > 1:
        yield Finding(True, f"ranks run different code ({'; '.join(sorted(versions))}): use one environment, on a shared disk")


def of_limits(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """Judge each rank's cores, open files and clock."""
    if few := [facts["rank"] for facts in ranks if facts["cores"] < FEW_CORES]:
        yield Finding(
            False,
            f"{named(few)}: one core, for decoding and everything else. slurm.cpus=8, or --cpus-per-task of sbatch and srun",
        )
    if few := [facts["rank"] for facts in ranks if facts["open_files"] < FEW_FILES]:
        fewest = min(facts["open_files"] for facts in ranks)
        yield Finding(
            False,
            f"{named(few)}: {fewest} open files at most. Add 'ulimit -n 4096' to slurm.setup or slurm/env.sh, or lower "
            "reader.max_open_files",
        )
    if late := [facts["rank"] for facts in ranks if abs(facts["clock_s"]) > SKEW_S]:
        worst = max((facts["clock_s"] for facts in ranks), key=abs)
        yield Finding(
            False,
            f"{named(late)}: the clock differs from rank 0's, by {worst:+.1f} s at most, so that hnm status may take the living "
            "for lost. Ask the site to mend its time service (NTP)",
        )


def of_nodes(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """Judge what the ranks of one node share: cores and GPUs."""
    for host, group in groupby(sorted(ranks, key=lambda facts: str(facts["host"])), key=lambda facts: facts["host"]):
        local = list(group)
        own, machine = sum(facts["cores"] for facts in local), min(facts["machine_cores"] for facts in local)
        cores = own if own <= machine else max(facts["cores"] for facts in local)  # each has its own, or all share the same
        threads = sum(facts["threads"] for facts in local)
        if threads > max(cores, len(local)):
            yield Finding(
                False,
                f"{host}: {len(local)} ranks start {threads} threads on {cores} cores, and get into each other's way. Set "
                f"OMP_NUM_THREADS={max(1, cores // len(local))}",
            )
        gpus = [facts["device"] for facts in local if facts["device"] != "cpu"]
        if len(set(gpus)) < len(gpus):
            yield Finding(
                True,
                f"{host}: {len(gpus)} ranks share {len(set(gpus))} GPU(s), which NCCL refuses. Start a rank for each GPU",
            )


def of_folder(ranks: Sequence[Facts], folder: Path) -> Iterator[Finding]:
    """Judge the disk that the run's files would be on."""
    if refused := [facts for facts in ranks if facts["problem"] is not None]:
        who = named([facts["rank"] for facts in refused])
        yield Finding(True, f"{folder}: {who} cannot write there ({refused[0]['problem']}). Choose another folder (--folder)")
        return
    if blind := [facts["rank"] for facts in ranks if facts["listed_s"] is None]:
        yield Finding(
            True,
            f"{folder}: {named(blind)} did not see the others' files within {SEE_WITHIN_S:.0f} s. All nodes must see a run "
            "directory: try a folder on a disk that they share (--folder)",
        )
        return
    late = max(SEE_WITHIN_S if facts["named_s"] is None else facts["named_s"] for facts in ranks)
    if late > LATE_S:
        yield Finding(
            False,
            f"{folder}: what was looked for in vain is found by its name {late:.0f} s after another node has written it. hnm "
            f"lists folders instead, and waits up to {SEEN_WITHIN_S:.0f} s; scripts of yours should, too",
        )
    if not all(facts["links"] for facts in ranks):
        yield Finding(
            True, f"{folder}: no hard links, by which hnm claims a run for one process. Use another file system for runs"
        )


def of_speed(ranks: Sequence[Facts], networks: Sequence[Facts]) -> Iterator[Finding]:
    """Judge the network between nodes, and reading."""
    for figures in networks:
        slowest = min(figures["all_reduce_bytes_per_s"], figures["all_gather_bytes_per_s"])
        if slowest < SLOW_NETWORK and len({facts["host"] for facts in ranks}) > 1:
            yield Finding(
                False,
                f"{figures['backend']} moves {slowest / 1e9:.2f} GB/s between the nodes. If there is a faster network (ip link), "
                "name its interface: slurm.interface=ib0; without submitit GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME",
            )
    rates = [facts["read_bytes_per_s"] for facts in ranks if facts["read_bytes_per_s"] is not None]
    if rates and min(rates) < SLOW_READING:
        yield Finding(
            False,
            f"a rank reads {min(rates) / 1e6:.0f} MB/s of the cohort's shards: decoding will wait. Copy them to the nodes' own "
            "disks at the start: reader.stage_dir='$TMPDIR/hnm'",
        )


def named(ranks: Sequence[int]) -> str:
    """Return ranks in words, the first few of many."""
    more = f" and {len(ranks) - 4} others" if len(ranks) > 4 else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks[:4]))}{more}"
