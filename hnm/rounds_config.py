"""The section `rounds` of the configuration."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RoundsConfig(BaseModel):
    """How often the loop goes round, and what is kept."""

    model_config = ConfigDict(extra="forbid")

    num_rounds: int = Field(4, ge=0, description="fine-tuning rounds; 0 = frozen encoder, one aggregator (DSMIL)")
    choose: Literal["validation", "last"] = Field(
        "validation", description="which round's model is the result: the one of highest validation AUC, or the last"
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
