"""The files that a training starts from and writes: whole weights, or adapters alone."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hnm.encoder.adapter_files import BASE_KEY, Base, told_of_adapters, weights_digest, without_base
from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import Encoder, metadata_of, name_of, network_of
from hnm.encoder.parts import PartsConfig
from hnm.encoder.start import Start
from hnm.engine.state import load_metadata, save_weights


def write_start(path: Path, start: Start, parts: PartsConfig, seed: int) -> None:
    """Write the encoder that a training starts from, with its head. Call it on rank 0 only.

    A base that may not be passed on, and gets adapters only, stays where it is: the file then names it. Of all others the run
    has its own copy.

    Args:
        path: the file to write.
        start: what the user gave.

    Raises:
        InputError: the file does not fit the encoder section.
    """
    model, base = start.load(seed), None
    if parts.train == "lora" and is_gated(model.encoder) and start.path is not None:
        told = left_out_base(start.path)
        file = (start.path.parent / told.file if told and told.file else start.path).resolve()
        base = Base(name=name_of(model.encoder), sha256=weights_digest(network_of(model.encoder)), file=str(file))
    save_trained(path, model.state_dict(), {**metadata_of(model.encoder), **start.origin()}, base)


def is_gated(encoder: Encoder) -> bool:
    """Return whether the encoder's weights may not be passed on."""
    return isinstance(encoder, ForeignEncoder) and encoder.spec.may_be_passed_on is False


def save_trained(path: Path, weights: Mapping[str, Tensor], about: dict[str, str], base: Base | None) -> None:
    """Write a trained model; with `base` its adapters and head alone. Call it on rank 0 only."""
    if base is None:
        save_weights(path, weights, about)
    else:
        save_weights(path, without_base(weights), {**about, BASE_KEY: base.model_dump_json()})


def left_out_base(path: Path) -> Base | None:
    """Return the weights that a file of ours leaves out; None: it is whole, or not ours."""
    return told_of_adapters(load_metadata(path), path)[1] if path.suffix == ".safetensors" else None


def base_of_rounds(encoder: Encoder, start: Path) -> Base:
    """Return the base of the files in a run's rounds: its start, or what that leaves out."""
    return left_out_base(start) or Base(
        name=name_of(encoder), sha256=weights_digest(network_of(encoder)), file=f"../{start.name}"
    )
