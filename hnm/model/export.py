"""A run's model as a folder for others: weights, configuration, description, and a card for people.

    FOLDER/ encoder.safetensors  aggregator.safetensors  config.yaml  seen.parquet  model.json  MODEL.md
            adapter_config.json  adapter_model.safetensors      of a run with finetune.train=lora, in peft's layout

model.json is written last: with it the folder is a model.
"""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hnm.config import Config, dump_config
from hnm.encoder.adapter_files import PEFT_CONFIG, PEFT_WEIGHTS, Base, weights_digest, write_peft
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.lora import config_of, fold_adapters
from hnm.encoder.networks import Encoder, describe, metadata_of, name_of, network_of
from hnm.encoder.trained_file import is_gated, save_trained
from hnm.encoder.weights import load_encoder
from hnm.engine.state import load_weights, save_weights
from hnm.model.card import write_card
from hnm.model.known import SEEN_FILE, known_slides, write_known
from hnm.model.model import AGGREGATOR_FILE, ENCODER_FILE, MODEL_FILE, as_json, describe_run, file_digest, weight_files
from hnm.model.reference import reference_of
from hnm.model.snippet import loading_code
from hnm.report.record import RunRecord
from shards.errors import InputError
from shards.files import whole_file, write_json
from shards.tiling.tile_config import OF_ITS_SLIDES

CONFIG_FILE, CARD_FILE = "config.yaml", "MODEL.md"
Name = TypeVar("Name", str, str | None)
ONNX_FILES = ("encoder.onnx", "aggregator.onnx")
OURS = (ENCODER_FILE, AGGREGATOR_FILE, CONFIG_FILE, SEEN_FILE, CARD_FILE, MODEL_FILE, *ONNX_FILES, PEFT_CONFIG, PEFT_WEIGHTS)


def export(record: RunRecord, folder: Path, merge: bool = False) -> None:
    """Write the model of a run to `folder`; the same run gives the same bytes.

    Args:
        merge: fold adapters into the encoder and leave their own files out. Without it a base that may not be passed on is left
            out, and the others' encoder is written whole beside the adapters.

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
    if merge and config_of(network_of(encoder)) is None:
        raise InputError(f"{files[ENCODER_FILE]}: has no adapters to fold (finetune.train=lora makes them). Leave --merge out")
    write_encoder(folder, encoder, note, merge)
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
        reference=reference_of(record),
    )
    write_card(folder / CARD_FILE, about, record.config, loading_code(encoder))
    write_json(folder / MODEL_FILE, as_json(about))


def write_encoder(folder: Path, encoder: Encoder, note: dict[str, str], merge: bool) -> None:
    """Write an encoder to a folder for others; of one with adapters also those, in peft's layout."""
    network = network_of(encoder)
    base = None
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if config_of(network) is not None and not merge:
        told = Base(name=name_of(encoder), sha256=weights_digest(network))
        write_peft(folder, network, told)
        base = told if is_gated(encoder) else None
    if base is None:
        fold_adapters(network)
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_trained(folder / ENCODER_FILE, tensors, {**metadata_of(encoder), **note}, base)


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
