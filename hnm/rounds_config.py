"""The section `rounds` of the configuration, and its rules: which round is best, and when no further one is worth it."""

from collections.abc import Mapping, Sequence
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
    patience: int = Field(
        0,
        ge=0,
        description="rounds in a row that are no better on validation (AUC, then loss) than the best before them, after which "
        "the run ends; 0 = all rounds. Schedules go by num_rounds",
    )
    embed_batch_size: int = Field(512, ge=1, description="patches in a forward pass of the embedding, per rank")
    patch_false_positive_rate: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="where no patch truth is known: share of the patches of negative validation slides that may be called "
        "positive in heatmaps, polygons and counts; nothing is trained by it",
    )
    rescore: Literal["all", "adaptive"] = Field(
        "all",
        description="which training patches a round embeds and scores: all; adaptive: those that scored high in the round before "
        "and some others, validation slides whole; hard negatives and candidates are then mined among these, and the aggregator "
        "is trained on them",
    )
    rescore_share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="rescore=adaptive: share of the training patches, at least mining.neg_ratio; a tenth of it is random",
    )
    rescore_full_every: int = Field(
        4, ge=1, description="rescore=adaptive: every so many rounds, and in the last one, all are embedded and scored"
    )
    keep_features: bool = Field(False, description="keep each round's features (they are large) after its mining")

    @property
    def why_early(self) -> str:
        """Why a run may end before its last round, in words."""
        no_better = f"no better one on validation for {self.patience} (rounds.patience)" if self.patience else ""
        spent = f"the budget {self.budget} is spent (rounds.budget)" if self.budget else ""
        return " or ".join(filter(None, (no_better, spent)))

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


def best_round(validation: Sequence[Mapping[str, Any]]) -> int:
    """Return the place of the round of highest validation AUC, then lowest loss; the first of equal ones.

    Args:
        validation: of each round, from round 0 on, its `auc` and `loss`.
    """
    return max(range(len(validation)), key=lambda r: (validation[r]["auc"], -validation[r]["loss"]))


def is_out_of_patience(validation: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Return whether the last `patience` of these rounds were no better than the best before them; never if it is 0."""
    return patience > 0 and len(validation) - 1 - best_round(validation) >= patience
