"""The method, round by round. Read this file first.

    round r:  embed ▶ aggregate ▶ score ▶ mine (rank 0) ▶ fine-tune ──▶ round r + 1

Round 0 starts from the pretrained encoder and makes the first pseudo labels; the round after the last fine-tuning embeds,
aggregates and mines once more, and so every encoder has an aggregator. A phase is done when its file stands in the round's
folder under its final name: the same command, run again, goes on where it stopped. What is known of the phase (its steps,
its seconds) is written before that file, and what the phase no longer needs is removed after it: a process may be killed
between any two lines.
"""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hnm.aggregator.aggregate import bag_loss, train_aggregator
from hnm.aggregator.aggregators import Aggregator, build_aggregator
from hnm.aggregator.bags import Bags, features_complete, open_bags
from hnm.aggregator.score import score_slides, slide_scores
from hnm.baselines.of_run import BASELINES_FILE, fit_for_run
from hnm.config import Config
from hnm.encoder.contrastive_model import ContrastiveModel, load_model
from hnm.encoder.embed import embed
from hnm.encoder.finetune import finetune
from hnm.encoder.networks import metadata_of
from hnm.encoder.parts import choose_parts
from hnm.encoder.simclr import require_batch
from hnm.encoder.slide_loss import RoundSettings, finetune_on_slides
from hnm.encoder.suits import tell_encoder
from hnm.encoder.trained_file import base_of_rounds, save_trained
from hnm.engine.ranks import World, barrier, main_says
from hnm.engine.state import load_weights, save_weights
from hnm.mining.coordinator import decide, rank_cohort
from hnm.mining.known import in_words
from hnm.mining.mining import Mined, self_paced_ratio
from hnm.mining.ranking import count_of_share
from hnm.mining.rescore import is_full, rows_to_rescore, told_of_rescoring
from hnm.run.broken import note_broken
from hnm.run.budget import Watch
from hnm.run.checksums import MINED_FILES, require_whole, whole
from hnm.run.phase import phase, steps_of_finetuning
from hnm.run.session import Session
from hnm.run.slide_rows import Rows
from hnm.run.study import Study
from hnm.run_rounds import START_ENCODER, is_last, round_folder
from hnm.statistics.metrics import scores_at
from hnm.statistics.thresholds import choose_threshold
from hnm.target_rounds import begin_targets, decide_targets, mined_of_round, refuse_of_one
from shards.cohort.cohort import FEATURES, Cohort
from shards.errors import InputError
from shards.files import write_array


def train(config: Config, start_encoder: Path, run: Path, session: Session) -> None:
    """Run the rounds in the folder `run`, or those that are still missing. Every rank must call it.

    Args:
        config: the resolved configuration.
        start_encoder: the pretrained encoder, ours or a foreign checkpoint; not looked at where features are given.
        run: the run directory, visible to all ranks.
        session: data, ranks, journal.

    Raises:
        InputError: the encoder does not fit, or the mined sets cannot fill a batch.
    """
    check_batches(config, session.study, session.world)
    begin_targets(run, session)
    if not session.study.cohort.has_pictures:
        score_round(None, config, 0, run, session)
        return
    model = load_model(whole(start_encoder, run, session.world), config.encoder, session.seed)
    tell_encoder(model.encoder, session)
    for round_ in range(config.rounds.num_rounds + 1):
        folder = round_folder(run, round_)
        score_round(model, config, round_, run, session)
        if main_says(partial(is_last, config, round_, run), session.world):
            if round_ < config.rounds.num_rounds:
                session.journal.say(f"round {round_} of {config.rounds.num_rounds} is the last: {config.rounds.why_early}")
            break
        if not main_says((folder / "encoder.safetensors").is_file, session.world):
            finetune_round(model, config, round_, run, session)
        encoder = whole(folder / "encoder.safetensors", run, session.world)
        model = load_model(encoder, config.encoder, session.seed)


def score_round(model: ContrastiveModel | None, config: Config, round_: int, run: Path, session: Session) -> None:
    """Embed, aggregate, score and mine: from an encoder to a decision. Every rank must call it."""
    folder, world, study = round_folder(run, round_), session.world, session.study
    if main_says((folder / "mining.json").is_file, world):
        forget_features(folder, config, session)
        return
    rows = rows_of_round(config, round_, run, session)
    bags = bags_of_round(model, config, round_, run, session, rows)
    if study.targets is None:
        decide_round(bags, rows, config, round_, run, session)
    else:
        decide_targets(decide_round, bags, config, round_, run, session)
    forget_features(folder, config, session)
    barrier(world)


def decide_round(bags: Bags, rows: Rows, config: Config, round_: int, run: Path, session: Session) -> None:
    """Aggregate, score and mine for one target, whose folder is `run`: features to a decision. Every rank must call it."""
    folder, world, study = round_folder(run, round_), session.world, session.study
    aggregator = aggregate_round(bags, config, round_, run, session)
    with phase("mine", round_, run, session) as record:
        slides = study.embedded_slides
        previous = round_folder(run, round_ - 1) if round_ else None
        if previous is not None:
            require_whole([previous / name for name in MINED_FILES], run, world)
        logits, part = score_slides(aggregator, bags, slides, session, rows)
        is_partial = not is_full(config.rounds, round_)
        chosen = rank_cohort(part, study, config.mining, folder, previous, world, is_partial)
        del part  # 0.4 GB at 10^8 patches on one rank
        broken = note_broken(run, session)
        if chosen is not None:
            by_slide = np.full(study.cohort.num_slides, np.nan)
            by_slide[slides] = slide_scores(logits)
            write_array(folder / "slide_scores.npy", by_slide)
            validation = validation_metrics(by_slide, logits[:, np.isin(slides, study.validation)], config, session)
            ratio = _self_paced_ratio(config, round_)
            told = None
            if config.rounds.rescore == "adaptive":
                told = told_of_rescoring(config.rounds, round_, rows.num_rows, chosen.negatives, previous, study, session.seed)
            if round_ == 0:
                with record.not_counted():
                    fit_for_run(bags, folder / BASELINES_FILE, session)
            record.keep()
            decision = decide(chosen, validation, broken, study, config.mining, ratio, folder, previous, told)
            _report(decision, round_, session)


def rows_of_round(config: Config, round_: int, run: Path, session: Session) -> Rows:
    """Return the patches that a round embeds and scores: all of its slides, or some. Every rank must call it."""
    study = session.study
    if is_full(config.rounds, round_):
        return study.rows_of(study.embedded_slides)
    folder, previous = round_folder(run, round_), round_folder(run, round_ - 1)
    require_whole([previous / "scores.npy"], run, session.world)
    return rows_to_rescore(config.rounds, round_, folder, previous, study, session.seed, session.world)


def bags_of_round(
    model: ContrastiveModel | None, config: Config, round_: int, run: Path, session: Session, rows: Rows
) -> Bags:
    """Return the features of a round: embedded now, or before; or given, without a model. Every rank must call it."""
    folder, world, study = round_folder(run, round_) / FEATURES, session.world, session.study
    if model is None:
        return open_bags(study.cohort.root / FEATURES, world, study.embedded_slides)
    if not main_says(lambda: features_complete(folder), world):
        with phase("embed", round_, run, session) as record:
            batch_size = config.rounds.embed_batch_size
            embed(model.encoder, study.embedded_slides, batch_size, folder, session, record.keep, rows)
    return open_bags(folder, world, study.embedded_slides)  # a study's first features are of all slides


def forget_features(folder: Path, config: Config, session: Session) -> None:
    """Remove the features of a round that is decided, unless they are to be kept."""
    if session.world.is_main and not config.rounds.keep_features:
        shutil.rmtree(folder / FEATURES, ignore_errors=True)


def aggregate_round(bags: Bags, config: Config, round_: int, run: Path, session: Session) -> Aggregator:
    """Return the round's aggregator, trained now or read from its file. Every rank must call it."""
    path = round_folder(run, round_) / "aggregator.safetensors"
    if main_says(path.is_file, session.world):
        return load_aggregator(whole(path, run, session.world), bags.dim, session)
    with phase("aggregate", round_, run, session) as record:
        aggregator = train_aggregator(bags, config.aggregate, round_, session)
        record.keep()
        if session.world.is_main:
            kind = {"kind": config.aggregate.kind, "members": str(config.aggregate.num_members)}
            save_weights(path, aggregator, {"round": str(round_), **kind})
    return aggregator


def finetune_round(model: ContrastiveModel, config: Config, round_: int, run: Path, session: Session) -> None:
    """Fine-tune the encoder on what the round mined and write it. Every rank must call it."""
    folder = round_folder(run, round_)
    with phase("finetune", round_, run, session) as record:
        mined = mined_of_round(round_, run, session)
        if told := choose_parts(model, config.finetune, "finetune", session.seed):
            session.journal.say(told)
        is_adapters, start = config.finetune.train == "lora", run / START_ENCODER
        base = base_of_rounds(model.encoder, start) if is_adapters and session.world.is_main else None
        about = {**metadata_of(model.encoder), "round": str(round_)}
        num_rounds = config.rounds.num_rounds
        before = steps_of_finetuning(run, round_) if session.world.is_main else 0  # rank 0 tells them
        watch = Watch(config.rounds.budget, round_ * config.finetune.epochs_per_round, record, session)
        if config.finetune.objective == "supcon":
            tuning, mining = config.finetune, config.mining
            weights, num_steps = finetune(model, mined, tuning, mining, round_, num_rounds, session, before, watch.is_over)
        else:
            settings = RoundSettings(config.finetune, config.mining, config.aggregate, num_rounds)
            assert isinstance(mined, Mined)
            first = load_aggregator(folder / "aggregator.safetensors", model.encoder.feature_dim, session)
            weights, num_steps = finetune_on_slides(model, first, mined, settings, round_, session, before, watch.is_over)
        record.keep(steps=num_steps, epochs=watch.epochs)
        if session.world.is_main:
            save_trained(folder / "encoder.safetensors", weights, about, base)
        barrier(session.world)


def validation_metrics(by_slide: np.ndarray, logits: Any, config: Config, session: Session) -> dict[str, Any]:
    """Return how a round's aggregator does on the validation slides, at the threshold chosen there.

    `by_slide` are (S,) slide scores, `logits` (2, v) those of the validation slides.
    """
    study = session.study
    labels, scores = study.labels[study.validation], by_slide[study.validation]
    threshold = choose_threshold(labels, scores, config.evaluate.threshold)
    return {**scores_at(labels, scores, threshold), "threshold": threshold, "loss": bag_loss(logits, labels)}


def load_aggregator(path: Path, dim: int, session: Session) -> Aggregator:
    """Return a saved aggregator on the session's device; the file says of what kind it is."""
    weights, metadata = load_weights(path)
    aggregator = build_aggregator(metadata.get("kind", "dsmil"), dim, int(metadata.get("members", "1")))
    aggregator.load_state_dict(weights)
    return aggregator.to(session.world.device)


def _self_paced_ratio(config: Config, round_: int) -> float:
    """Return the share of the candidates that are positive anchors in the first epoch of a round."""
    epochs, mining = config.finetune.epochs_per_round, config.mining
    num_epochs = config.rounds.num_rounds * epochs
    first = min(round_ * epochs, num_epochs)
    return self_paced_ratio(
        first, config.finetune.warmup_epochs, num_epochs, mining.self_paced_start, mining.self_paced_end
    )


def require_pictures_of_rounds(config: Config, cohort: Cohort) -> None:
    """Refuse to fine-tune on features that were given.

    Raises:
        InputError: naming the key.
    """
    if config.rounds.num_rounds:
        cohort.require_pictures(
            f"rounds.num_rounds={config.rounds.num_rounds} fine-tunes an encoder (0: an aggregator alone is trained), which"
        )


def check_batches(config: Config, study: Study, world: World) -> None:
    """Refuse a fine-tuning batch that the hard negatives cannot fill, before hours are spent.

    Raises:
        InputError: naming the config key and the remedy.
    """
    if study.targets is not None:
        refuse_of_one(config)
        for target in range(len(study.targets.names)):
            check_batches(config, study.of_target(target), world)
        return
    if config.rounds.num_rounds == 0:
        return
    require_pictures_of_rounds(config, study.cohort)
    if config.finetune.objective == "slide":
        return
    if config.rounds.rescore == "adaptive" and config.rounds.rescore_share < config.mining.neg_ratio:
        raise InputError(
            f"rounds.rescore_share is {config.rounds.rescore_share}, less than mining.neg_ratio {config.mining.neg_ratio}: hard "
            "negatives are mined among the patches that are scored anew. Raise it, or lower mining.neg_ratio"
        )
    num_negatives = study.num_patches_of(np.flatnonzero(study.encoder_slides & (study.labels == 0)))
    mined = count_of_share(config.mining.neg_ratio, num_negatives)
    what = f"hard negatives (mining.neg_ratio {config.mining.neg_ratio} of {num_negatives} negative-slide patches)"
    wanted = min(1.0, math.ceil(1000 * config.finetune.batch_size / max(1, num_negatives)) / 1000)
    more = f"Raise mining.neg_ratio, here to at least {wanted:g}, or take more negative slides or fewer ranks"
    require_batch(mined, config.finetune.batch_size, what, "finetune.batch_size", world, more)
    shares = {"candidate_share": config.finetune.candidate_share, "self_paced_share": config.finetune.self_paced_share}
    for name, share in shares.items():
        if 0 < share <= 0.5 / config.finetune.batch_size:
            raise InputError(
                f"finetune.{name} is {share}, less than half a patch of finetune.batch_size {config.finetune.batch_size}: "
                f"no positive would ever be drawn. Raise either"
            )


def _report(decision: dict[str, Any], round_: int, session: Session) -> None:
    """Tell what a round's mining found."""
    validation = decision["validation"]
    figures = {name: value for name, value in decision.items() if isinstance(value, int | float)}
    session.journal.metrics("round", round_, **{f"validation_{k}": v for k, v in validation.items()}, **figures)
    witness, mimics = decision["witness_rate_self_paced"], decision.get("mimic_share_hard_negatives")
    session.journal.say(
        f"round {round_}: validation AUC {validation['auc']:.3f}, F1 {validation['f1']:.3f}; "
        f"{decision['num_hard_negatives']:,} hard negatives"
        + (f" ({mimics:.0%} known mimics, of all {decision['mimic_share_negatives']:.0%})" if mimics is not None else "")
        + f", {decision['num_candidates']:,} positive candidates"
        + (f", {witness:.0%} of the self-paced positives are truly positive" if witness is not None else "")
        + in_words(decision)
        + (f"; {rescore['share_rescored']:.0%} of the patches scored anew" if (rescore := decision.get("rescore")) else "")
    )
