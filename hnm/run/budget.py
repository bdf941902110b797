"""What the rounds of a run have cost, and when their budget is spent: `rounds.budget`.

    state.json: seconds, steps and epochs of each phase ──▶ Spent ──after each epoch and each round──▶ is it the last?

Of the seconds, pretraining, the first embedding and the evaluation do not count: they are the same for any method. Time of
processes that were stopped or killed counts, up to their last heartbeat.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hnm.engine.ranks import main_says
from hnm.engine.step import Progress
from hnm.rounds_config import parse_budget
from hnm.run.checksums import read_state
from hnm.run.phase import Record
from hnm.run.session import Session

TRAINING = ("embed", "aggregate", "mine", "finetune")
IsOver = Callable[[Progress], bool]


class Spent(NamedTuple):
    """What the rounds have cost so far: seconds, and the optimizer steps and epochs of fine-tuning."""

    seconds: float
    steps: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.steps:,} steps, {self.epochs} epochs of fine-tuning"


def spent_before_finetune(phases: Sequence[dict[str, Any]], round_: int) -> Spent:
    """Return what the rounds had cost when the fine-tuning of `round_` could begin.

    Args:
        phases: as in state.json.
    """
    end = (round_, TRAINING.index("finetune"))
    return _sum([known for known in _training(phases) if (known["round"], TRAINING.index(known["phase"])) < end])


def spent_in_all(phases: Sequence[dict[str, Any]]) -> Spent:
    """Return what the rounds have cost, all of them."""
    return _sum(_training(phases))


def is_spent(budget: str | None, spent: Spent) -> bool:
    """Return whether a budget such as "seconds=600" is spent; None never is."""
    if budget is None:
        return False
    unit, amount = parse_budget(budget)
    return bool(getattr(spent, unit) >= amount)


def never(progress: Progress) -> bool:
    """Return False: there is no budget."""
    return False


class Watch:
    """Asked after each epoch of one fine-tuning whether the budget is spent. Every rank must ask; rank 0 decides.

    Args:
        budget: `rounds.budget`.
        first: 0-based epoch of the run with which this fine-tuning begins.
        record: of this phase.

    Attributes:
        epochs: done in this fine-tuning.
    """

    def __init__(self, budget: str | None, first: int, record: Record, session: Session) -> None:
        self.budget, self.first, self.record, self.session = budget, first, record, session
        self.epochs = 0

    def is_over(self, progress: Progress) -> bool:
        """Return whether this fine-tuning ends here, between two epochs, and say so."""
        self.epochs = progress.epoch - self.first
        over = self.budget is not None and main_says(lambda: is_spent(self.budget, self._spent(progress)), self.session.world)
        if over:
            spent = f" ({self._spent(progress)})" if self.session.world.is_main else ""
            self.session.journal.say(
                f"round {progress.round}: the budget {self.budget} is spent{spent}: fine-tuning ends after its epoch "
                f"{self.epochs}; round {progress.round + 1} is the last"
            )
        return over

    def _spent(self, progress: Progress) -> Spent:
        """Return what has been spent up to now. Call it on rank 0 only."""
        before = spent_before_finetune(read_state(self.record.run)["phases"], progress.round)
        return Spent(before.seconds + self.record.seconds, before.steps + progress.num_steps, before.epochs + self.epochs)


def _training(phases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [phase for phase in phases if phase["phase"] in TRAINING]
    return [phase for phase in known if (phase["phase"], phase["round"]) != ("embed", 0)]


def _sum(phases: list[dict[str, Any]]) -> Spent:
    return Spent(
        round(sum(phase["seconds"] for phase in phases), 2),
        sum(phase.get("steps", 0) for phase in phases),
        sum(phase.get("epochs", 0) for phase in phases),
    )
