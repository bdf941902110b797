"""What a study makes once for all its methods: the cohort, the first encoder of each fold, and the features by it."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.aggregator.bags import features_complete
from hnm.config import load_config
from hnm.encoder.contrastive_model import load_model
from hnm.encoder.embed import embed
from hnm.encoder.simclr import check_batch
from hnm.encoder.start import find_start, require_start
from hnm.engine.ranks import World, main_says
from hnm.evidence.null import permuted_labels
from hnm.run.checksums import whole
from hnm.run.phase import phase
from hnm.run.study import open_study
from hnm.run_rounds import START_ENCODER
from launch.process.run_directory import open_run
from launch.process.session import Opening, session_of
from launch.verbs.crossval_folder import Fold, split_column
from launch.verbs.study_folder import StudyRequest, first_folder, first_request
from launch.verbs.tile import TileRequest, tile
from launch.verbs.train import make_start
from shards.cohort.cohort import FEATURES, Cohort
from shards.files import whole_file, write_json


def make_cohort(request: StudyRequest) -> int:
    """Cut the slides, where a table was given; what is cut is not cut again. Return the exit code of the tiling."""
    if not request.has_table or (request.cohort / "cohort.json").is_file():
        return 0
    overrides = [word for word in request.overrides if word.startswith(("tile.", "data.label_column", "data.positive"))]
    return tile(TileRequest(request.source, request.cohort, request.config, overrides))


def write_null(cohort: Cohort, folder: Path, column: str, seed: int) -> None:
    """Write a view of a cohort whose labels are permuted among its slides that have one and a patch.

    Several processes may do so at a time: they write the same bytes.
    """
    labels = np.where(cohort.patches_per_slide > 0, cohort.labels(column), -1)
    permuted = permuted_labels(labels, cohort.slides["patient_id"].to_numpy(), seed)
    values = pa.array(permuted, cohort.slides[column].type, mask=permuted < 0)
    place = cohort.slides.column_names.index(column)
    table = cohort.slides.set_column(place, column, values)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("shards" if cohort.has_pictures else FEATURES, "patches.parquet"):
        with suppress(FileExistsError):
            os.symlink((cohort.root / name).resolve(), folder / name)
    with whole_file(folder / "slides.parquet") as temporary:
        pq.write_table(table, temporary)
    write_json(folder / "cohort.json", cohort.info)


def is_first_done(request: StudyRequest, key: Fold) -> bool:
    """Are a fold's first features there?"""
    return features_complete(first_folder(request, key) / FEATURES)


def make_first(request: StudyRequest, cohort: Path, key: Fold) -> None:
    """Write a fold's first encoder, given or pretrained, and the features of all slides by it. Every rank must call it."""
    asked, folder = first_request(request, cohort), first_folder(request, key)
    config = load_config(asked.config, None, [*asked.overrides, f"data.split_column={split_column(key)}"])
    config = config.model_copy(update={"seed": config.seed + key[0]})
    start_from = find_start(str(request.encoder), config.encoder) if request.encoder is not None else None
    if start_from is not None:
        config = config.model_copy(update={"encoder": start_from.config})
    else:
        require_start(config.encoder)
    view, start = Cohort.open(asked.out / "cohort"), folder / START_ENCODER
    slides = np.flatnonzero((view.labels(config.data.one_column("hnm study")) >= 0) & (view.patches_per_slide > 0))

    def prepare(world: World) -> None:
        if start_from is None and not start.is_file():
            check_batch(config.pretrain, open_study(view, config.data, config.seed, "hnm study"), world)
        open_run(folder, view, config)

    with session_of(Opening("study", config, view, folder, prepare)) as session:
        if main_says(lambda: features_complete(folder / FEATURES), session.world):
            return
        make_start(start, start_from, config, session)
        model = load_model(whole(start, folder, session.world), config.encoder, session.seed)
        with phase("embed", 0, folder, session) as record:
            embed(model.encoder, slides, config.rounds.embed_batch_size, folder / FEATURES, session, record.keep)
