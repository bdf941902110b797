"""The run directory's identity: which cohort, which configuration, which machine; written once, checked ever after.

And its life: one process at a time works on it (log/claim.json); state.json lists the attempts, how each began and ended.
"""

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hnm.config import Config, difference, flatten, read_config, record_config
from hnm.engine.checkpoint import settings_digest
from hnm.installed import describe_environment
from hnm.run.checksums import read_state
from hnm.run.heartbeat import Beat, errors_of, read_beats
from hnm.run.seen import changes, leaked, read_seen, seen_of, write_seen
from hnm.run.study import DataConfig
from launch.process.distributed import rank_of_process, slurm_job
from launch.process.kinds import refuse_other
from shards.claim import Waiting, claimed, is_running, owner_of
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json

# A resumed run may change these. The first decide where it runs; a checkpoint does not know them.
WHERE_SETTINGS = ("device", "reader.", "tracking.", "checkpoint.", "timeout.", "slurm.", "engine.deterministic")
# The others decide how the same numbers are computed (up to their rounding): in what pieces, by whom, and what is kept. The
# cohort, whose fingerprint is checked, has its own section tile.
FREE_SETTINGS = (
    *WHERE_SETTINGS, "tile.", "pretrain.chunk_size", "finetune.chunk_size", "rounds.embed_batch_size", "rounds.keep_features",
    "pretrain.gradient_checkpointing", "finetune.gradient_checkpointing",
    "engine.deepspeed", "engine.compile", "engine.channels_last", "rounds.patch_false_positive_rate",
    "evaluate.prevalence", "data.positive",
)  # fmt: skip
WARNED_SETTINGS = ("engine.precision",)  # these, too, but the numbers differ in the third digit: it is told
PRETRAIN_SETTINGS = ("seed", "data.", "engine.", "encoder.", "pretrain.")  # all that pretraining depends on
REMOTE_TIMEOUT_S = 60.0  # a claim of another machine that was not touched for so long is stale; beats touch it every 5 s
WAIT_FOR_CLAIM_S = 75.0
TELL_AFTER_S = 1.0  # a process that was just ended is gone by then
CLAIM_FILE = Path("log", "claim.json")


def open_run(run: Path, cohort: Cohort, config: Config, settings: tuple[str, ...] = ("",)) -> None:
    """Create the run directory, or check that it belongs to this cohort and configuration. Call it on rank 0 only.

    Args:
        settings: beginnings of the keys that must be as they were; default: all but FREE_SETTINGS and WARNED_SETTINGS.

    Raises:
        InputError: the directory holds another run, or is a folder of something else.
    """
    if (run / "state.json").is_file():
        check_cohort(run, cohort, config.data, is_training=True)
        changed = difference(read_config(run / "config.yaml"), config)
        free = (*FREE_SETTINGS, *WARNED_SETTINGS)
        changed = [line for line in changed if line.startswith(settings) and not line.startswith(free)]
        if changed:
            raise InputError(
                f"{run}: this run was started with other settings ({'; '.join(changed)}). Use another run directory, or "
                f"the settings it was started with: --config {run / 'config.yaml'}, without --preset"
            )
        return
    if run.exists() and (not run.is_dir() or any(path.name != SUBFOLDER for path in run.iterdir())):
        raise InputError(f"{run}: exists and is no run directory of hnm. Choose another name or remove it")
    run.mkdir(parents=True, exist_ok=True)
    _write_config(run, config)
    write_json(run / "environment.json", describe_environment())
    write_seen(run, seen_of(cohort, config.data))
    state = {"cohort": str(cohort.root.resolve()), "fingerprint": cohort.fingerprint, "phases": []}
    write_json(run / "state.json", state)


def read_run(run: Path) -> tuple[Config, Path]:
    """Return the configuration and the cohort's folder of an existing run.

    Raises:
        InputError: `run` is no run directory.
    """
    if not (run / "state.json").is_file():
        refuse_other(run)
        raise InputError(f"{run}: no run directory (state.json is missing). Make one with: hnm train COHORT {run}")
    state = read_state(run)
    return read_config(run / "config.yaml"), Path(state["cohort"])


def check_cohort(run: Path, cohort: Cohort, data: DataConfig, is_training: bool = False) -> None:
    """Refuse a run of another cohort, or of one whose slides have got other parts to play.

    Args:
        data: the run's columns.
        is_training: nothing may have changed; else other labels, patients and splits are only told (on rank 0), as long as
            nothing is tested that the model has learned from or was chosen by.

    Raises:
        InputError: naming both cohorts, or the columns and slides.
    """
    state = read_state(run)
    if state["fingerprint"] != cohort.fingerprint:
        raise InputError(
            f"{run / 'state.json'}: this run was made with the cohort {state['cohort']} (fingerprint "
            f"{state['fingerprint']}); {cohort.root} has {cohort.fingerprint}. Give that cohort, or another run directory"
        )
    then = read_seen(run)
    if then is None:
        return
    now = seen_of(cohort, data)
    changed, tested = changes(then, now), leaked(then, now)
    if changed and (is_training or tested):
        why = "" if is_training else (
            f": {len(tested):,} slides would be tested that the model has learned from or was chosen by, or whose patient's "
            f"others it has ({', '.join(tested[:3])}{' ...' if len(tested) > 3 else ''})"
        )  # fmt: skip
        raise InputError(
            f"{cohort.root}: tiled again since {run} began, with other values{why}. Changed: {'; '.join(changed)}. Tile with the "
            "table of then, or train another run"
        )
    if changed and rank_of_process() == 0:
        print(f"warning: {cohort.root} was tiled again since {run} began: {'; '.join(changed)}", file=sys.stderr)


@contextmanager
def alone_in(run: Path, wait_s: float = WAIT_FOR_CLAIM_S, claim_file: Path = CLAIM_FILE) -> Iterator[Path]:
    """Hold a run directory, or another folder of ours, during the block: two who wrote there would spoil each other's files.

    A process that was just killed may take a moment to go; one of another machine is waited for until its claim is stale.

    Yields:
        The claim's file; touch it now and then.

    Raises:
        InputError: another process works there.
    """
    path = run / claim_file
    give_up, waiting = time.monotonic() + wait_s, Waiting(str(run), f" up to {wait_s:.0f} s for its end")
    while True:
        with claimed(path, REMOTE_TIMEOUT_S) as claim:
            if claim is not None:
                yield path
                return
            owner = owner_of(path)
        if time.monotonic() > give_up:
            raise InputError(f"{run}: {owner} works there. Wait for its end, end it, or use another folder")
        waiting.tell(path)
        time.sleep(0.5)


def is_abandoned(run: Path) -> bool:
    """Return whether a process of this machine worked on the run, and is gone without having ended its work."""
    owner = owner_of(run / CLAIM_FILE)
    return owner is not None and owner.host == socket.gethostname() and not is_running(owner)


def begin_attempt(run: Path, verb: str, num_ranks: int) -> None:
    """Note in state.json that a process begins to work on the run. Call it on rank 0 only, before its first heartbeat."""
    state = read_state(run)
    attempts = state.get("attempts", [])
    if attempts and attempts[-1]["ended"] is None:
        beats = read_beats(run / "log")
        state |= _seconds_of_killed(state, beats)
        last = max((beat["time"] for beat in beats), default=attempts[-1]["started"])
        told = {str(rank): text for rank, text in errors_of(beats).items()}
        attempts[-1] |= {"ended": last, "how": "died", **({"errors": told} if told else {})}
    attempt = {"verb": verb, "started": now(), "ended": None, "how": None, "host": platform.node(), "ranks": num_ranks}
    attempts.append(attempt | slurm_job())
    write_json(run / "state.json", {**state, "attempts": attempts})


def note_changes(run: Path, config: Config, settings: tuple[str, ...] = ("",)) -> list[str]:
    """Note in state.json what the attempt that has begun does otherwise, and let config.yaml follow it; return the lines.

    What comes later (evaluate, predict) takes config.yaml: the chunks that fit into memory, not those that did not. Call it on
    rank 0 only, alone in the run, after `open_run` has refused what may not change.

    Args:
        settings: beginnings of the keys that checkpoints depend on.
    """
    recorded = read_config(run / "config.yaml")
    changed = difference(recorded, config)
    if changed:
        state = read_state(run)
        state.setdefault("settings", _digest(recorded, settings))  # of the first attempt: its checkpoints are ours
        state["attempts"][-1]["changed"] = changed
        write_json(run / "state.json", state)
        _write_config(run, config)
    return changed


def settings_of_checkpoints(run: Path, config: Config, settings: tuple[str, ...]) -> str:
    """Return the digest of the settings that the run was started with, by which its checkpoints are known."""
    state = read_state(run)
    return str(state.get("settings") or _digest(config, settings))


def _digest(config: Config, settings: tuple[str, ...]) -> str:
    flat = flatten(config.model_dump(mode="json")).items()
    return settings_digest({k: v for k, v in flat if k.startswith(settings) and not k.startswith(WHERE_SETTINGS)})


def _write_config(run: Path, config: Config) -> None:
    record_config(run / "config.yaml", config)


def _seconds_of_killed(state: dict[str, Any], beats: list[Beat]) -> dict[str, Any]:
    """Return {"partial": ...}, the seconds of the phase that the last attempt was killed in; {} if that is not known.

    See hnm/run/phase.py: a phase that is gone on with counts them.
    """
    beat = next((beat for beat in beats if beat["rank"] == 0), None)
    if beat is None or beat["phase"] == "start" or beat["began"] < state["attempts"][-1]["started"]:
        return {}
    place = {"phase": beat["phase"], "round": beat["round"]}
    if any(place.items() <= known.items() for known in state["phases"]):
        return {}
    earlier = state.get("partial") or {}
    seconds = earlier["seconds"] if place.items() <= earlier.items() else 0.0
    return {"partial": {**place, "seconds": round(seconds + beat["time"] - beat["began"], 2)}}


def attempt_tags(run: Path) -> dict[str, str]:
    """Return the attempts of state.json as tags for MLflow: their number, and a line each."""
    attempts = read_state(run)["attempts"]
    tags = {"hnm.attempts": str(len(attempts))}
    for number, attempt in enumerate(attempts, start=1):
        where = f"job {attempt['job']} on {attempt['nodes']}" if "job" in attempt else attempt["host"]
        tags[f"hnm.attempt.{number:03d}"] = (
            f"{attempt['verb']}, {where}, {attempt['ranks']} rank(s): {attempt['how'] or 'at work'}"
            + (f"; changed: {'; '.join(attempt['changed'])}" if "changed" in attempt else "")
        )
    return tags


def end_attempt(run: Path, how: str, errors: Mapping[int, str] | None = None) -> None:
    """Note in state.json how this process's work ended. Call it on rank 0 only.

    Args:
        errors: what ended other ranks, by rank.
    """
    state = read_state(run)
    told = {"errors": {str(rank): text for rank, text in errors.items()}} if errors else {}
    state["attempts"][-1] |= {"ended": now(), "how": how, **told}
    write_json(run / "state.json", state)


def now() -> float:
    """Return the time, seconds since 1970 to the millisecond."""
    return round(time.time(), 3)


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files and folders of killed processes. Call it on rank 0 only, alone in the run."""
    for path in list(run.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_run(run: Path, is_sure: bool) -> None:
    """Remove a run, so that it begins anew. Call it on rank 0 only.

    Raises:
        InputError: the user is not sure, it is no run, or a process works there.
    """
    if not run.exists():
        return
    refuse_other(run)
    if not (run / "state.json").is_file():
        raise InputError(f"{run}: no run directory (state.json is missing), so --restart leaves it alone. Remove it yourself")
    rounds = len(list(run.glob("round-*/mining.json")))
    if not is_sure:
        raise InputError(
            f"--restart would remove {run} with {rounds} finished round(s). If that is what you want, add --yes; without "
            "--restart the run goes on where it stopped"
        )
    with alone_in(run, wait_s=0.0):
        aside = run.with_name(f".{run.name}.{os.getpid()}.removed")  # at once, or half a run would be left by a kill
        os.replace(run, aside)
    shutil.rmtree(aside)


SUBFOLDER = "slurm"

