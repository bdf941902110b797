"""A trained model as one thing: encoder, aggregator, thresholds and how patches are cut; of a run, or exported from one.

    run/ ──describe_run──▶ Description ◀──model.json── exported folder
                               │
                               ▼  open_model
                     Model: encoder, aggregator, on a device

What is exported needs neither the run nor its cohort: `hnm predict` takes it on another machine.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from hnm.aggregator.aggregators import Aggregator, build_aggregator
from hnm.config import Config, ConfigError, read_config
from hnm.encoder.networks import Encoder
from hnm.encoder.weights import load_encoder
from hnm.engine.ranks import single_world
from hnm.engine.state import load_weights
from hnm.evidence.measure import warnings_of
from hnm.evidence.patients import patient_threshold
from hnm.evidence.without_patch import explain_without_patch
from hnm.installed import commit_of_code
from hnm.model.known import SEEN_FILE, KnownSlides, known_of_run, read_known
from hnm.report.record import RunRecord
from hnm.run.broken import count_broken
from hnm.run.checksums import require_whole
from hnm.run_rounds import encoder_of_round, round_folder
from shards.errors import InputError
from shards.files import plain_name
from shards.tiling.tile_config import OF_ITS_SLIDES

FORMAT_VERSION = 1
MODEL_FILE, ENCODER_FILE, AGGREGATOR_FILE = "model.json", "encoder.safetensors", "aggregator.safetensors"


@dataclass(frozen=True)
class Description:
    """What model.json says.

    Attributes:
        name: the run's.
        chosen_round: whose encoder and aggregator these are.
        slide_threshold: a slide at or above it is called positive; chosen on validation slides.
        patch_threshold: likewise for patches.
        patch_threshold_from: what it was chosen on.
        preprocessing: how patches are cut and given to the encoder.
        data: what it was trained on, in counts.
        validation: figures on validation slides.
        test: figures on the test slides, and what limits them ("warnings", no slide is named); None: not evaluated.
        made_with: versions and commit.
        weights: SHA-256 of the weight files by name.
        encoder: what the network is and does to its input first; an older export has none.
        known: SHA-256 of seen.parquet, the slides that the model was trained on or chosen by, and how many they are; an export of
            before 2026-11-28 does not say.
        gain: what fine-tuning gained over round 0 on the validation slides; empty: nothing was fine-tuned, or an export of
            before 2026-11-29.
        patient_threshold: of patients of several slides; None: as of slides, for each had one when it was chosen.
        reference: sorted scores and colours of the slides that it was made with (see `hnm.model.reference`), for drift; empty:
            not exported, or by an hnm of before 2026-11-28.
        format_version: of this file.
    """

    name: str
    chosen_round: int
    slide_threshold: float
    patch_threshold: float
    patch_threshold_from: str
    preprocessing: dict[str, Any]
    data: dict[str, Any]
    validation: dict[str, Any]
    test: dict[str, Any] | None
    made_with: dict[str, str]
    weights: dict[str, str] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    patient_threshold: float | None = None
    gain: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Model:
    """A model ready to predict: networks in evaluation mode on one device, and what is said about them."""

    encoder: Encoder
    aggregator: Aggregator
    config: Config
    about: Description
    device: torch.device
    known: KnownSlides | None = None  # None: the export does not say

    @property
    def identity(self) -> str:
        """A hash of all that decides a prediction: another model, other thresholds or other patches give another."""
        decisive = [self.about.weights, self.about.slide_threshold, self.about.patch_threshold]
        tile = self.config.tile.model_dump(mode="json", exclude={*OF_ITS_SLIDES, "split_by"})
        return hashlib.sha256(json.dumps([*decisive, tile], sort_keys=True).encode()).hexdigest()


def is_exported(folder: Path) -> bool:
    """Is this a folder that `hnm export` wrote?"""
    return (folder / MODEL_FILE).is_file()


def describe_run(record: RunRecord) -> Description:
    """Return what there is to say about a run's model.

    Raises:
        InputError: a weight file is not what it was when it was finished.
    """
    require_whole(list(weight_files(record.run, record.chosen).values()), record.run, single_world())
    test, threshold = None, record.chosen_patch_threshold
    if record.metrics is not None:
        kept = (
            *("num_test_slides", "patients", "slide", "slide_without_missed", "slide_auc_interval", "slide_intervals"),
            *("without_patch", "instance", "froc", "patch_threshold", "predictive_values", "interval_by"),
            *("headline", "patient", "patient_intervals", "patient_threshold", "patient_score", "num_test_patients"),
        )
        test = {name: record.metrics[name] for name in kept if record.metrics.get(name) is not None}
        # not the "warnings" of metrics.json: of unreadable patches they name slides, and an export goes to strangers
        limits = explain_without_patch(record.metrics) + warnings_of(record.study, record.metrics.get("froc"))
        test["warnings"] = limits + record.metrics.get("interval_warnings", [])
    return Description(
        name=f"{record.run.resolve().parent.name}/{record.run.resolve().name}",
        chosen_round=record.chosen,
        slide_threshold=record.threshold,
        patch_threshold=threshold.value,
        patch_threshold_from=threshold.source,
        preprocessing=preprocessing_of(record.config),
        data=data_of(record),
        validation=record.decisions[record.chosen]["validation"],
        test=test,
        made_with={"hnm": metadata.version("hnm"), "torch": torch.__version__, "commit": commit_of_code() or "unknown"},
        gain=record.gain or {},
        patient_threshold=patient_threshold(record.slide_scores_of(record.chosen), record.study, record.config.evaluate),
        weights={name: file_digest(path) for name, path in weight_files(record.run, record.chosen).items()},
    )


def preprocessing_of(config: Config) -> dict[str, Any]:
    """Return how a slide becomes what the encoder sees."""
    left_out = {
        "points_file",
        "positive_class",
        "positive_groups",
        "negative_groups",
        "skip_bad_outlines",
        "truth_share",
        "annotation_frame",
        *OF_ITS_SLIDES,
    }
    left_out |= {"max_failed", "allow_unlabelled", "validation_share", "test_share", "split_by", "split_seed", "shard_mb"}
    tile = config.tile.model_dump(mode="json", exclude=left_out)
    cut = "at points of a file" if config.tile.points_file is not None else "on a grid"
    return {**tile, "cut": cut, "pixels": "JPEG round trip, RGB, divided by 255, (3, patch_px, patch_px)"}


def data_of(record: RunRecord) -> dict[str, Any]:
    """Return the cohort in counts, by split; no slide and no patient is named."""
    study = record.study
    known = [mpp for mpp in study.cohort.slides["source_mpp"].to_pylist() if mpp]
    splits = {}
    for name in ("train", "validation", "test"):
        slides = getattr(study, name)
        splits[name] = {
            "slides": len(slides),
            "positive": int((study.labels[slides] == 1).sum()),
            "patients": len(set(record.patients[slides].tolist())),
            "patches": study.num_patches_of(slides),
            "broken_patches": count_broken(record.broken, study, slides)["num"],
            "without_patch": len(study.without_patch.get(name, ())),
        }
    return {
        "fingerprint": record.state["fingerprint"],
        "label_column": record.config.data.label_column,
        "slides": study.cohort.num_slides,
        "splits": splits,
        "source_mpp": [min(known), max(known)] if known else None,
    }


def weight_files(folder: Path, chosen: int) -> dict[str, Path]:
    """Return a run's weight files by the names that they have when exported."""
    return {
        ENCODER_FILE: encoder_of_round(folder, chosen),
        AGGREGATOR_FILE: round_folder(folder, chosen) / "aggregator.safetensors",
    }


def open_exported(folder: Path, device: torch.device) -> Model:
    """Open a folder that `hnm export` wrote.

    Raises:
        InputError: a file is missing, damaged, or of another version.
    """
    about = read_description(folder / MODEL_FILE)
    for name, digest in about.weights.items():
        plain_name(name, folder / MODEL_FILE)
        if (folder / name).is_file() and file_digest(folder / name) != digest:
            raise InputError(f"{folder / name}: not the weights that {MODEL_FILE} names. Copy the whole folder again")
    if about.known and file_digest(folder / SEEN_FILE) != about.known["sha256"]:
        raise InputError(f"{folder / SEEN_FILE}: not the slides that {MODEL_FILE} names. Copy the whole folder again")
    known = read_known(folder / SEEN_FILE) if about.known else None
    config = read_config(folder / "config.yaml")
    files = {name: folder / name for name in (ENCODER_FILE, AGGREGATOR_FILE)}
    return replace(load_networks(files, config, about, device), known=known)


def open_recorded(record: RunRecord, device: torch.device) -> Model:
    """Open the model of a run.

    Raises:
        InputError: a file of it is damaged.
    """
    record.study.cohort.require_pictures("hnm predict")
    model = load_networks(weight_files(record.run, record.chosen), record.config, describe_run(record), device)
    return replace(model, known=known_of_run(record))


def load_networks(files: dict[str, Path], config: Config, about: Description, device: torch.device) -> Model:
    """Return encoder and aggregator, in evaluation mode on `device`.

    Raises:
        InputError: a file does not hold what the configuration describes.
    """
    encoder = load_encoder(files[ENCODER_FILE], config.encoder).to(device).eval()
    weights, metadata = load_weights(files[AGGREGATOR_FILE])
    aggregator = build_aggregator(metadata.get("kind", "dsmil"), encoder.feature_dim, int(metadata.get("members", "1")))
    try:
        aggregator.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{files[AGGREGATOR_FILE]}: not the aggregator of this encoder ({str(error).splitlines()[-1].strip()}). Copy both "
            "files of one model"
        ) from None
    return Model(encoder, aggregator.to(device).eval(), config, about, device)


def read_description(path: Path) -> Description:
    """Read model.json.

    Raises:
        InputError: it is no description of a model, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format_version is {version}, this hnm reads {FORMAT_VERSION}. Export the run again"
            )
        return Description(**content)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not readable as a model's description ({error}). Export the run again") from None


def with_tile(model: Model, **changes: Any) -> Model:
    """Return the model with other settings of the section tile.

    Raises:
        ConfigError: a value is not allowed.
    """
    settings = {**model.config.tile.model_dump(mode="json"), **changes}
    try:
        tile = type(model.config.tile).model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return replace(model, config=model.config.model_copy(update={"tile": tile}))


def as_json(about: Description) -> dict[str, Any]:
    """Return the content of model.json."""
    return asdict(about)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it is not there.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. A run keeps it; copy the whole folder")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
