"""Small worlds for tests of the algorithm: tables and features without images, and all phases on the drawn cohort."""

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch

from hnm.aggregator.bags import file_of_rows, open_bags, write_index
from hnm.aggregator.dsmil import DSMIL
from hnm.aggregator.score import Part, bounds_of_ranks, score_slides
from hnm.config import Config
from hnm.encoder.contrastive_model import ContrastiveModel, fresh_model, save_model
from hnm.encoder.embed import embed
from hnm.encoder.finetune import finetune, plan_steps
from hnm.encoder.simclr import pretrain
from hnm.engine.ranks import World, barrier
from hnm.engine.state import load_weights
from hnm.evidence.evaluate import evaluate
from hnm.mining.coordinator import decide, rank_cohort, read_decision, share_mined
from hnm.mining.joined import JoinedMined, join_round, share_joined
from hnm.mining.mining import Mined
from hnm.mining.rescore import rows_to_rescore
from hnm.rounds import train
from hnm.rounds_config import RoundsConfig
from hnm.run.journal import Journal
from hnm.run.phase import read_state
from hnm.run.session import Session
from hnm.run.study import DataConfig, Study, open_study
from hnm.run.targets import Targets
from hnm.run_rounds import START_ENCODER
from shards.cohort.cohort import Cohort, Patches
from shards.files import write_array, write_json
from shards.reading.plan import ids_of_rank
from shards.seeding import seeded_torch
from tests.tiny import tiny_config, tiny_session

NUM_SLIDES, DIM = 18, 32


def tables_only_cohort(seed: int = 0) -> Cohort:
    """Return a cohort of 18 slides of 3 to 19 patches; odd slides are positive, a quarter of their patches truly so."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 20, NUM_SLIDES)
    slide = np.repeat(np.arange(NUM_SLIDES, dtype=np.int32), sizes)
    truth = ((slide % 2 == 1) & (random.random(len(slide)) < 0.25)).astype(np.int8)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    truth[starts[1::2]] = 1  # every positive slide has at least one
    zeros = np.zeros(len(slide), np.int32)
    patches = Patches(slide, zeros, zeros, zeros, zeros.astype(np.int64), zeros, truth)
    splits = ["train"] * 10 + ["validation"] * 4 + ["test"] * 4
    slides = pa.table(
        {
            "slide_id": [f"slide-{s}" for s in range(NUM_SLIDES)],
            "patient_id": [f"patient-{s}" for s in range(NUM_SLIDES)],
            "label": pa.array([s % 2 for s in range(NUM_SLIDES)], pa.int8()),
            "split": splits,
        }
    )
    return Cohort(Path("cohort"), {}, slides, patches)


def tables_only_study(config: DataConfig | None = None) -> Study:
    """Return the study of `tables_only_cohort`."""
    return open_study(tables_only_cohort(), config or DataConfig(), 0)


@dataclass(frozen=True)
class SessionWithFeatures(Session):
    """A session whose train and validation slides have feature files, in three parts."""

    features: Path = field(kw_only=True)


def session_with_features(world: World, folder: str) -> SessionWithFeatures:
    """Return a session; features of truly positive patches are shifted, so that they can be learned. Made once."""
    study = tables_only_study()
    features = Path(folder) / "features"
    if not (features / "index.json").is_file():
        ids = study.patches_of(study.embedded_slides)
        rows = np.random.default_rng(1).standard_normal((len(ids), DIM)).astype(np.float16)
        rows[study.cohort.patches.truth[ids] == 1, :4] += 3
        cuts = np.linspace(0, len(rows), 4).astype(int)
        files = [file_of_rows(int(start), int(stop)) for start, stop in itertools.pairwise(cuts)]
        for name, block in zip(files, np.split(rows, cuts[1:-1]), strict=True):
            write_array(features / name, block)
        sizes = np.diff(study.cohort.patch_bounds)[study.embedded_slides]
        write_index(features, study.embedded_slides, sizes, files)
    reader = None  # nothing here reads images
    return SessionWithFeatures(study, reader, 0, world, Journal(None, world), features=features)  # type: ignore[arg-type]


def all_phases(world: World, cohort: str, folder: str) -> dict[str, Any]:
    """Embed, mine, pretrain and fine-tune on this rank, and return what came out. Every rank must call it."""
    config = tiny_config(
        "mining.neg_ratio=1.0", "finetune.augment.recipe=weak"
    )  # flips are exact: see test_finetune.py
    with tiny_session(world, Path(cohort), config) as session:
        model = fresh_model(config.encoder, seed=1)
        embed(model.encoder, session.study.embedded_slides, 16, Path(folder) / "features", session)
        results: dict[str, Any] = {"mined": mine_and_share(session, Path(folder) / "mined")}
        results["rescored"] = rescored(model, session, Path(folder) / "mined", Path(folder) / "rescored")
        results["pretrain_steps"] = pretrain_in_float64(config, Path(folder) / "pretrained.safetensors", session)
        for dtype in (torch.float32, torch.float64):
            results[str(dtype)] = finetuned(results["mined"], config, dtype, session)
        results["joined"] = finetuned_for_two(config, session, Path(folder))
        steps = plan_steps(results["mined"], 1, 2, config.finetune, config.mining, seed=0)
        results["ids"] = [ids_of_rank(step.row, world.rank, world.size) for step in steps]
        first = plan_steps(results["mined"], 0, 2, config.finetune, config.mining, seed=0)[0]
        results["first_ids"] = ids_of_rank(first.row, world.rank, world.size)
        results["stopped"] = finetune_with_nan_on_last_rank(results["mined"], config, session)
    if world.is_main:
        results["features"] = [np.load(path) for path in sorted((Path(folder) / "features").glob("rows-*.npy"))]
        results["pretrained"] = load_weights(Path(folder) / "pretrained.safetensors")[0]
    return results


def in_float64(model: ContrastiveModel) -> ContrastiveModel:
    """Return the model computing in float64, whose rounding is too small to matter; the images stay float32."""
    model.encoder.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return model.double()


def pretrain_in_float64(config: Config, out: Path, session: Session) -> int:
    """Pretrain a float64 model; return the number of steps. Every rank must call it."""
    with patch("hnm.encoder.simclr.fresh_model", lambda encoder, seed: in_float64(fresh_model(encoder, seed))):
        return pretrain(config.encoder, config.pretrain, out, session)


def mine_and_share(session: Session, folder: Path) -> Mined:
    """Mine drawn scores on rank 0 and return what every rank was told."""
    study, config = session.study, tiny_config("mining.neg_ratio=1.0").mining
    scores = np.random.default_rng(5).random(study.cohort.num_patches, np.float32)
    chosen = rank_cohort(part_of(scores, study, session.world), study, config, folder, None, session.world)
    if chosen is not None:
        decide(chosen, {"f1": 1.0}, {}, study, config, 0.2, folder, None)
    return share_mined(folder, session.world)


def finetuned_for_two(config: Config, session: Session, folder: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """Mine drawn scores for two targets, join them and fine-tune in float64; return what `finetuned` does."""
    study, names = session.study, ("a", "b")
    other = np.where(study.labels >= 0, np.arange(len(study.labels)) // 2 % 2, -1).astype(np.int8)
    other[study.train[0]] = -1
    session = replace(session, study=replace(study, targets=Targets(names, np.stack([study.labels, other]))))
    rounds = [folder / name for name in names]
    for target, its in enumerate(rounds):
        mine_and_share(session.of_target(target), its)
    targets = session.study.targets
    assert targets is not None
    if session.world.is_main:
        join_round(folder / "joined", dict(zip(names, map(read_decision, rounds), strict=True)), rounds, study.cohort.num_patches)
    barrier(session.world)
    return finetuned(share_joined(folder / "joined", rounds, targets, session.world), config, torch.float64, session)


def rescored(model: ContrastiveModel, session: Session, previous: Path, folder: Path) -> dict[str, np.ndarray]:
    """Embed and score half of the training patches anew; return on rank 0 what came out. Every rank must call it."""
    config, study, world = RoundsConfig(rescore="adaptive", rescore_share=0.5), session.study, session.world
    rows = rows_to_rescore(config, 1, folder, previous, study, 0, world)
    embed(model.encoder, study.embedded_slides, 16, folder / "features", session, rows=rows)
    bags = open_bags(folder / "features", world)
    with seeded_torch(0, "test"):
        aggregator = DSMIL(bags.dim)
    _, part = score_slides(aggregator, bags, study.embedded_slides, session, rows)
    rank_cohort(part, study, tiny_config().mining, folder, previous, world, is_partial=True)
    if not world.is_main:
        return {}
    features = np.concatenate([np.load(path) for path in sorted((folder / "features").glob("rows-*.npy"))])
    found = {name: np.load(folder / f"{file}.npy") for name, file in (("scores", "scores"), ("ages", "score_ages"))}
    return {"ids": np.asarray(rows.patches), "features": features, **found}


def part_of(scores: np.ndarray, study: Study, world: World) -> Part:
    """Return this rank's part of the scores (N,) of a whole cohort."""
    bounds = bounds_of_ranks(study.rows_of(study.embedded_slides), study.cohort.num_patches, world.size)
    ids = slice(int(bounds[world.rank]), int(bounds[world.rank + 1]))
    return Part(scores[ids], bounds, ids)


def finetuned(
    mined: Mined | JoinedMined, config: Config, dtype: torch.dtype, session: Session
) -> tuple[int, dict[str, torch.Tensor]]:
    """Fine-tune a fresh model in `dtype` for an epoch of both kinds of steps; return their number and its weights."""
    model = fresh_model(config.encoder, seed=1)
    model = in_float64(model) if dtype == torch.float64 else model
    weights, num_steps = finetune(model, mined, config.finetune, config.mining, 1, 2, session)
    return num_steps, weights


def finetune_with_nan_on_last_rank(mined: Mined, config: Config, session: Session) -> tuple[str, bool]:
    """Fine-tune while the last rank sees NaN; return this rank's error and whether the weights stayed as they were."""
    model, before = fresh_model(config.encoder, seed=1), fresh_model(config.encoder, seed=1).state_dict()
    if session.world.rank == session.world.size - 1:
        model.encoder.register_forward_pre_hook(lambda _, images: (images[0] * float("nan"),))
    try:
        finetune(model, mined, config.finetune, config.mining, 0, 2, session)
    except FloatingPointError as error:
        return str(error), all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return "", False


def mine_round_of(world: World, cohort: str, run: str, overrides: list[str]) -> dict[str, Any]:
    """Run one round of fine-tuning in the folder `run`; return how many steps it took. Every rank must call it."""
    config = tiny_config("rounds.num_rounds=1", *overrides)
    folder = Path(run)
    with tiny_session(world, Path(cohort), config, Journal(folder, world)) as session:
        if world.is_main:
            write_json(folder / "state.json", {"phases": []})
            save_model(folder / START_ENCODER, fresh_model(config.encoder, 1), {})
        barrier(world)
        train(config, folder / START_ENCODER, folder, session)
        session.journal.close()
    return {"steps": read_state(folder)["phases"][3]["steps"]}


def embed_and_finetune(world: World, cohort: str, folder: str) -> dict[str, Any]:
    """Embed all slides and fine-tune for an epoch in float64; return what came out. Every rank must call it."""
    config = tiny_config("mining.neg_ratio=1.0", "finetune.augment.recipe=weak", "finetune.batch_size=32")
    with tiny_session(world, Path(cohort), config, Journal(Path(folder), world)) as session:
        slides = session.study.embedded_slides
        embed(fresh_model(config.encoder, seed=1).encoder, slides, 16, Path(folder) / "features", session)
        mined = mine_and_share(session, Path(folder) / "mined")
        num_steps, weights = finetuned(mined, config, torch.float64, session)
        session.journal.close()
    return {"num_read": session.reader.num_read, "num_steps": num_steps, "weights": weights}


def evaluate_in(world: World, cohort: str, run: str, overrides: list[str]) -> None:
    """Evaluate the finished run in the folder `run`. Every rank must call it."""
    config = tiny_config(*overrides)
    with tiny_session(world, Path(cohort), config, Journal(Path(run), world)) as session:
        evaluate(config, Path(run), session)
        session.journal.close()
