"""How fast planned patches come off the disk: ours, stock WebDataset, a folder of JPEG files, and the decoder's limit.

    python -m benchmarks.reader [--quick] [--colon ../shared/data/colon] [--folder TMP]

Each method yields (batch, px, px, 3) uint8 batches of the same randomly selected patches, decoded by simplejpeg, with 1
and 2 workers (threads for ours and the limit, loader processes for the others), files in the page cache. Rates are
images per second, the best of several interleaved repeats: other work on the machine only ever slows a repeat. The
last line is JSON; `ratio_to_limit` and `ratio_to_webdataset` are the lower of the ratios with 1 and with 2 workers.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from torch.utils.data import DataLoader, Dataset

from benchmarks.about import about
from benchmarks.reader_data import load_images, make_cohort
from shards.cohort.cohort import Cohort
from shards.reading.plan import plan_epoch
from shards.reading.reader import PatchReader, ReaderConfig

BATCH = 256
SHARES = {"100": 1.0, "20": 0.2, "5": 0.05}
WORKERS = (1, 2)

Method = Callable[[Cohort, np.ndarray, int], float]
READERS: dict[tuple[Path, int], PatchReader] = {}  # opened once by cohort and workers, as a training run opens one


def ours(cohort: Cohort, ids: np.ndarray, num_workers: int) -> float:
    """Read through `PatchReader.batches` in random order, by a reader that lives for all epochs; return seconds."""
    start = time.perf_counter()
    plan = plan_epoch(ids, BATCH, np.random.default_rng(0))
    reader = READERS.setdefault((cohort.root, num_workers), PatchReader(cohort, ReaderConfig(threads=num_workers)))
    num_images = sum(len(images) for _, images in reader.batches(row[row >= 0] for row in plan))
    return _seconds(start, num_images, ids)


def webdataset(cohort: Cohort, ids: np.ndarray, num_workers: int) -> float:
    """Read with stock WebDataset, selecting by key before decoding; return seconds."""
    start = time.perf_counter()
    chosen = set(ids.tolist())
    urls = [str(cohort.shard_path(shard)) for shard in range(len(cohort.info["shards"]))]
    dataset = (
        wds.WebDataset(urls, shardshuffle=False)
        .select(lambda sample: int(sample["__key__"].split("_")[1]) in chosen)
        .map(lambda sample: simplejpeg.decode_jpeg(sample["jpg"]))
        .batched(BATCH, collation_fn=_stack)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=num_workers)
    return _seconds(start, sum(len(images) for images in loader), ids)


def files(cohort: Cohort, ids: np.ndarray, num_workers: int) -> float:
    """Read one JPEG file per patch with a shuffling torch DataLoader; return seconds."""
    start = time.perf_counter()
    dataset = JpegFiles(cohort.root / "files", ids)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=num_workers, collate_fn=_stack)
    return _seconds(start, sum(len(images) for images in loader), ids)


def limit(cohort: Cohort, ids: np.ndarray, num_workers: int) -> float:
    """Decode the same bytes from memory, into batches that are used again, in threads; return seconds."""
    jpegs = [(cohort.root / "files" / f"{patch_id}.jpg").read_bytes() for patch_id in ids]
    shape = simplejpeg.decode_jpeg(jpegs[0]).shape

    def decode(part: list[bytes]) -> int:
        batch = np.empty((BATCH, *shape), dtype=np.uint8)
        for place, jpeg in enumerate(part):
            simplejpeg.decode_jpeg(jpeg, buffer=batch[place % BATCH])
        return len(part)

    start = time.perf_counter()
    with ThreadPoolExecutor(num_workers) as pool:
        parts = [jpegs[worker::num_workers] for worker in range(num_workers)]
        return _seconds(start, sum(pool.map(decode, parts)), ids)


METHODS: dict[str, Method] = {"ours": ours, "webdataset": webdataset, "files": files, "limit": limit}


class JpegFiles(Dataset[np.ndarray]):
    """A folder with a JPEG file per patch."""

    def __init__(self, folder: Path, ids: np.ndarray) -> None:
        self._paths = [folder / f"{patch_id}.jpg" for patch_id in ids]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return simplejpeg.decode_jpeg(self._paths[index].read_bytes())


def measure(cohort: Cohort, repeats: int, min_seconds: float) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Yield (share, workers, images per second by method) for one cohort.

    Args:
        cohort: the patches.
        repeats: runs of each method for a case, at least.
        min_seconds: a case is repeated for at least this long: the small shares take a fraction of a second.
    """
    for share, value in SHARES.items():
        num_ids = round(cohort.num_patches * value)
        ids = np.sort(np.random.default_rng(1).permutation(cohort.num_patches)[:num_ids])
        for num_workers in WORKERS:
            seconds: dict[str, list[float]] = {name: [] for name in METHODS}
            begun = time.perf_counter()
            while len(seconds["ours"]) < repeats or time.perf_counter() - begun < min_seconds:
                for name, method in METHODS.items():
                    seconds[name].append(method(cohort, ids, num_workers))
            yield share, num_workers, {name: num_ids / min(times) for name, times in seconds.items()}


def run(
    num_patches_of_px: dict[int, int], subsampling: str, effort: tuple[int, float], colon: Path, folder: Path
) -> dict[str, Any]:
    """Measure every patch size and return the result; `effort` is `measure`'s repeats and min_seconds."""
    ratios: dict[str, dict[str, float]] = {"ratio_to_limit": {}, "ratio_to_webdataset": {}, "ratio_to_files": {}}
    rates: dict[str, dict[str, int]] = {}
    for px, num_patches in num_patches_of_px.items():
        cohort = make_cohort(folder / f"{px}px", load_images(colon), num_patches, px, subsampling)
        for share, num_workers, rate in measure(cohort, *effort):
            case = f"{px}px_{share}"
            rates[f"{case}_{num_workers}_workers"] = {name: round(value) for name, value in rate.items()}
            print(case, num_workers, "workers, images/s:", rates[f"{case}_{num_workers}_workers"], flush=True)
            for key, by_case in ratios.items():
                ratio = round(rate["ours"] / rate[key.removeprefix("ratio_to_")], 3)
                by_case[case] = min(by_case.get(case, ratio), ratio)
    return {**ratios, "images_per_s": rates}


def main() -> None:
    """Parse the command line, measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer patches, under a minute")
    parser.add_argument("--px", type=int, choices=(224, 96), help="only this patch size")
    subsampling_help = "of colour: 444 as hnm tile writes it; 420 as most programs do by default, a third less to decode"
    parser.add_argument("--subsampling", choices=("444", "420"), default="444", help=subsampling_help)
    parser.add_argument("--colon", type=Path, default=Path("../shared/data/colon"), help="H&E images for the texture")
    parser.add_argument("--folder", type=Path, default=None, help="where the test files go for the time of the run")
    args = parser.parse_args()
    torch.set_num_threads(1)  # nothing here is computed by torch; its threads would only take cores from the workers
    num_patches_of_px = {224: 2000, 96: 6000} if args.quick else {224: 40_000, 96: 40_000}
    num_patches_of_px = {px: num for px, num in num_patches_of_px.items() if args.px in (None, px)}
    effort = (1, 2.0) if args.quick else (3, 10.0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = run(num_patches_of_px, args.subsampling, effort, args.colon, Path(folder))
    head = about("reader", args.quick, ("numpy", "torch", "simplejpeg", "webdataset"))
    head |= {"subsampling": args.subsampling, "num_patches": {str(px): num for px, num in num_patches_of_px.items()}}
    print(json.dumps({**head, **result}))


def _stack(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


def _seconds(start: float, num_images: int, ids: np.ndarray) -> float:
    seconds = time.perf_counter() - start
    if num_images != len(ids):
        raise RuntimeError(f"{num_images} images came instead of {len(ids)}")
    return seconds


if __name__ == "__main__":
    main()
