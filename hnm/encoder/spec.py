"""What a network is and what it wants of its input: enough to build it again where no hub is reached.

    encoder.name ──resolve──▶ NetworkSpec ──build──▶ network          its JSON travels in encoder.safetensors and exports
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shards.errors import InputError

Triple = tuple[float, float, float]
NETWORK_KEY, INPUT_KEY = "network", "input"  # in the metadata of a safetensors file

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class InputSpec(BaseModel):
    """What is done to RGB in [0, 1] before the first layer: the whole patch is resized (never cropped), then normalised.

    Attributes:
        side_px: patches are resized to this side; None: they stay as they are.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
        interpolation: of the resizing, antialiased.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    side_px: int | None = None
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    @property
    def normalises(self) -> bool:
        """Whether mean and standard deviation change anything."""
        return self.mean != (0.0, 0.0, 0.0) or self.std != (1.0, 1.0, 1.0)

    def overridden(self, side_px: int | None, mean: list[float] | None, std: list[float] | None) -> Self:
        """Return the input with what a user has set in the place of the network's own; None leaves it."""
        given = {"side_px": side_px, "mean": mean and tuple(mean), "std": std and tuple(std)}
        return self.model_copy(update={name: value for name, value in given.items() if value is not None})

    def __str__(self) -> str:
        side = f"patches resized to {self.side_px} px ({self.interpolation})" if self.side_px else "patches as they were cut"
        if not self.normalises:
            return f"{side}, RGB in [0, 1] without normalisation"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{side}, mean {mean}, standard deviation {std}"


class NetworkSpec(BaseModel):
    """A network that is not ours.

    Attributes:
        name: as in encoder.name.
        source: who builds it: timm, or a function of the user's.
        network: timm's name of the architecture, or MODULE:FACTORY.
        arguments: of the construction, as JSON.
        pooling: own: what the network returns is the feature; class_and_mean: class token and mean of the patch tokens.
        input: what it wants of its input.
        mpp: microns per pixel that it was trained at; empty: unknown.
        licence: of the weights, as their publisher names it; "": unknown.
        may_be_passed_on: whether the licence lets others have the weights, or weights made from them; None: unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: Literal["timm", "python"]
    network: str
    arguments: dict[str, Any] = {}
    pooling: Literal["own", "class_and_mean"] = "own"
    input: InputSpec = InputSpec()
    mpp: tuple[float, ...] = ()
    licence: str = ""
    may_be_passed_on: bool | None = None

    def licence_note(self) -> str:
        """Return what the licence says of passing the weights on, in a sentence."""
        if not self.licence:
            return f"{self.name} is under an unknown licence: read it before you pass its weights, or what is made of them, on."
        if self.may_be_passed_on is False:
            return f"{self.name} is under {self.licence}: neither its weights nor what is made of them may be passed on."
        if self.may_be_passed_on is None:
            return f"{self.name} is under {self.licence}: read it before you pass its weights, or what is made of them, on."
        return f"{self.name} is under {self.licence}: its weights may be passed on under these terms."


def told_in(metadata: dict[str, str], origin: str) -> tuple[NetworkSpec | None, InputSpec | None]:
    """Return what a file's metadata says of its network and of the input that it was trained with.

    Raises:
        InputError: it is not readable.
    """
    try:
        network = NetworkSpec.model_validate_json(metadata[NETWORK_KEY]) if NETWORK_KEY in metadata else None
        wanted = InputSpec.model_validate_json(metadata[INPUT_KEY]) if INPUT_KEY in metadata else None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{origin}: what it says of its network is not readable ({'.'.join(map(str, first['loc']))}: {first['msg']}). "
            "It is damaged, or of a newer hnm"
        ) from None
    return network, network.input if network else wanted
