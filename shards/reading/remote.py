"""Shards behind a URL (s3://, http://, anything fsspec knows): concurrent range requests, retries, a local cache.

    Wanted ──▶ in the cache? ──yes──▶ Fetched
                    └──no──▶ coalesce ──▶ range requests, many at once, failed ones again ──▶ cache ──▶ Fetched

A failing network is never taken for a broken patch: a shard is missing or cut short only if the server says so.
"""

import time
from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np

from shards.errors import InputError
from shards.reading.cache import ShardCache
from shards.reading.fetch import MISSING, Fetched, Ranges, Wanted, coalesce
from shards.secrets import SecretOptions, SecretText, scrub

# A request costs some 20 ms, in which a connection of 10 MB/s moves 200 kB: a smaller gap is cheaper read than skipped.
_MAX_GAP = 128 << 10
_MAX_RANGE = 4 << 20
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0


class RemoteShards:
    """The shards of one cohort under a URL. Threads may share one object; a forked process needs its own."""

    def __init__(
        self,
        url: SecretText,
        shard_names: list[str],
        storage_options: SecretOptions,
        num_requests: int,
        num_retries: int,
        cache: ShardCache | None,
    ) -> None:
        """Open the file system; nothing is read yet.

        Args:
            url: folder of the shards.
            shard_names: their file names, by shard index.
            storage_options: passed on to fsspec, such as an endpoint; no message tells them.
            num_requests: requests in flight at once, per calling thread.
            num_retries: how often a failed request is sent again.
            cache: where fetched bytes are kept; None: nowhere.

        Raises:
            InputError: no installed package knows this kind of URL.
        """
        try:
            self._files, folder = fsspec.core.url_to_fs(url.reveal(), **storage_options.reveal())
        except (ImportError, ValueError) as error:
            problem = f"reader.shards_url {url}: {scrub(str(error))}"
            raise InputError(f"{problem}. Install it with: pip install 'hnm[remote]'") from error
        self._url = str(url).rstrip("/")
        self._paths = [f"{folder.rstrip('/')}/{name}" for name in shard_names]
        self._names = shard_names
        # File systems without asyncio (sftp, hdfs) fetch one range after the other and do not know the option.
        self._options = {"batch_size": num_requests} if self._files.async_impl else {}
        self._num_retries = num_retries
        self._cache = cache

    def read(self, wanted: Wanted) -> Iterator[list[Fetched]]:
        """Yield each patch, cached ones first and then range by range.

        Raises:
            InputError: the server does not answer, or does not serve byte ranges.
        """
        is_cached = np.zeros(len(wanted.ids), dtype=bool)
        if self._cache:
            for fetched in self._cache.read(wanted):
                is_cached[fetched[0]] = True
                yield [fetched]
        places = np.flatnonzero(~is_cached)
        missed = wanted.take(places)
        ranges = coalesce(missed, _MAX_GAP, _MAX_RANGE)
        for number, (data, problem) in enumerate(self._request(ranges)):
            if self._cache and data:
                self._cache.store(missed, ranges, number, data)
            fetched_here = ranges.cut(number, data, problem)
            yield [(int(places[place]), patch, reason) for place, patch, reason in fetched_here]

    def close(self) -> None:
        """Close the cache's files."""
        if self._cache:
            self._cache.close()

    def _request(self, ranges: Ranges) -> list[tuple[bytes, str]]:
        """Return each range's bytes, or fewer and why."""
        answers: list[Any] = [ConnectionError("not asked yet")] * len(ranges.shard)
        for attempt in range(self._num_retries + 1):
            failed = [number for number, answer in enumerate(answers) if _is_worth_a_retry(answer)]
            if not failed:
                break
            if attempt:
                time.sleep(min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))
            again = self._files.cat_ranges(
                [self._paths[ranges.shard[number]] for number in failed],
                [ranges.start[number] for number in failed],
                [ranges.stop[number] for number in failed],
                on_error="return",
                **self._options,
            )
            for number, answer in zip(failed, again, strict=True):
                answers[number] = answer
        return [self._judge(ranges, number, answer) for number, answer in enumerate(answers)]

    def _judge(self, ranges: Ranges, number: int, answer: bytes | Exception) -> tuple[bytes, str]:
        start, stop = ranges.start[number], ranges.stop[number]
        where = f"{self._url}/{self._names[ranges.shard[number]]}: bytes {start} to {stop - 1}"
        if isinstance(answer, FileNotFoundError):
            return b"", MISSING
        if isinstance(answer, Exception) and _is_beyond_end(answer):
            return b"", f"the shard is cut short before byte {start}"
        if isinstance(answer, Exception):
            raise InputError(
                f"{where}: no answer after {self._num_retries + 1} tries ({type(answer).__name__}: {scrub(str(answer))}). Check "
                "the network and the access rights, then run the same command again: it goes on where it stopped"
            ) from answer
        if len(answer) > stop - start:
            raise InputError(
                f"{where}: the server sent {len(answer)} bytes instead, so it does not serve byte ranges. "
                "Use a server that does (nginx, S3), or copy the shards to a local disk"
            )
        return bytes(answer), f"the shard is cut short at byte {start + len(answer)}"


def _is_worth_a_retry(answer: bytes | Exception) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError) and not _is_beyond_end(answer)


def _is_beyond_end(error: Exception) -> bool:
    """Does the error say that the range begins after the end of the file? (HTTP status 416; S3's name for it.)"""
    text = str(error)
    return getattr(error, "status", None) == 416 or "InvalidRange" in text or "range is not satisfiable" in text
