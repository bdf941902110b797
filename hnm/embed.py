"""Embed: every patch of the chosen slides through the frozen encoder, without augmentation, as float16 rows.

The batches lie on one grid over the patches, and a rank takes a contiguous run of whole batches: what is computed
together, and so every bit of the features, does not depend on the number of ranks.
"""

from pathlib import Path

import numpy as np
import torch

from hnm.augment import to_float
from hnm.bags import file_of_rank, write_index
from hnm.encoder import Encoder
from hnm.session import Session
from launch.distributed import barrier
from shards.files import whole_file
from shards.plan import embedding_batches


@torch.inference_mode()
def embed(encoder: Encoder, slides: np.ndarray, batch_size: int, folder: Path, session: Session) -> None:
    """Write the features of all patches of `slides` to `folder` (see hnm/bags.py). Every rank must call it.

    Args:
        encoder: its weights are the same on all ranks.
        slides: (s,) increasing slide numbers.
        batch_size: patches a forward pass.
    """
    world, study = session.world, session.study
    encoder.to(world.device).eval()
    ids = study.patches_of(slides)
    batches = embedding_batches(len(ids), batch_size, world.rank, world.size)
    num_rows = sum(stop - start for start, stop in batches)
    with whole_file(folder / file_of_rank(world.rank)) as temporary:
        features = np.lib.format.open_memmap(temporary, "w+", np.float16, (num_rows, encoder.feature_dim))
        row = 0
        read = session.reader.batches([ids[start:stop] for start, stop in batches])
        for _, images in session.journal.progress(read, "embed", len(batches)):
            block = encoder(to_float(images.to(world.device)))
            features[row : row + len(block)] = block.cpu().numpy()
            row += len(block)
        features.flush()
    barrier(world)
    if world.is_main:
        write_index(folder, slides, np.diff(study.cohort.patch_bounds)[slides], world.size)
    barrier(world)
