"""The rounds of a run, read from its folder: which is the last, which is best, and where each one's files are.

A target's folder (of a run with several) has rounds of its own, and shares encoders, the last round and the choice with its run.
"""

from pathlib import Path
from typing import Any

from hnm.config import Config
from hnm.mining.coordinator import read_decision
from hnm.rounds_config import best_round, is_out_of_patience
from hnm.run.budget import is_spent, spent_before_finetune
from hnm.run.checksums import read_state
from hnm.run.targets import TARGETS_FOLDER

START_ENCODER = "encoder-start.safetensors"


def home_of(folder: Path) -> Path:
    """Return the run directory of a target's folder; of any other folder itself."""
    home = folder.parent.parent
    is_target = folder.parent.name == TARGETS_FOLDER and not (folder / "config.yaml").exists()
    return home if is_target and (home / "state.json").is_file() else folder


def is_last(config: Config, round_: int, run: Path) -> bool:
    """Return whether a round that is mined is the last: as many as asked for, or patience or budget are at their end.

    On rank 0 only.
    """
    rounds = config.rounds
    if round_ == rounds.num_rounds:
        return True
    if (round_folder(run, round_) / "encoder.safetensors").is_file():
        return False
    if rounds.patience and is_out_of_patience(validation_of_rounds(run, round_ + 1), rounds.patience):
        return True
    return rounds.budget is not None and is_spent(rounds.budget, spent_before_finetune(read_state(run)["phases"], round_))


def last_round(config: Config, run: Path) -> int | None:
    """Return the last round of a finished run, None if there is work left: fewer than asked for where the budget was spent."""
    run = home_of(run)
    for round_ in range(config.rounds.num_rounds + 1):
        if not (round_folder(run, round_) / "mining.json").is_file():
            return None
        if is_last(config, round_, run):
            return round_
    return None


def rounds_of(config: Config, run: Path) -> range:
    """Return the rounds of a finished run, or those that one at work may come to."""
    last = last_round(config, run)
    return range((config.rounds.num_rounds if last is None else last) + 1)


def choose_round(config: Config, run: Path) -> int:
    """Return the round of a finished run whose model is the result: the last, or that best on validation (AUC, then loss)."""
    rounds = rounds_of(config, run)
    return rounds[-1] if config.rounds.choose == "last" else best_round(validation_of_rounds(home_of(run), len(rounds)))


def validation_of_rounds(run: Path, num: int) -> list[dict[str, Any]]:
    """Return the validation figures of the first `num` rounds, all of them mined."""
    return [read_decision(round_folder(run, round_))["validation"] for round_ in range(num)]


def round_folder(run: Path, round_: int) -> Path:
    """Return the folder of one round."""
    return run / f"round-{round_:03d}"


def encoder_of_round(run: Path, round_: int) -> Path:
    """Return the file of the encoder that a round embedded with."""
    run = home_of(run)
    return round_folder(run, round_ - 1) / "encoder.safetensors" if round_ else run / START_ENCODER
