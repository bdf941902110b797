"""`hnm check`: does every tar hold exactly what the patch table says?

    table (offset, nbytes) by shard ──▶ tar header, JPEG markers, pixels with `deep` ──▶ CheckReport
                                    └─▶ the members' chain: nothing before, between or after that the table lacks

Reads each tar once, front to back, several tars at a time; changes nothing.
"""

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from shards.cohort.cohort import Cohort
from shards.cohort.patch_table import damaged_columns
from shards.progress import Progress
from shards.reading.decode import DecodeError, decode_into, image_shape
from shards.reading.fetch import LocalShards, Wanted

_BLOCK = tarfile.BLOCKSIZE
MAX_LISTED = 10  # problems named per shard; all are counted


@dataclass(frozen=True)
class ShardReport:
    """What is wrong with one shard.

    Attributes:
        shard: the tar's file name.
        num_patches: patches that the table places in it.
        num_broken: how many of them are not there, or damaged.
        problems: a line each, the first `MAX_LISTED`; also of what concerns the whole tar.
    """

    shard: str
    num_patches: int
    num_broken: int
    problems: list[str]


@dataclass(frozen=True)
class CheckReport:
    """What is wrong with a cohort.

    Attributes:
        num_patches: of the cohort.
        num_shards: of the cohort.
        table_problems: what is wrong with the patch table itself.
        damaged: the shards that have a problem.
    """

    num_patches: int
    num_shards: int
    table_problems: list[str]
    damaged: list[ShardReport]

    @property
    def num_broken(self) -> int:
        """Patches that cannot be read."""
        return sum(report.num_broken for report in self.damaged)

    @property
    def is_sound(self) -> bool:
        """Nothing is wrong."""
        return not self.table_problems and not self.damaged


def check_cohort(cohort: Cohort, deep: bool, workers: int, progress: Progress) -> CheckReport:
    """Compare every tar with the patch table.

    Args:
        cohort: the cohort, whole (not restricted: patches that the table lacks count as a problem of the tar).
        deep: also decode every JPEG, and compare its size with the first one's.
        workers: tars read at once.
        progress: wraps an iterable, its description and its length.

    Returns:
        The report; a damaged cohort is no exception.
    """
    names = cohort.info["shards"]
    table_problems = _table_problems(cohort, len(names))
    if table_problems:  # nothing to compare the tars with
        return CheckReport(cohort.num_patches, len(names), table_problems, [])
    by_shard = np.argsort(cohort.patches.shard, kind="stable")
    ends = np.searchsorted(cohort.patches.shard[by_shard], np.arange(len(names) + 1))

    def check(shard: int) -> ShardReport:
        return _check_shard(cohort, shard, by_shard[ends[shard] : ends[shard + 1]], deep)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    try:
        reports = list(progress(pool.map(check, range(len(names))), "check", len(names)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    damaged = [report for report in reports if report.problems]
    return CheckReport(cohort.num_patches, len(names), table_problems, damaged)


def _table_problems(cohort: Cohort, num_shards: int) -> list[str]:
    patches, table = cohort.patches, cohort.root / "patches.parquet"
    problems = [
        f"{path}: not what {table} says; remove the folder {path.parent}, which is made anew from it"
        for path in damaged_columns(cohort.root)
    ]
    if problems:
        return problems
    if (patches.slide[1:] < patches.slide[:-1]).any():
        problems.append(f"{table}: rows are not in slide order")
    if len(patches) and not 0 <= patches.slide.min() <= patches.slide.max() < cohort.num_slides:
        problems.append(f"{table}: column slide names rows that slides.parquet does not have")
    if len(patches) and not 0 <= patches.shard.min() <= patches.shard.max() < num_shards:
        problems.append(f"{table}: column shard names shards that cohort.json does not list")
    if (patches.offset < _BLOCK).any() or (patches.nbytes < 1).any():
        problems.append(f"{table}: columns offset and nbytes name places that no tar has")
    if not problems and "num_patches" in cohort.slides.column_names:
        wrong = np.flatnonzero(np.diff(cohort.patch_bounds) != cohort.slides["num_patches"].to_numpy())
        problems += [
            f"{cohort.root / 'slides.parquet'}: num_patches of slide {cohort.slide_ids[slide]!r} disagrees with {table}"
            for slide in wrong[:MAX_LISTED]
        ]
    return problems


def _check_shard(cohort: Cohort, shard: int, ids: np.ndarray, deep: bool) -> ShardReport:
    path = cohort.shard_path(shard)
    if not path.is_file():
        return ShardReport(path.name, len(ids), len(ids), ["the shard is missing"])
    wanted = Wanted.of(cohort.patches, ids)
    problems = list(_chain_problems(path, wanted))
    num_broken = 0
    for patch_id, problem in _patch_problems(path, wanted, deep):
        num_broken += 1
        if num_broken <= MAX_LISTED:
            slide = cohort.slide_ids[cohort.patches.slide[patch_id]]
            place = f"offset {cohort.patches.offset[patch_id]}, {cohort.patches.nbytes[patch_id]} bytes"
            problems.append(f"patch {patch_id} of slide {slide!r} ({place}): {problem}")
    return ShardReport(path.name, len(ids), num_broken, problems)


def _chain_problems(path: Path, wanted: Wanted) -> Iterator[str]:
    """Yield where the tar holds something that the table lacks: members must follow each other without a gap."""
    in_order = wanted.take(np.argsort(wanted.offset))
    # A member is a header block and data padded to whole blocks; the next one's header follows at once.
    next_header = np.append(0, in_order.offset + -(-in_order.nbytes.astype(np.int64) // _BLOCK) * _BLOCK)
    gaps = np.flatnonzero(in_order.offset - _BLOCK != next_header[:-1])
    if len(gaps):
        yield f"byte {next_header[gaps[0]]} begins a member by the table's sizes, but not by its offsets"
    end, size = int(next_header[-1]), path.stat().st_size
    if size < end + 2 * _BLOCK:
        yield f"the tar is cut short: {size} bytes instead of at least {end + 2 * _BLOCK}"
    elif any(_read(path, end, 2 * _BLOCK)):
        yield f"the tar goes on at byte {end}, after the table's last patch"


def _patch_problems(path: Path, wanted: Wanted, deep: bool) -> Iterator[tuple[int, str]]:
    """Yield (patch id, problem) of the patches that are not where the table says, or damaged."""
    with_header = Wanted(wanted.ids, np.zeros_like(wanted.shard), wanted.offset - _BLOCK, wanted.nbytes + _BLOCK)
    files = LocalShards([path], max_open_files=1)
    pixels: np.ndarray | None = None  # for the decoded image: as large as the shard's first
    try:
        for place, data, problem in chain.from_iterable(files.read(with_header)):
            problem = problem or _member_problem(data)
            if deep and not problem:
                try:
                    pixels = np.empty((*image_shape(data[_BLOCK:]), 3), np.uint8) if pixels is None else pixels
                    decode_into(data[_BLOCK:], pixels)
                except DecodeError as error:
                    problem = str(error)
            if problem:
                yield int(wanted.ids[place]), problem
    finally:
        files.close()


def _member_problem(member: bytes | memoryview) -> str:
    """Say what is wrong with a tar member of one header block and a JPEG; "" if nothing is."""
    header, jpeg = bytes(member[:_BLOCK]), member[_BLOCK:]
    size, checksum = _octal(header[124:136]), _octal(header[148:156])
    # tarfile's own parser takes 50 us a member, as long as decoding a small patch; this takes 5.
    if header[257:262] != b"ustar" or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return "no tar header before it, or a damaged one"
    if size != len(jpeg):
        return f"the tar says {size} bytes"
    if jpeg[:2] != b"\xff\xd8" or jpeg[-2:] != b"\xff\xd9":
        return "no JPEG: its first or last marker is missing"
    return ""


def _octal(field: bytes) -> int:
    """Return a number of a tar header, -1 for none."""
    text = field.rstrip(b"\0 ")
    return int(text, 8) if text.isdigit() and not set(text) & set(b"89") else -1


def _read(path: Path, offset: int, nbytes: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(nbytes)
