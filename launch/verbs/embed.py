"""What `hnm embed` does: the features of a cohort's slides by any encoder, for other tools.

cohort + encoder ──▶ check FOLDER ──▶ ranks share the slides that are missing ──▶ a file per slide ──▶ patches/s, time waiting
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from hnm.config import Config, load_config, read_config
from hnm.encoder.embed_slides import Throughput, embed_slides, features_path, share_slides
from hnm.encoder.networks import Encoder, describe
from hnm.encoder.start import Start, find_start
from hnm.encoder.weights import load_encoder
from hnm.engine.engine import for_inference
from hnm.engine.ranks import World, broadcast_array, main_says, max_over_ranks, sum_over_ranks
from hnm.model.model import ENCODER_FILE, is_exported
from hnm.run.journal import Journal
from launch.process.distributed import join_world, leave_world, told_when_lost
from launch.process.preemption import Preempted, StopSignals
from launch.verbs.tile import parse_share
from launch.verbs.train import in_ranks
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json
from shards.reading.reader import PatchReader

ABOUT_FILE = "embedding.json"
MAX_NAMED = 5
WAIT_S = 86_400.0  # ranks meet only at the end, and one may have had the slides that are slow to read


@dataclass(frozen=True)
class EmbedRequest:
    """The command line of `hnm embed`. See launch/cli/embed.py for each."""

    cohort: Path
    encoder: str
    out: Path
    config: str | None = None
    overrides: list[str] = field(default_factory=list)
    shard_of: str | None = None
    ranks: int = 0


def embed(request: EmbedRequest) -> int:
    """Write the features of the slides that have none yet; exit code 1 if a slide gave an error."""
    config = load_config(request.config, None, request.overrides)
    if (code := in_ranks(request.ranks, config)) is not None:
        return code
    cohort = Cohort.open(request.cohort)
    cohort.require_pictures("Embedding")
    slides = chosen_slides(cohort, request.shard_of)
    encoder, identity = open_encoder(request.encoder, config)
    with StopSignals() as signals, told_when_lost(request.out / "log"):
        world = join_world(config.device, WAIT_S)
        try:
            about = identity | {"precision": config.engine.precision}
            refusal = _refusal(request.out, cohort, about) if world.is_main else ""
            if main_says(lambda: bool(refusal), world):
                raise InputError(refusal) if refusal else SystemExit(1)
            return embed_missing(encoder, slides, cohort, config, request.out, about, world, signals)
        finally:
            leave_world(world)


def open_encoder(given: str, config: Config) -> tuple[Encoder, dict[str, str]]:
    """Return an encoder and what names it: as --encoder of `hnm train`, or from a folder that hnm export wrote.

    Raises:
        InputError: there is no such encoder, its weights are not here, or do not fit the section encoder.
    """
    if is_exported(folder := Path(given)):
        section = read_config(folder / "config.yaml").encoder
        start = Start(folder / ENCODER_FILE, section)
    else:
        start = find_start(given, config.encoder)
    encoder = load_encoder(start.path, start.config) if start.path else start.load(config.seed).encoder
    return encoder, {"encoder": folder.name, "network": describe(encoder)["summary"], **start.origin()}


def chosen_slides(cohort: Cohort, shard_of: str | None) -> np.ndarray:
    """Return the increasing numbers of the slides with patches, or of one share of an array job."""
    slides = np.flatnonzero(cohort.patches_per_slide > 0)
    if shard_of is None:
        return slides
    number, count = parse_share(shard_of)
    return slides[number - 1 :: count]


def _refusal(folder: Path, cohort: Cohort, about: dict[str, str]) -> str:
    """Note in a new folder whose features it gets; return why they must not go there, or "". Call it on rank 0 only."""
    now = {"cohort": str(cohort.root.resolve()), "fingerprint": cohort.fingerprint, **about}
    path = folder / ABOUT_FILE
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.glob("*.h5"))):
            return f"{folder}: holds features that hnm embed did not write. Choose another folder"
        write_json(path, now)
        return ""
    then = json.loads(path.read_text(encoding="utf-8"))
    decisive = [key for key in now if key not in ("cohort", "encoder", "source")]  # these are names, and may change
    differs = [f"{key}: {then.get(key)} -> {now[key]}" for key in decisive if then.get(key) != now[key]]
    return (
        f"{folder}: holds the features of something else ({'; '.join(differs)}). Choose another folder"
        if differs
        else ""
    )


def embed_missing(
    encoder: Encoder,
    slides: np.ndarray,
    cohort: Cohort,
    config: Config,
    folder: Path,
    about: dict[str, str],
    world: World,
    signals: StopSignals,
) -> int:
    """Write the features of those slides that have none yet. Every rank must call it.

    Raises:
        Preempted: a rank was asked to stop; the slides that are done stay.
    """
    journal = Journal(None, world)
    missing = broadcast_array(
        missing_slides(slides, cohort, folder) if world.is_main else None, world
    )  # rank 0 looks, see main_says
    mine = share_slides(missing, cohort.patches_per_slide, world.size)[world.rank]
    forward = for_inference(encoder, config.engine, world)
    with PatchReader(cohort, config.reader) as reader:
        done = embed_slides(
            forward, mine, cohort, reader, config.rounds.embed_batch_size, folder, about, world.device,
            lambda: signals.requested is not None, lambda batches, total: journal.progress(batches, "embed", total),
        )  # fmt: skip
        num_broken = int(sum_over_ranks(torch.tensor([len(reader.broken.ids)]), world)[0])
    if max_over_ranks(int(signals.requested is not None), world):
        raise Preempted(f"{folder}: stopped; the slides that are done stay")
    journal.say(f"{folder}: {len(slides):,} slides, {len(missing):,} of them embedded now; the others were there")
    _tell_throughput(done, journal, world)
    _tell_left_out(num_broken, cohort, journal)
    return 0


def missing_slides(slides: np.ndarray, cohort: Cohort, folder: Path) -> np.ndarray:
    """Return those of some slides, by number, that have no file of features in a folder yet, (m,) int64."""
    there = {path.name for path in folder.glob("*.h5")}
    is_missing = [features_path(folder, str(cohort.slide_ids[slide])).name not in there for slide in slides]
    return slides[np.array(is_missing, bool)].astype(np.int64)


def _tell_throughput(done: Throughput, journal: Journal, world: World) -> None:
    """Say how fast it was, over all ranks. Every rank must call it."""
    sums = torch.tensor([done.num_patches, done.seconds, done.waited_s], dtype=torch.float64)
    num_patches, seconds, waited_s = sum_over_ranks(sums, world).tolist()
    longest_s = max_over_ranks(round(1000 * done.seconds), world) / 1000
    if num_patches:
        journal.say(
            f"{num_patches:,.0f} patches in {longest_s:.1f} s on {world.size} rank(s): {num_patches / longest_s:,.1f} patches/s; "
            f"{waited_s / seconds:.0%} of the time the encoder waited for pictures (reader.threads, reader.prefetch_batches)"
        )


def _tell_left_out(num_broken: int, cohort: Cohort, journal: Journal) -> None:
    if num_broken:
        journal.say(
            f"warning: {num_broken:,} patches could not be read; features of others stand in their place (reader.broken)"
        )
    empty = cohort.slide_ids[cohort.patches_per_slide == 0]
    if len(empty):
        some = ", ".join(map(str, empty[:MAX_NAMED])) + (" ..." if len(empty) > MAX_NAMED else "")
        journal.say(f"{len(empty):,} slides have no patch and get no file: {some}")
