"""A run's model as a folder for others: weights, configuration, description, and a card for people.

    FOLDER/ encoder.safetensors  aggregator.safetensors  config.yaml  seen.parquet  model.json  MODEL.md

model.json is written last: with it the folder is a model.
"""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hnm.config import Config, dump_config
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import describe, metadata_of
from hnm.encoder.weights import load_encoder
from hnm.engine.state import load_weights, save_weights
from hnm.model.card import write_card
from hnm.model.known import SEEN_FILE, known_slides, write_known
from hnm.model.model import AGGREGATOR_FILE, ENCODER_FILE, MODEL_FILE, as_json, describe_run, file_digest, weight_files
from hnm.model.snippet import loading_code
from hnm.report.record import RunRecord
from shards.errors import InputError
from shards.files import whole_file, write_json
from shards.tiling.tile_config import OF_ITS_SLIDES

CONFIG_FILE, CARD_FILE = "config.yaml", "MODEL.md"
Name = TypeVar("Name", str, str | None)
ONNX_FILES = ("encoder.onnx", "aggregator.onnx")
OURS = (ENCODER_FILE, AGGREGATOR_FILE, CONFIG_FILE, SEEN_FILE, CARD_FILE, MODEL_FILE, *ONNX_FILES)


def export(record: RunRecord, folder: Path) -> None:
    """Write the model of a run to `folder`; the same run gives the same bytes.

    Raises:
        InputError: the folder holds something else, or the run is not finished.
    """
    if not record.is_finished:
        raise InputError(f"{record.run}: training is not finished. Run the same hnm train again, then export")
    record.study.cohort.require_pictures("hnm export")
    require_writable(folder)
    for name in (MODEL_FILE, *ONNX_FILES):  # of an earlier export: other weights
        (folder / name).unlink(missing_ok=True)
    files, note = weight_files(record.run, record.chosen), {"round": str(record.chosen)}
    # the projection head served the contrastive loss only, and a foreign start encoder may be a pickle
    encoder = load_encoder(files[ENCODER_FILE], record.config.encoder)
    if isinstance(encoder, ForeignEncoder):
        encoder.spec = encoder.spec.model_copy(update={"name": portable_name(encoder.spec.name)})
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_weights(folder / ENCODER_FILE, tensors, {**metadata_of(encoder), **note})
    weights, metadata = load_weights(files[AGGREGATOR_FILE])
    save_weights(folder / AGGREGATOR_FILE, weights, {**metadata, **note})  # its kind and number of members
    with whole_file(folder / CONFIG_FILE) as temporary:
        temporary.write_text(dump_config(portable(record.config)), encoding="utf-8")
    about = describe_run(record)
    known = known_slides(record)
    write_known(folder / SEEN_FILE, known)
    about = replace(
        about,
        weights={name: file_digest(folder / name) for name in (ENCODER_FILE, AGGREGATOR_FILE)},
        encoder=describe(encoder),
        known={"sha256": file_digest(folder / SEEN_FILE), **known.counts},
    )
    write_card(folder / CARD_FILE, about, record.config, loading_code(encoder))
    write_json(folder / MODEL_FILE, as_json(about))


def require_writable(folder: Path) -> None:
    """Refuse a folder that is there and is neither a model, nor what a killed export has left of one, nor empty.

    Raises:
        InputError: saying so.
    """
    if not folder.exists() or (folder / MODEL_FILE).is_file():
        return
    if not folder.is_dir() or any(path.name not in OURS and not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder}: exists and is no exported model. Choose another name or remove it")


def portable_name(name: Name) -> Name:
    """Return an encoder's name; a folder of weights in timm's layout keeps its last part only."""
    if name is not None and name.startswith("hf/") and Path(name.removeprefix("hf/")).is_dir():
        return f"hf/{Path(name).name}"
    return name


def portable(config: Config) -> Config:
    """Return the configuration without what belongs to one machine: where files lie, where runs are tracked, its device
    and its cluster.

    The points file stays as a name: that patches were cut at points is part of the model.
    """
    blank, points = Config(), config.tile.points_file
    files = {"points_file": Path(points.name) if points else None, **dict.fromkeys(OF_ITS_SLIDES)}
    tile = config.tile.model_copy(update=files)
    encoder = config.encoder.model_copy(update={"name": portable_name(config.encoder.name)})
    changes = {"reader": blank.reader, "tracking": blank.tracking, "device": blank.device, "slurm": blank.slurm}
    return config.model_copy(update={**changes, "tile": tile, "encoder": encoder})
