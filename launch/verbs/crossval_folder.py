"""The folder of a cross-validation: who may write it, the cohort with its split columns, where each fold's run is."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnm.config import Config, ConfigError, difference, read_config, record_config
from hnm.engine.state import load_weights
from hnm.report.page import REPORT_FILE
from hnm.rounds import require_pictures_of_rounds
from hnm.run.heartbeat import BEAT_EVERY_S
from hnm.run.seen import changes
from hnm.run_rounds import START_ENCODER
from launch.process.local import stop_if_asked
from launch.process.preemption import StopSignals
from launch.process.run_directory import FREE_SETTINGS, REMOTE_TIMEOUT_S, SUBFOLDER, WAIT_FOR_CLAIM_S
from launch.verbs.crossval_folds import drawn_by, folds_of
from shards.claim import Waiting, claimed, touched
from shards.cohort.cohort import FEATURES, Cohort
from shards.cohort.corrections import CORRECTIONS
from shards.errors import InputError
from shards.files import whole_file, write_json

POLL_S = 0.2
Fold = tuple[int, int]  # (repeat, fold), both from 0


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        features_of: of a study: the folder with a fold's first features, embedded before by the start encoder.
    """

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
    reports: bool = False
    features_of: Callable[[Fold], Path | None] = lambda key: None


def check(request: Request, config: Config) -> Cohort:
    """Refuse what cannot be cross-validated, or not in this folder; nothing is written. Return the cohort.

    Raises:
        InputError: what trains could have seen test patches, there are too few patients, or the folder holds something else,
            or a cross-validation with other folds, settings or cohort.
    """
    if config.data.encoder_splits != ["train"]:
        raise InputError(
            f"data.encoder_splits is {config.data.encoder_splits}: in a cross-validation no validation patch may train. "
            "Add data.encoder_splits=[train]"
        )
    share_of_folds(request)
    cohort, out = Cohort.open(request.cohort), request.out
    require_pictures_of_rounds(config, cohort)
    if request.encoder is not None or request.encoders_of is not None:
        cohort.require_pictures("An encoder")
    require_foreign(request.encoder, cohort)
    if request.encoders_of is not None:
        read_record(request.encoders_of)
    folds_of(config, cohort, request.num_folds, 0)
    is_ours = not out.exists() or (out / "locks").is_dir()
    if not is_ours and (not out.is_dir() or any(path.name != SUBFOLDER for path in out.iterdir())):
        raise InputError(f"{out}: exists and is no cross-validation of hnm. Choose another name or remove it")
    _require_same(request, config, cohort)
    return cohort


def _require_same(request: Request, config: Config, cohort: Cohort) -> None:
    """Refuse other folds, settings or cohort than it was started with, but for what decides only where and how."""
    if not is_crossval(request.out):
        return
    known, asked = read_record(request.out), _record(request, cohort)
    changed = [f"{name}: {known[name]} -> {asked[name]}" for name in ("fingerprint", "folds") if known[name] != asked[name]]
    lines = difference(read_config(request.out / "config.yaml"), config)
    changed += [line for line in lines if not line.startswith(FREE_SETTINGS)]
    if not changed and (request.out / "cohort" / "cohort.json").is_file():
        changed += changes(drawn_by(Cohort.open(request.out / "cohort"), config), drawn_by(cohort, config))
    if request.repeats < known["repeats"]:
        changed.append(f"repeats: {known['repeats']} -> {request.repeats}")
    if changed:
        raise InputError(
            f"{request.out}: this cross-validation was started with other settings ({'; '.join(changed)}). Use another "
            "folder, or the settings it was started with"
        )


def _record(request: Request, cohort: Cohort) -> dict[str, Any]:
    asked = {"cohort": str(cohort.root.resolve()), "fingerprint": cohort.fingerprint, "folds": request.num_folds}
    return {**asked, "repeats": request.repeats}


def all_folds(request: Request) -> Iterator[Fold]:
    """Yield every (repeat, fold)."""
    for repeat in range(request.repeats):
        for fold in range(request.num_folds):
            yield repeat, fold


def share_of_folds(request: Request) -> list[Fold]:
    """Return the folds that this process is to do: all, or with --fold I/N every N-th from the I-th on.

    Raises:
        ConfigError: --fold is not I/N with I from 1 to N.
    """
    everything = list(all_folds(request))
    if request.share is None:
        return everything
    number, _, count = request.share.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--fold {request.share}: write I/N with I from 1 to N, such as $SLURM_ARRAY_TASK_ID/{len(everything)}")
    return everything[int(number) - 1 :: int(count)]


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process of the same cross-validation opens the folder; then this one may."""
    waiting = Waiting(str(out))
    while True:
        with claimed(out / "locks" / "open.json", REMOTE_TIMEOUT_S) as claim:
            if claim is not None:
                with touched(out / "locks" / "open.json", BEAT_EVERY_S):
                    yield
                return
        waiting.tell(out / "locks" / "open.json")
        time.sleep(POLL_S)


@contextmanager
def claim_of_fold(request: Request, key: Fold, signals: StopSignals) -> Iterator[bool]:
    """Hold a fold during the block, and say whether this process got it.

    A process with a share of its own waits for one that does not let go, as long as it takes the claim of another machine
    that has died to grow old: a job that lost its node begins again on the next. Others leave the fold at once.

    Raises:
        Preempted: asked to stop while it waits.
    """
    path = request.out / "locks" / f"repeat-{key[0]}-fold-{key[1]}.json"
    wait_s = WAIT_FOR_CLAIM_S if request.share else 0.0
    give_up, waiting = time.monotonic() + wait_s, Waiting(f"{path.stem} of {request.out}", f" up to {wait_s:.0f} s for its end")
    while True:
        with claimed(path, REMOTE_TIMEOUT_S) as claim:
            if claim is not None:
                with touched(path, BEAT_EVERY_S):
                    yield True
                return
        if time.monotonic() >= give_up:
            yield False
            return
        waiting.tell(path)
        stop_if_asked(signals)
        time.sleep(POLL_S)


def open_folder(request: Request, config: Config, cohort: Cohort) -> None:
    """Write what the folder holds before its folds: the request, and the cohort with a split column for each. Call it alone.

    Raises:
        InputError: the folder holds a cross-validation with other folds, settings or cohort.
    """
    _require_same(request, config, cohort)
    write_cohort(request, config, cohort)
    record_config(request.out / "config.yaml", config)
    write_json(request.out / "crossval.json", _record(request, cohort))


def is_crossval(folder: Path) -> bool:
    """Is this a folder that `hnm crossval` writes?"""
    return (folder / "crossval.json").is_file()


def read_record(out: Path) -> dict[str, Any]:
    """Return crossval.json.

    Raises:
        InputError: there is none.
    """
    if not is_crossval(out):
        raise InputError(f"{out}: no cross-validation here (crossval.json is missing). Make one with: hnm crossval COHORT {out}")
    record: dict[str, Any] = json.loads((out / "crossval.json").read_text(encoding="utf-8"))
    return record


def write_cohort(request: Request, config: Config, cohort: Cohort) -> None:
    """Write OUT/cohort: the same tars and patches by link, slides.parquet with a split column for each fold.

    Several processes may do so at a time: they write the same bytes.
    """
    folder = request.out / "cohort"
    table = cohort.slides
    for repeat in range(request.repeats):
        folds = folds_of(config, cohort, request.num_folds, repeat)
        for fold in range(request.num_folds):
            values = pa.array(folds.splits(fold), pa.string())
            table = table.append_column(split_column((repeat, fold)), values)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("shards" if cohort.has_pictures else FEATURES, "patches.parquet"):
        with suppress(FileExistsError):
            os.symlink((cohort.root / name).resolve(), folder / name)
    if not is_crossval(request.out) and (cohort.root / CORRECTIONS).is_file():  # of the beginning: folds are to know the same
        with whole_file(folder / CORRECTIONS) as temporary:
            shutil.copyfile(cohort.root / CORRECTIONS, temporary)
    with whole_file(folder / "slides.parquet") as temporary:
        pq.write_table(table, temporary)
    write_json(folder / "cohort.json", cohort.info)


def count_without_patch(request: Request, config: Config) -> dict[str, int]:
    """Return how many slides have a label and gave no patch, and how many of them are positive: they are in no fold."""
    cohort = Cohort.open(request.out / "cohort")
    labels = cohort.labels(config.data.one_column("hnm crossval"))[cohort.patches_per_slide == 0]
    return {"slides": int((labels >= 0).sum()), "positive": int((labels == 1).sum())}


def split_column(key: Fold) -> str:
    """Return the split column of one fold."""
    return f"split_{key[0]}_{key[1]}"


def run_folder(out: Path, key: Fold) -> Path:
    """Return the run directory of one fold."""
    return out / f"repeat-{key[0]}" / f"fold-{key[1]}"


def is_done(request: Request, key: Fold) -> bool:
    """Return whether a fold is evaluated, and has its own page if that is asked for."""
    folder = run_folder(request.out, key)
    return (folder / "metrics.json").is_file() and (not request.reports or (folder / REPORT_FILE).is_file())


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
