"""The section `encoder`: which network turns a patch into a feature vector, and what it is given to see."""

import difflib
import re
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hnm.encoder.registry import REGISTRY

Ours = Literal["resnet18", "resnet50"]
OURS = get_args(Ours)
FORM = re.compile(r"torchvision/resnet(18|50)|timm/[\w.]+|hf/\S+|python/[\w.]+:\w+")
FORMS = "torchvision/resnet18, torchvision/resnet50, timm/NAME, hf/ORG/REPO@REVISION, hf/FOLDER, python/MODULE:FACTORY"


class EncoderConfig(BaseModel):
    """The section `encoder`: which network turns a patch into a feature vector."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        default=None,
        description="a network of others: a short name (hnm encoder list), torchvision/resnet18 or /resnet50, timm/NAME, "
        "hf/ORG/REPO@REVISION or hf/FOLDER (timm's layout), python/MODULE:FACTORY; null = ours, of encoder.architecture, norm, "
        "stem and width, which no other network takes",
    )
    side_px: int | None = Field(
        default=None, ge=8, description="patches are resized to this side before the network; null = its own (ours: as cut)"
    )
    mean: list[float] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="of R, G, B in [0, 1], subtracted before the network; null = its own (ours: none)",
    )
    std: list[float] | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="of R, G, B, divided by before the network; null = its own (ours: none)",
    )
    architecture: Ours = Field(
        default="resnet18",
        description="depth of the ResNet; resnet50 takes 2.3 times the arithmetic and gives 4 times longer features",
    )
    norm: Literal["instance", "batch"] = Field(
        default="instance",
        description="instance: normalise each channel of each image by itself (the method's choice, takes stain "
        "brightness out); batch: by the statistics of the global batch",
    )
    stem: Literal["imagenet", "small"] = Field(
        default="imagenet",
        description="imagenet: 7x7 convolution of stride 2 and a max pool (map = side / 32); small: 3x3 of stride 1 "
        "and no pool (map = side / 8), for patches under about 64 px; 16 times the work at the same side",
    )
    width: float = Field(
        default=1.0,
        ge=1 / 64,
        description="multiplier of all channel counts; 1.0 = 64 base channels and 512 features (resnet18)",
    )
    projection_dim: int = Field(
        default=256, ge=1, description="length of the projected vector that the contrastive loss compares"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_of_ours(cls, given: Any) -> Any:
        """Take encoder.name=resnet50 for encoder.architecture=resnet50."""
        if isinstance(given, dict) and given.get("name") in OURS:
            return {**given, "architecture": given["name"], "name": None}
        return given

    @field_validator("name")
    @classmethod
    def _of_a_known_form(cls, name: str | None) -> str | None:
        if name is not None and name not in REGISTRY and not FORM.fullmatch(name):
            close = difflib.get_close_matches(name, [*REGISTRY, *OURS], n=1, cutoff=0.5)
            nearest = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"no network of that name.{nearest} Known: {', '.join([*OURS, *REGISTRY])}, {FORMS}")
        return name

    @field_validator("std")
    @classmethod
    def _above_zero(cls, std: list[float] | None) -> list[float] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be above 0: the input is divided by it")
        return std
