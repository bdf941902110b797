"""Embed: every patch of the chosen slides through the frozen encoder, without augmentation, as float16 rows.

The batches lie on one grid over the patches, and a rank takes a contiguous run of whole batches: what is computed
together, and so every bit of the features, does not depend on the number of ranks. A rank writes its rows in up to 16 files,
each whole or absent; after a stop, those that stand are not computed again (on as many ranks as before).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hnm.aggregator.bags import as_rows, file_of_rows, write_index
from hnm.encoder.augment import to_float
from hnm.encoder.networks import Encoder
from hnm.engine.engine import Forward, for_inference
from hnm.engine.ranks import barrier, max_over_ranks
from hnm.run.session import Session
from hnm.run.slide_rows import Rows
from shards.files import ask_for_space, whole_file, write_array
from shards.reading.plan import embedding_batches

FILES_PER_RANK = 16  # what a stop may cost: a sixteenth of a rank's work
MIN_BATCHES_PER_FILE = 8

Batches = list[tuple[int, int]]
Batch = tuple[np.ndarray, torch.Tensor]  # patch ids and images


@torch.inference_mode()
def embed(
    encoder: Encoder,
    slides: np.ndarray,
    batch_size: int,
    folder: Path,
    session: Session,
    before_index: Callable[[], None] = lambda: None,
    rows: Rows | None = None,
) -> None:
    """Write the features of the patches of `slides` to `folder` (see hnm/aggregator/bags.py). Every rank must call it.

    Args:
        encoder: its weights are the same on all ranks.
        slides: (s,) increasing slide numbers.
        batch_size: patches a forward pass.
        rows: their patches; None: all of them.
        before_index: called on every rank when all rows are written, before they are declared complete.

    Raises:
        FloatingPointError: features are not finite, see `hnm.aggregator.bags.as_rows`.
        Preempted: a rank was asked to stop; the files written so far stay.
    """
    world, study = session.world, session.study
    forward = for_inference(encoder, session.engine, world)
    rows = study.rows_of(slides) if rows is None else rows
    files = [file_batches(rows.num_rows, batch_size, rank, world.size) for rank in range(world.size)]
    mine = files[world.rank]
    missing = [batches for batches in mine if not _is_written(folder / file_of_batches(batches), session)]
    num_batches, num_missing = (sum(len(batches) for batches in some) for some in (mine, missing))
    read = session.reader.batches(rows.ids(start, stop) for batches in missing for start, stop in batches)
    counted = session.journal.progress(read, "embed", num_batches, num_batches - num_missing)
    most = max_over_ranks(num_missing, world)
    for batches in missing:
        with whole_file(folder / file_of_batches(batches)) as temporary:
            _write_rows(forward, encoder.feature_dim, batches, counted, temporary, session)
            if len(broken := session.reader.broken.ids):  # a process that goes on here must know them, too
                write_array(broken_beside(folder / file_of_batches(batches)), broken)
    for _ in range(num_missing, most):  # ranks differ by a batch, or by what was there: all ask as often
        session.stop_if_asked()
    barrier(world)
    before_index()
    if world.is_main:
        names = [file_of_batches(batches) for of_rank in files for batches in of_rank]
        for path in folder.glob("rows-*.npy"):  # of a process on another number of ranks
            if path.name not in names:
                path.unlink()
        write_index(folder, slides, rows.per_slide, names)
    barrier(world)


def file_batches(num_rows: int, batch_size: int, rank: int, world_size: int) -> list[Batches]:
    """Return the batches of each file that a rank writes, (start, stop) rows.

    Args:
        num_rows: rows of all ranks.
        batch_size: rows of a batch.
    """
    batches = embedding_batches(num_rows, batch_size, rank, world_size)
    per_file = max(MIN_BATCHES_PER_FILE, -(-len(batches) // FILES_PER_RANK))
    return [batches[i : i + per_file] for i in range(0, len(batches), per_file)]


def file_of_batches(batches: Batches) -> str:
    """Return the name of the file that holds these batches' rows."""
    return file_of_rows(batches[0][0], batches[-1][1])


def broken_beside(path: Path) -> Path:
    """Return the file with the ids of the broken patches that were met before `path` was done."""
    return path.with_suffix(".broken.npy")


def _is_written(path: Path, session: Session) -> bool:
    """Return whether a file of features stands; if so, take over what could not be read for it."""
    if path.is_file() and broken_beside(path).is_file():
        for patch_id in np.load(broken_beside(path)):
            session.reader.broken.record(int(patch_id), "could not be read before the run was stopped")
    return path.is_file()


def _write_rows(
    forward: Forward, dim: int, batches: Batches, read: Iterator[Batch], path: Path, session: Session
) -> None:
    """Embed the next batches of `read` into a new file. Every rank must call it, and asks after each batch whether to stop."""
    first, last = batches[0][0], batches[-1][1]
    # plain writes, not a memory map: on a full disk that would be a bus error instead of an exception
    with open(path, "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (last - first, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        ask_for_space(file, 2 * dim * (last - first))
        for _ in batches:
            ids, images = next(read)
            block = forward(to_float(images.to(session.world.device))).float()
            rows = as_rows(block, partial(_name_of_patch, session, ids))
            file.write(rows.astype("<f2").tobytes())
            session.stop_if_asked()


def _name_of_patch(session: Session, ids: np.ndarray, place: int) -> str:
    cohort = session.study.cohort
    return f"patch {ids[place]} of slide {cohort.slide_ids[cohort.patches.slide[ids[place]]]!r}"
