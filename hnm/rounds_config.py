"""The section `rounds` of the configuration."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

UNITS = ("seconds", "steps", "epochs")


class RoundsConfig(BaseModel):
    """How often the loop goes round, and what is kept."""

    model_config = ConfigDict(extra="forbid")

    num_rounds: int = Field(4, ge=0, description="fine-tuning rounds; 0 = frozen encoder, one aggregator (DSMIL)")
    choose: Literal["validation", "last"] = Field(
        "validation", description="which round's model is the result: the one of highest validation AUC, or the last"
    )
    budget: str | None = Field(
        None,
        description="most that the rounds may cost: seconds=S of computing (all phases but pretraining, the first embedding and "
        "the evaluation), steps=N or epochs=N of fine-tuning. Looked at after each epoch: the run then scores once more and "
        "ends. With seconds a stopped run is not bit for bit the undisturbed one",
    )
    embed_batch_size: int = Field(512, ge=1, description="patches in a forward pass of the embedding, per rank")
    patch_false_positive_rate: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="where no patch truth is known: share of the patches of negative validation slides that may be called "
        "positive in heatmaps, polygons and counts; nothing is trained by it",
    )
    keep_features: bool = Field(False, description="keep each round's features (they are large) after its mining")

    @field_validator("budget", mode="before")
    @classmethod
    def _is_readable(cls, value: Any) -> str | None:
        if value is not None:
            parse_budget(str(value))
        return value if value is None else str(value)


def parse_budget(text: str) -> tuple[str, float]:
    """Return unit and amount of a budget, such as ("seconds", 600.0) of "seconds=600".

    Raises:
        ValueError: it is not written so.
    """
    unit, _, amount = text.partition("=")
    if unit not in UNITS or not amount.isascii() or not amount.isdigit() or int(amount) == 0:
        raise ValueError(f"write one of {', '.join(f'{name}=N' for name in UNITS)}, with a whole number above 0")
    return unit, float(amount)
