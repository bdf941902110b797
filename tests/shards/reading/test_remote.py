"""shards.reading.remote and shards.reading.cache: real servers on loopback, dropped connections, a cache within its limit."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading import cache as shard_cache
from shards.reading import remote
from shards.reading.reader import PatchReader, ReaderConfig

MakeCohort = Callable[..., Cohort]
IdsOf = Callable[[torch.Tensor], list[int]]


class Server(ThreadingHTTPServer):
    """Serves files of a folder by byte range; it can drop every n-th connection half-way, or ignore ranges."""

    daemon_threads = True
    request_queue_size = 128  # the default of 5 makes new connections wait a second

    def __init__(self, folder: Path, drop_every: int, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drop_every, self.ranges = folder, drop_every, ranges
        self.num_requests = self.num_bytes = 0
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: dropped connections are the point."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # header and body in one packet
    server: Server

    def do_GET(self) -> None:
        path = self.server.folder / self.path.strip("/")
        if not path.is_file():
            return self.answer(404, b"")
        content, asked = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not self.server.ranges:
            return self.answer(200, content)
        first, last = int(asked[1]), int(asked[2])
        return self.answer(206, content[first : last + 1]) if first < len(content) else self.answer(416, b"")

    def answer(self, status: int, body: bytes) -> None:
        with self.server.lock:
            self.server.num_requests += 1
            self.server.num_bytes += len(body)
            drop = self.server.drop_every and self.server.num_requests % self.server.drop_every == 0
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if drop else body)
        self.close_connection = bool(drop)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(cohort: Cohort, drop_every: int = 0, ranges: bool = True) -> Iterator[tuple[Server, str]]:
    """Serve a cohort's shards; the local ones are out of reach meanwhile."""
    folder = cohort.root / "elsewhere"
    os.rename(cohort.root / "shards", folder)
    server = Server(folder, drop_every, ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    return make_cohort(counts=(60, 50, 70), slides=(0, 0, 1))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon, and ask for each patch alone, so that small cohorts make many requests."""
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "_MAX_GAP", -1)


def config(url: str, **fields: Any) -> ReaderConfig:
    return ReaderConfig(shards_url=url, **fields)


def test_over_http(cohort: Cohort, ids_of: IdsOf) -> None:
    rows = [np.random.default_rng(n).permutation(180)[:20] for n in range(6)]
    with served(cohort) as (_, url), PatchReader(cohort, config(url)) as reader:
        for ids, images in reader.batches(rows):
            assert ids_of(images) == ids.tolist()


def test_every_tenth_connection_drops_and_nothing_is_lost(cohort: Cohort, ids_of: IdsOf) -> None:
    rows = np.random.default_rng(0).permutation(180).reshape(9, 20)
    with served(cohort, drop_every=10) as (server, url), PatchReader(cohort, config(url)) as reader:
        seen = [ids_of(images) for _, images in reader.batches(rows)]
        assert seen == rows.tolist()
        assert server.num_requests > 190  # 180 patches, and the dropped ones again


def test_neighbours_are_one_request(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MAX_GAP", 4096)
    with served(cohort) as (server, url), PatchReader(cohort, config(url)) as reader:
        _ = reader.image_shape
        reader.read(np.arange(180))
        assert server.num_requests == 1 + 3


def test_a_server_that_always_drops(cohort: Cohort) -> None:
    message = r"slide0-0000\.tar: bytes \d+ to \d+: no answer after 3 tries \(\w+: .*run the same command"
    with served(cohort, drop_every=1) as (_, url), pytest.raises(InputError, match=message):
        PatchReader(cohort, config(url, num_retries=2)).read(np.array([3]))


def test_a_network_error_is_no_broken_patch(cohort: Cohort) -> None:
    with served(cohort, drop_every=1) as (_, url):
        skip = config(url, num_retries=1, broken="skip", max_broken_share=1)
        with PatchReader(cohort, skip) as reader, pytest.raises(InputError, match="no answer after 2 tries"):
            reader.read(np.array([3]))
        assert not reader.broken.problem_of


def test_a_server_without_ranges(cohort: Cohort) -> None:
    with served(cohort, ranges=False) as (_, url), pytest.raises(InputError, match="does not serve byte ranges"):
        PatchReader(cohort, config(url)).read(np.array([3]))


def test_missing_and_short_shards_are_broken_patches(cohort: Cohort, ids_of: IdsOf) -> None:
    end = int(cohort.patches.offset[20])
    with served(cohort) as (server, url):
        (server.folder / "slide0-0001.tar").unlink()
        os.truncate(server.folder / "slide0-0000.tar", end + 3)
        with PatchReader(cohort, config(url, broken="skip", max_broken_share=0.5)) as reader:
            assert ids_of(reader.read(np.array([0, 20, 30, 61, 110]))) == [0, 0, 0, 0, 110]
            problems = reader.broken.problem_of
        assert problems[61] == "the shard is missing"
        assert problems[20] == f"the shard is cut short at byte {end + 3}"
        assert problems[30] == f"the shard is cut short before byte {cohort.patches.offset[30]}"


def test_an_unknown_kind_of_url(cohort: Cohort) -> None:
    with pytest.raises(InputError, match=r"shards_url nosuch://x: .*pip install"):
        PatchReader(cohort, config("nosuch://x"))


def test_the_cache_keeps_what_was_fetched(cohort: Cohort, ids_of: IdsOf, tmp_path: Path) -> None:
    ids = np.array([5, 170, 100, 5])
    with served(cohort) as (server, url):
        with PatchReader(cohort, config(url, cache_dir=tmp_path / "cache")) as reader:
            reader.read(ids)
        asked = server.num_requests
        with PatchReader(cohort, config(url, cache_dir=tmp_path / "cache")) as reader:
            assert ids_of(reader.read(np.array([0, 170, 5]))) == [0, 170, 5]
        assert server.num_requests == asked  # patch 0 was fetched for the image size
        assert {path.name for path in (tmp_path / "cache" / cohort.fingerprint).iterdir()} == {
            "checksums.u32", "slide0-0000.tar", "slide0-0001.tar", "slide1-0002.tar",
        }  # fmt: skip


def test_cached_bytes_that_changed_are_fetched_again(cohort: Cohort, ids_of: IdsOf, tmp_path: Path) -> None:
    with served(cohort) as (server, url), PatchReader(cohort, config(url, cache_dir=tmp_path / "cache")) as reader:
        reader.read(np.array([5, 6]))
        with open(tmp_path / "cache" / cohort.fingerprint / "slide0-0000.tar", "r+b") as file:
            file.seek(int(cohort.patches.offset[5]) + 30)
            file.write(bytes(8))
        asked = server.num_requests
        assert ids_of(reader.read(np.array([5, 6]))) == [5, 6]
        assert server.num_requests == asked + 1


def test_the_cache_stays_below_its_limit(cohort: Cohort, ids_of: IdsOf, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / cohort.fingerprint
    limit = 120_000  # the three shards take 60 to 80 kB each in 4 kB blocks
    with served(cohort) as (_, url):
        small = config(url, cache_dir=tmp_path / "cache", cache_gb=limit / 1e9)
        with PatchReader(cohort, small) as reader:
            for ids in np.random.default_rng(0).permutation(180).reshape(18, 10):
                assert ids_of(reader.read(ids)) == ids.tolist()
                assert sum(path.stat().st_blocks * 512 for path in folder.glob("*.tar")) <= limit
            assert ids_of(reader.read(np.arange(180))) == list(range(180))


def test_two_writers_share_a_cache(cohort: Cohort, ids_of: IdsOf, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    names = cohort.info["shards"]
    with served(cohort) as (server, url):
        first, second = (PatchReader(cohort, config(url, cache_dir=folder)) for _ in range(2))
        first.read(np.arange(90))
        asked = server.num_requests
        assert ids_of(second.read(np.arange(1, 90))) == list(range(1, 90))
        assert server.num_requests == asked
        # A third one opens it with a tiny limit and empties it: the others see holes, and fetch again.
        shard_cache.ShardCache(folder / cohort.fingerprint, names, 180, 1, 4).close()
        assert ids_of(second.read(np.arange(90))) == list(range(90))


def test_over_s3(cohort: Cohort, ids_of: IdsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "client_kwargs": {"region_name": "eu-central-1"}}
    try:
        files = fsspec.filesystem("s3", **options)
        files.mkdir("slides")
        for name in cohort.info["shards"]:
            files.put(str(cohort.root / "shards" / name), f"slides/cohort/{name}")
        short = cohort.patches.offset[175]
        files.pipe("slides/cohort/slide1-0002.tar", cohort.shard_path(2).read_bytes()[:short])
        skip = config("s3://slides/cohort", storage_options=options, broken="skip", max_broken_share=0.5)
        with PatchReader(cohort, skip) as reader:
            assert ids_of(reader.read(np.array([0, 59, 60, 150, 179, 176]))) == [0, 59, 60, 150, 110, 110]
            files.rm("slides/cohort/slide0-0001.tar")
            assert ids_of(reader.read(np.array([61]))) == [0]
            assert reader.broken.problem_of[61] == "the shard is missing"
            assert "cut short" in reader.broken.problem_of[179]
    finally:
        server.stop()
