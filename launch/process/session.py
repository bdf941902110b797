"""One process's part in a run, opened and closed: ranks, claim, logs, signs of life, tracker, reader.

join ranks ▶ rank 0: checks, claims and notes the attempt ▶ journal, heartbeat, keeper, reader ▶ [the verb] ▶ how it ended
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hnm.config import Config
from hnm.engine.checkpoint import sweep
from hnm.engine.numerics import numerics, numerics_in_words, use_local_compile_cache
from hnm.engine.ranks import World, main_says
from hnm.run.broken import warn_of_broken
from hnm.run.heartbeat import Heartbeat, errors_of, forget_beats, read_beats
from hnm.run.journal import Journal
from hnm.run.session import Session
from hnm.run.study import Study, open_study
from hnm.run.tracking import Tracker
from hnm.run.tracking_copy import DatabaseCopy
from hnm.run.tracking_run import files_of_run
from launch.process.disks import is_shared
from launch.process.distributed import RankLostError, is_joined, join_world, leave_world, told_when_lost
from launch.process.ending import LOST, tell_launcher
from launch.process.keeper import RunKeeper
from launch.process.preemption import Preempted, StopSignals
from launch.process.run_directory import (
    WARNED_SETTINGS,
    alone_in,
    attempt_tags,
    begin_attempt,
    end_attempt,
    note_changes,
    remove_leftovers,
    settings_of_checkpoints,
)
from launch.process.said import in_words, keep_log
from launch.process.staging import stage
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.reading.reader import PatchReader
from shards.secrets import scrub

STALLED_AFTER = 0.8  # of the collectives' time: rank 0 says who is late before the run ends


@dataclass(frozen=True)
class Opening:
    """What a verb wants opened.

    Attributes:
        verb: its name, for the list of attempts.
        config: the resolved configuration.
        cohort: the opened cohort.
        folder: the run directory.
        prepare: checks what may be wrong and makes `folder`; called on rank 0 only, before anything is written there.
        first_encoder: name of the file that pretraining writes in `folder`.
        settings: beginnings of the config's keys that its checkpoints depend on.
    """

    verb: str
    config: Config
    cohort: Cohort
    folder: Path
    prepare: Callable[[World], None]
    first_encoder: str = "encoder-start.safetensors"
    settings: tuple[str, ...] = ("",)


@contextmanager
def session_of(opening: Opening) -> Iterator[Session]:
    """Join the ranks and open everything that a phase needs; close it however the block ends. Every rank must call it.

    Raises:
        Preempted: the run was asked to stop, and has saved.
        RankLostError: another rank is gone.
    """
    config, folder = opening.config, opening.folder
    with StopSignals() as signals, told_when_lost(folder / "log"), numerics(config.engine):
        world = join_world(config.device, config.timeout.start_s)
        try:
            with ExitStack() as open_things:
                claim, changed = _begin(opening, open_things, world)
                journal, tracker = _open_journal(opening, open_things, world)
                readers: list[PatchReader] = []
                journal.heartbeat = Heartbeat(
                    folder / "log", world, lambda: sum(reader.num_read for reader in readers), journal.event,
                    _say_stalled(journal), STALLED_AFTER * config.timeout.step_s, claim,
                )  # fmt: skip
                open_things.callback(journal.heartbeat.close)  # it beats, and keeps the claim, while MLflow takes the files
                open_things.enter_context(_ending_noted(folder, tracker, journal))
                open_things.enter_context(told_when_lost(folder / "log"))
                open_things.callback(journal.heartbeat.write)  # before that tells what each rank did last
                _say_changed(changed, journal)
                if told := opening.cohort.patches.told:
                    journal.say(f"warning: {told}")
                _prepare_device(config, journal)
                keeper = _make_keeper(opening, signals, journal)
                study = open_study(opening.cohort, config.data, config.seed)
                copies = _stage(opening, study, journal, keeper)
                reader = PatchReader(study.cohort, config.reader, study.slide_groups, copies)
                readers.append(open_things.enter_context(reader))
                session = Session(study, reader, config.seed, world, journal, config.engine, keeper)
                yield session
                if is_joined(world):  # else `leave_ranks` has done it
                    warn_of_broken(folder, session)
        finally:
            leave_world(world)


def leave_ranks(folder: Path, session: Session) -> Session:
    """End what the ranks do together, and return the session of this rank alone. Every rank must call it.

    What rank 0 does afterwards may take as long as it likes: nobody waits for it in a collective.
    """
    if session.world.size == 1:
        return session
    warn_of_broken(folder, session)
    leave_world(session.world)
    return replace(session, world=World(0, 1, 0, session.world.device))


def _begin(opening: Opening, open_things: ExitStack, world: World) -> tuple[Path | None, list[str]]:
    """Check, claim and tidy the run directory on rank 0, and note the attempt.

    Returns:
        The claim's file, and what the attempt does otherwise than the one before; None and nothing on the other ranks.
    """
    claims: list[Path] = []
    changed: list[str] = []
    folder = opening.folder

    def begin(world: World) -> None:
        opening.prepare(world)
        claims.append(open_things.enter_context(alone_in(folder)))
        begin_attempt(folder, opening.verb, world.size)
        tell_launcher(folder)
        changed.extend(note_changes(folder, opening.config, opening.settings))
        forget_beats(folder / "log")
        remove_leftovers(folder)
        sweep(folder)

    _on_main(begin, world)
    return claims[0] if claims else None, changed


def _say_changed(changed: list[str], journal: Journal) -> None:
    """Say what this attempt does otherwise, and warn of what the figures will show."""
    if changed:
        journal.say(f"other settings than before, noted in state.json: {'; '.join(changed)}")
    for line in changed:
        if line.startswith(WARNED_SETTINGS):
            journal.say(
                f"warning: {line}: what is computed from here on is rounded otherwise than what stands. The run is not one of "
                "either precision alone; for figures that you compare, start anew"
            )


def _prepare_device(config: Config, journal: Journal) -> None:
    """Say how exactly a GPU will compute, and let what is compiled lie on this node's own disk."""
    if (told := numerics_in_words(config.engine, journal.world.device)) is not None:
        journal.say(told)
    if config.engine.compile:
        journal.logger.info("compiled code: %s", use_local_compile_cache(journal.world.local_rank) or "where you have set it")


def _open_journal(opening: Opening, open_things: ExitStack, world: World) -> tuple[Journal, Tracker | None]:
    """Open the record of the run and, on rank 0, its tracker."""
    config, folder = opening.config, opening.folder
    tracker = None
    if world.is_main:
        copy = DatabaseCopy(folder) if config.tracking.uri is None and is_shared(folder) else None
        tracker = Tracker(folder, config.tracking, config.model_dump(mode="json"), copy)
        open_things.callback(tracker.close)
        tracker.set_tags(attempt_tags(folder))
    journal = Journal(folder, world, tracker.metrics_written if tracker else None)
    open_things.callback(journal.close)
    return journal, tracker


def _stage(opening: Opening, study: Study, journal: Journal, keeper: RunKeeper) -> Path | None:
    """Copy the shards that the verb will read to the node's own disk, if the configuration names one."""
    config = opening.config.reader
    if config.stage_dir is None or config.shards_url is not None:
        return None
    slides = study.test if opening.verb == "evaluate" else study.embedded_slides
    return stage(study.cohort, slides, config.stage_dir, journal, keeper.stop_if_asked)


def _make_keeper(opening: Opening, signals: StopSignals, journal: Journal) -> RunKeeper:
    """Return the keeper of the run, whose checkpoints lie beside the files that the phases end with."""
    config, folder = opening.config, opening.folder

    def folder_of(phase: str, round_: int) -> Path:
        if phase == "pretrain":
            return (folder / opening.first_encoder).with_suffix("")
        return folder / f"round-{round_:03d}" / {"finetune": "encoder", "aggregate": "aggregator"}[phase]

    settings = settings_of_checkpoints(folder, config, opening.settings)
    identity = {"cohort": opening.cohort.fingerprint, "seed": config.seed, "settings": settings}
    return RunKeeper(folder, folder_of, identity, config.checkpoint, config.timeout, signals, journal)


@contextmanager
def _ending_noted(folder: Path, tracker: Tracker | None, journal: Journal) -> Iterator[None]:
    """Note how the block ended: every rank in its log and its last heartbeat, rank 0 in state.json and in MLflow."""
    status, how = "FAILED", "failed"
    errors: dict[int, str] = {}
    try:
        yield
        status, how = "FINISHED", "finished"
    except Preempted:
        status, how = "KILLED", "stopped as asked"
        raise
    except BaseException as error:
        own = "another rank was gone or did not answer" if isinstance(error, RankLostError) else in_words(error)
        keep_log(error, folder / "log")
        journal.logger.error("error: %s", in_words(error), exc_info=not isinstance(error, InputError | FloatingPointError))
        if journal.heartbeat is not None:
            journal.heartbeat.failed(own)
        how, errors = _how_it_failed(error, own, errors_of(read_beats(folder / "log")))
        raise
    finally:
        if tracker is not None:  # on rank 0
            with suppress(OSError):  # a full disk is what it may be about
                end_attempt(folder, how, errors)
            tracker.finish(status, files_of_run(folder), attempt_tags(folder))


def _how_it_failed(error: BaseException, own: str, told: dict[int, str]) -> tuple[str, dict[int, str]]:
    """Return how the attempt ended, for state.json, and by rank what ended the others.

    Args:
        error: rank 0's.
        own: the same in words.
        told: by rank, what the ranks have told of their ends.
    """
    others = {rank: text for rank, text in told.items() if rank and text != own}
    if isinstance(error, RankLostError):
        first = next(iter(others.items()), None)
        return (LOST if first is None else f"failed (rank {first[0]}: {first[1].splitlines()[0][:300]})"), others
    text = scrub(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")[:300]
    return f"failed ({text})", others


def _say_stalled(journal: Journal) -> Callable[[str], None]:
    return lambda last_words: journal.say(f"warning: nothing comes forward. {last_words}")


def _on_main(action: Callable[[World], None], world: World) -> None:
    """Run `action` on rank 0; if it fails there, the other ranks leave quietly. Every rank must call it."""
    failure: Exception | None = None
    if world.is_main:
        try:
            action(world)
        except Exception as error:  # kept, and raised below when the other ranks know
            failure = error
    if main_says(lambda: failure is not None, world):
        raise failure or SystemExit(1)
