"""Rounds of a run with several targets: one encoder, and of each target what a run of one has, in a folder of its own.

    run/round-000/            features, encoder.safetensors; weights.npy and mining.json of all targets together
    run/targets/KEY/          state.json: seconds and checksums of this target's phases
    run/targets/KEY/round-000/  aggregator.safetensors, scores.npy, pseudo_labels.npy, mining.json ..., as of a run of one

A target's folder is read as a run is, with the study of that target. Targets are decided one after another, so that memory
holds what one takes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hnm.aggregator.bags import Bags
from hnm.config import Config
from hnm.engine.ranks import barrier, main_says
from hnm.mining.coordinator import read_decision, share_mined
from hnm.mining.joined import JoinedMined, join_round, share_joined
from hnm.mining.mining import Mined
from hnm.run.checksums import MINED_FILES, read_state, require_whole
from hnm.run.phase import phase
from hnm.run.session import Session
from hnm.run.slide_rows import Rows
from hnm.run.targets import TARGETS_FOLDER, Targets
from hnm.run_rounds import round_folder
from shards.errors import InputError
from shards.files import write_json

Decide = Callable[[Bags, Rows, Config, int, Path, Session], None]


def target_folders(run: Path, targets: Targets) -> list[Path]:
    """Return each target's folder in a run directory."""
    return [run / TARGETS_FOLDER / key for key in targets.keys]


def begin_targets(run: Path, session: Session) -> None:
    """Make the targets' folders that are not there yet. Every rank must call it."""
    targets = session.study.targets
    if targets is not None and session.world.is_main:
        known = read_state(run)
        state = {name: known[name] for name in ("cohort", "fingerprint") if name in known}
        for folder, name in zip(target_folders(run, targets), targets.names, strict=True):
            if not (folder / "state.json").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "state.json", {**state, "target": name, "phases": []})
    barrier(session.world)


def decide_targets(decide: Decide, bags: Bags, config: Config, round_: int, run: Path, session: Session) -> None:
    """Aggregate, score and mine for each target, and join what was mined. Every rank must call it.

    Args:
        decide: does so for one: a run without targets does nothing else.
        bags: features of all embedded slides.
    """
    targets, world = session.study.targets, session.world
    assert targets is not None
    folders = target_folders(run, targets)
    with phase("mine", round_, run, session) as record:
        for target, folder in enumerate(folders):
            if main_says((round_folder(folder, round_) / "mining.json").is_file, world):
                continue
            part = session.of_target(target)
            slides = part.study.embedded_slides
            decide(bags.of_slides(slides), part.study.rows_of(slides), config, round_, folder, part)
        if world.is_main:
            rounds = [round_folder(folder, round_) for folder in folders]
            decisions = dict(zip(targets.names, map(read_decision, rounds), strict=True))
            record.keep()
            joined = join_round(round_folder(run, round_), decisions, rounds, session.study.cohort.num_patches)
            _report(joined, round_, session)
    barrier(world)


def mined_of_round(round_: int, run: Path, session: Session) -> Mined | JoinedMined:
    """Return what a round's mining decided, of one target or of all. Every rank must call it.

    Raises:
        InputError: a file is damaged.
    """
    folder, targets = round_folder(run, round_), session.study.targets
    require_whole([folder / name for name in MINED_FILES], run, session.world)
    if targets is None:
        return share_mined(folder, session.world)
    rounds = []
    for its in target_folders(run, targets):
        rounds.append(round_folder(its, round_))
        require_whole([rounds[-1] / name for name in MINED_FILES], its, session.world)
    return share_joined(folder, rounds, targets, session.world)


def refuse_of_one(config: Config) -> None:
    """Refuse settings that carry one target only.

    Raises:
        InputError: naming the key.
    """
    if config.rounds.num_rounds and config.finetune.objective != "supcon":
        raise InputError(
            f"finetune.objective={config.finetune.objective} trains the encoder on one label of a slide, not on several targets "
            "yet. Set finetune.objective=supcon, or name one target: data.label_column"
        )
    if config.rounds.rescore != "all":
        raise InputError(
            "rounds.rescore=adaptive chooses patches by the scores of one target, not of several yet. Set rounds.rescore=all, or "
            "name one target: data.label_column"
        )


def _report(joined: dict[str, Any], round_: int, session: Session) -> None:
    validation = joined["validation"]
    session.journal.metrics("round", round_, **{f"validation_{name}": value for name, value in validation.items()})
    aucs = ", ".join(f"{name} {its['validation']['auc']:.3f}" for name, its in joined["targets"].items())
    session.journal.say(
        f"round {round_}: mean validation AUC {validation['auc']:.3f} of {len(joined['targets'])} targets ({aucs}); an epoch "
        f"passes over {joined['num_hard_negatives']:,} of {joined['num_drawable_negatives']:,} negatives"
    )
