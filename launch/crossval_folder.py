"""The folder of a cross-validation: who may write it, the cohort with its split columns, where each fold's run is."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.config import Config, difference, dump_config, read_config
from hnm.folds import draw_folds, splits_of_fold
from hnm.rounds import START_ENCODER
from hnm.weights import load_weights
from shards.claim import claimed
from shards.cohort import Cohort
from shards.errors import InputError
from shards.files import whole_file, write_json

POLL_S = 0.2
Fold = tuple[int, int]  # (repeat, fold), both from 0


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    cohort: Path
    out: Path
    num_folds: int
    repeats: int
    share: str | None
    config: str | None
    preset: str | None
    overrides: list[str]
    encoder: Path | None
    encoders_of: Path | None
    ranks: int


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process of the same cross-validation opens the folder; then this one may.

    Raises:
        InputError: the folder holds something else.
    """
    if out.exists() and not (out / "locks").is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is no cross-validation of hnm. Choose another name or remove it")
    while True:
        with claimed(out / "locks" / "open.json") as claim:
            if claim is not None:
                yield
                return
        time.sleep(POLL_S)


def open_folder(request: Request, config: Config, cohort: Cohort) -> None:
    """Create the folder, or check that it belongs to this cross-validation; write the cohort with a split column a fold.

    Raises:
        InputError: the folder holds something else, or folds, settings or cohort differ.
    """
    out, record = request.out, request.out / "crossval.json"
    asked = {"cohort": str(cohort.root.resolve()), "fingerprint": cohort.fingerprint, "folds": request.num_folds}
    if record.is_file():
        known = read_record(out)
        changed = [f"{name}: {known[name]} -> {asked[name]}" for name in ("fingerprint", "folds") if known[name] != asked[name]]
        changed += [
            line
            for line in difference(read_config(out / "config.yaml"), config)
            if not line.startswith(("device:", "reader.", "tracking."))
        ]
        if request.repeats < known["repeats"]:
            changed.append(f"repeats: {known['repeats']} -> {request.repeats}")
        if changed:
            raise InputError(
                f"{out}: this cross-validation was started with other settings ({'; '.join(changed)}). Use another folder, "
                "or the settings it was started with"
            )
    write_cohort(request, config, cohort)
    with whole_file(out / "config.yaml") as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    write_json(record, {**asked, "repeats": request.repeats})


def read_record(out: Path) -> dict[str, Any]:
    """Return crossval.json.

    Raises:
        InputError: there is none.
    """
    if not (out / "crossval.json").is_file():
        raise InputError(f"{out}: no cross-validation here (crossval.json is missing). Make one with: hnm crossval COHORT {out}")
    record: dict[str, Any] = json.loads((out / "crossval.json").read_text(encoding="utf-8"))
    return record


def write_cohort(request: Request, config: Config, cohort: Cohort) -> None:
    """Write OUT/cohort: the same tars and patches by link, slides.parquet with a split column for each fold.

    Several processes may do so at a time: they write the same bytes.
    """
    folder = request.out / "cohort"
    labels = np.where(cohort.patches_per_slide > 0, cohort.labels(config.data.label_column), -1)
    patients, table = cohort.slides["patient_id"].to_numpy(), cohort.slides
    for repeat in range(request.repeats):
        folds = draw_folds(patients, labels, request.num_folds, config.seed + repeat)
        for fold in range(request.num_folds):
            values = pa.array(splits_of_fold(folds, fold, request.num_folds), pa.string())
            table = table.append_column(split_column((repeat, fold)), values)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("shards", "patches.parquet"):
        with suppress(FileExistsError):
            os.symlink((cohort.root / name).resolve(), folder / name)
    with whole_file(folder / "slides.parquet") as temporary:
        pq.write_table(table, temporary)
    write_json(folder / "cohort.json", cohort.info)


def split_column(key: Fold) -> str:
    """Return the split column of one fold."""
    return f"split_{key[0]}_{key[1]}"


def run_folder(out: Path, key: Fold) -> Path:
    """Return the run directory of one fold."""
    return out / f"repeat-{key[0]}" / f"fold-{key[1]}"


def encoder_of_other(other: Path, out: Path, key: Fold) -> Path:
    """Return the encoder that the same fold of another cross-validation started from.

    Raises:
        InputError: its folds are not the same, or it has not pretrained this one yet.
    """
    columns = [pq.read_table(folder / "cohort" / "slides.parquet") for folder in (other, out) if read_record(folder)]
    name = split_column(key)
    same = name in columns[0].column_names and all(
        columns[0][column].equals(columns[1][column]) for column in ("slide_id", name)
    )
    if not same or read_record(other)["fingerprint"] != read_record(out)["fingerprint"]:
        raise InputError(f"--encoders-of {other}: its cohort or folds are not those of {out}. Give the same --folds and seed")
    encoder = run_folder(other, key) / START_ENCODER
    if not encoder.is_file():
        raise InputError(f"--encoders-of {other}: {encoder} is not there yet. Let that cross-validation do this fold first")
    return encoder


def require_foreign(encoder: Path | None, cohort: Cohort) -> None:
    """Refuse a start encoder that may have seen test patches: one of ours that was not trained on another cohort.

    Raises:
        InputError: saying what is allowed.
    """
    if encoder is None or encoder.suffix != ".safetensors":
        return
    weights, metadata = load_weights(encoder)
    is_ours = any(name.startswith("projection.") for name in weights)
    if is_ours and metadata.get("cohort") in (None, cohort.fingerprint):
        raise InputError(
            f"--encoder {encoder}: an encoder that hnm trained, on this cohort or on an unknown one: it may have seen the "
            "test patches. Leave --encoder out (each fold pretrains its own), or share them: --encoders-of OTHER_CROSSVAL"
        )
