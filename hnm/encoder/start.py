"""What a training starts from: a file of weights, or a network of others by its name, with the weights that its name stands for.

    --encoder FILE            that file, for the network of encoder.name
    --encoder NAME            encoder.name=NAME, weights from the hub's cache (hnm encoder fetch NAME)
    --encoder python/M:F      encoder.name=python/M:F, weights as the function made them
"""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from hnm.encoder.contrastive_model import ContrastiveModel, fresh_model, load_model
from hnm.encoder.encoder_config import FORM, EncoderConfig
from hnm.encoder.hub import cached_weights
from hnm.encoder.registry import REGISTRY
from shards.errors import InputError

OWN_WEIGHTS = "python/"  # the weights of these are in no file


@dataclass(frozen=True)
class Start:
    """A start encoder.

    Attributes:
        path: its file; None: as the user's function makes it.
        config: the section `encoder`, with the name that was given.
    """

    path: Path | None
    config: EncoderConfig

    def load(self, seed: int) -> ContrastiveModel:
        """Return the encoder with a head, see `load_model`."""
        return load_model(self.path, self.config, seed) if self.path else fresh_model(self.config, seed)

    def origin(self) -> dict[str, str]:
        """Return what is to be kept of where the weights came from, for the metadata of their copy."""
        if self.path is None:
            return {"source": str(self.config.name)}
        with open(self.path, "rb") as file:
            return {"source": _place_in_cache(self.path), "source_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def find_start(given: str, config: EncoderConfig) -> Start:
    """Return what --encoder means. It never downloads.

    Raises:
        InputError: it is neither a file nor a name, or its weights are not on this machine.
    """
    if Path(given).is_file():
        return Start(Path(given), config)
    if given not in REGISTRY and not FORM.fullmatch(given):
        close = difflib.get_close_matches(given, REGISTRY, n=1, cutoff=0.6)
        nearest = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"--encoder {given}: there is no such file, and no network of that name.{nearest} Make a file with: hnm pretrain "
            "COHORT FOLDER. Names: hnm encoder list"
        )
    if config.name not in (None, given):
        raise InputError(f"--encoder {given}: encoder.name is {config.name}. Leave one of them out, or give a file of weights")
    config = config.model_copy(update={"name": given})
    if given.startswith(OWN_WEIGHTS):
        return Start(None, config)
    path = cached_weights(given)
    if path is None:
        raise InputError(
            f"--encoder {given}: its weights are not on this machine. Fetch them first, where there is a network: hnm encoder "
            f"fetch {given}; or give a file: --encoder FILE encoder.name={given}"
        )
    return Start(path, config)


def require_start(config: EncoderConfig) -> None:
    """Refuse to pretrain a foundation model from random weights because --encoder was forgotten.

    Raises:
        InputError: saying what to give.
    """
    if config.name is not None and (config.name in REGISTRY or config.name.startswith("hf/")):
        raise InputError(f"encoder.name is {config.name}, but --encoder is not given. Add --encoder {config.name}, or a file")


def _place_in_cache(path: Path) -> str:
    """Return models--ORG--REPO/snapshots/COMMIT/FILE of a file in the hub's cache, else the file's name."""
    parts = path.parts
    at = next((number for number, part in enumerate(parts) if part.startswith("models--")), len(parts) - 1)
    return "/".join(parts[at:])
