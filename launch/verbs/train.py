"""What the verbs of the command line do: open files, join the ranks, and call the algorithm.

hnm VERB --ranks 2 ──▶ check the configuration ──▶ start 2 ranks of the same command ──▶ each: Session ──▶ hnm.*
"""

import sys
from pathlib import Path
from typing import Any

from hnm.config import Config, load_config
from hnm.encoder.simclr import check_batch
from hnm.encoder.simclr import pretrain as pretrain_encoder
from hnm.encoder.start import Start, find_start, require_start
from hnm.encoder.trained_file import write_start
from hnm.encoder.weights import load_encoder
from hnm.engine.ranks import World, barrier, main_says
from hnm.evidence.beside_baselines import tell_baselines
from hnm.evidence.evaluate import evaluate as evaluate_run
from hnm.evidence.evaluate import read_metrics
from hnm.evidence.evaluate_targets import evaluate_targets
from hnm.evidence.gain import gain_of_finetuning
from hnm.rounds import check_batches
from hnm.rounds import train as train_rounds
from hnm.run.checksums import read_state
from hnm.run.phase import phase
from hnm.run.seen import MAX_NAMED, read_seen, seen_of, shown_to_encoder
from hnm.run.session import Session
from hnm.run.site_leaks import site_warnings
from hnm.run.study import open_study
from hnm.run_rounds import START_ENCODER, rounds_of
from launch.process.distributed import is_rank, is_started_again, rank_of_process
from launch.process.kinds import refuse_other
from launch.process.local import run_ranks
from launch.process.run_directory import PRETRAIN_SETTINGS, check_cohort, open_run, read_run, remove_run
from launch.process.session import Opening, leave_ranks, session_of
from launch.verbs.report import has_results, numbers_of, parts_of, write_results
from launch.verbs.tables import print_metrics
from shards.cohort.cohort import Cohort
from shards.errors import InputError
from shards.files import write_json


def pretrain(
    cohort_folder: Path,
    out: Path,
    config_name: str | None,
    overrides: list[str],
    ranks: int,
    encoder: Path | str | None = None,
) -> int:
    """Write out/encoder.safetensors, going on from `encoder` if one is given."""
    config = load_config(config_name, None, overrides)
    start_from = find_start(str(encoder), config.encoder) if encoder is not None else None
    if start_from is not None:
        config = config.model_copy(update={"encoder": start_from.config})
    elif not (out / START_ENCODER).is_file():
        require_start(config.encoder)
    if (code := in_ranks(ranks, config)) is not None:
        return code
    cohort = Cohort.open(cohort_folder)
    cohort.require_pictures("Pretraining")
    study = open_study(cohort, config.data, config.seed)

    def prepare(world: World) -> None:
        check_batch(config.pretrain, study, world)
        if start_from is not None:
            _check_start(start, start_from, config)
        open_run(out, cohort, config, PRETRAIN_SETTINGS)

    made, start = out / "encoder.safetensors", out / START_ENCODER
    opening = Opening("pretrain", config, cohort, out, prepare, made.name, PRETRAIN_SETTINGS)
    with session_of(opening) as session:
        if main_says(made.is_file, session.world):
            session.journal.say(f"{made} is there already; remove it to pretrain again")
            return 0
        if start_from is not None and not main_says(start.is_file, session.world):
            if session.world.is_main:
                write_start(start, start_from, config.pretrain, config.seed)
            barrier(session.world)
        with phase("pretrain", 0, out, session) as record:
            goes_on = start if main_says(start.is_file, session.world) else None
            pretrain_encoder(config.encoder, config.pretrain, made, session, record.keep, goes_on)
        session.journal.say(f"wrote {made}. Next: hnm train {cohort_folder} run/ --encoder {made}")
    return 0


def train(
    cohort_folder: Path,
    run: Path,
    encoder: Path | str | None,
    config_name: str | None,
    preset: str | None,
    overrides: list[str],
    ranks: int,
    restart: bool = False,
    yes: bool = False,
) -> int:
    """Run the rounds in the folder `run`, pretraining first when no encoder is given."""
    config = load_config(config_name, preset, overrides)
    start_from = find_start(str(encoder), config.encoder) if encoder is not None else None
    if start_from is not None:
        config = config.model_copy(update={"encoder": start_from.config})
    elif not (run / START_ENCODER).is_file():
        require_start(config.encoder)
    if restart and not yes:
        remove_run(run, is_sure=False)
    if (code := in_ranks(ranks, config)) is not None:
        return code
    cohort = Cohort.open(cohort_folder)
    if encoder is not None:
        cohort.require_pictures("--encoder")
    study = open_study(cohort, config.data, config.seed)

    def prepare(world: World) -> None:
        check_batches(config, study, world)
        if restart and not is_started_again():
            remove_run(run, yes)
        if start_from is not None:
            _check_start(run / START_ENCODER, start_from, config)
        elif cohort.has_pictures and not (run / START_ENCODER).is_file():
            check_batch(config.pretrain, study, world)
        open_run(run, cohort, config)

    with session_of(Opening("train", config, cohort, run, prepare)) as session:
        for line in study.targets.told if study.targets is not None else ():
            session.journal.say(line)
        for warning in site_warnings(study):
            session.journal.say(f"warning: {warning}")
        start = run / START_ENCODER
        if start_from is not None and start_from.path is not None and session.world.is_main:
            _tell_shown(start_from.path.parent, cohort, config, session)
        if cohort.has_pictures:
            make_start(start, start_from, config, session)
        train_rounds(config, start, run, session)
        if session.world.is_main:
            for _, folder, part in parts_of(config, run, session):
                if told := tell_baselines(config, folder):
                    part.journal.say(told)
                _tell_gain(config, folder, part)
        session.journal.say(f"done. Next: hnm evaluate {run}")
    return 0


def make_start(start: Path, start_from: Start | None, config: Config, session: Session) -> None:
    """Write the start encoder of a run, unless it is there: a copy of what was given, or pretrained. Every rank must call it."""
    if main_says(start.is_file, session.world):
        return
    if start_from is None:
        with phase("pretrain", 0, start.parent, session) as record:
            pretrain_encoder(config.encoder, config.pretrain, start, session, record.keep)
    elif session.world.is_main:
        write_start(start, start_from, config.finetune, config.seed)
    barrier(session.world)


def evaluate(run: Path, cohort_folder: Path | None, ranks: int, with_report: bool = True) -> int:
    """Read the test split of a finished run and print the metrics; a second time, print what was read then.

    A report or a model that a killed process has left out is made then.
    """
    refuse_other(run)
    config, recorded_folder = read_run(run)
    been_read = f"{run / 'metrics.json'} is there: the test split has been read. These are its figures"
    if (run / "metrics.json").is_file() and (has_results(run) or not with_report):
        if rank_of_process() == 0:
            print(f"{been_read}.")
            print_metrics(read_metrics(run))
        return 0
    if (code := in_ranks(ranks, config)) is not None:
        return code
    cohort = Cohort.open(cohort_folder or recorded_folder)
    check_cohort(run, cohort, config.data)
    with session_of(Opening("evaluate", config, cohort, run, lambda world: None)) as session:
        metrics: dict[str, Any] | None
        wrote = f"wrote {run / 'metrics.json'}, {run / 'predictions.parquet'}, {run / 'patch_scores.npy'}"
        if is_read := main_says((run / "metrics.json").is_file, session.world):
            metrics = read_metrics(run) if session.world.is_main else None
        else:
            several = session.study.targets is not None
            metrics = (evaluate_targets if several else evaluate_run)(config, run, session)
        alone = leave_ranks(run, session)  # drawing may take longer than a collective waits
        if metrics is not None:
            print_metrics(metrics)
            session.journal.say(been_read if is_read else wrote)
            session.journal.metrics("test", metrics["chosen_round"], **numbers_of(metrics))
            for name, its in metrics.get("targets", {}).items():
                session.journal.of_target(name).metrics("test", metrics["chosen_round"], **numbers_of(its))
            if with_report:
                write_results(config, run, alone)
    return 0


def _tell_gain(config: Config, run: Path, session: Session) -> None:
    """Say and keep in state.json what fine-tuning gained on the validation slides. Call it on rank 0 only."""
    gain = gain_of_finetuning(run, len(rounds_of(config, run)), config.rounds.choose, session.study, session.seed)
    if gain is not None:
        write_json(run / "state.json", {**read_state(run), "gain": gain})
        session.journal.say(gain["says"])


def _tell_shown(pretrained: Path, cohort: Cohort, config: Config, session: Session) -> None:
    """Say which test slides have pretrained the encoder, if the folder that it comes from is one of hnm pretrain."""
    then = read_seen(pretrained)
    shown = shown_to_encoder(then, seen_of(cohort, config.data)) if then is not None else []
    if shown:
        some = ", ".join(shown[:MAX_NAMED]) + (" ..." if len(shown) > MAX_NAMED else "")
        session.journal.say(
            f"warning: {len(shown):,} of today's test slides ({some}), or others of their patients, were training slides when "
            f"{pretrained} was pretrained: the encoder knows their pixels, without labels. For a clean test pretrain anew, or "
            "take the splits of then"
        )


def _check_start(start: Path, start_from: Start, config: Config) -> None:
    """Refuse an encoder that does not fit the configuration, or is not the one that the run has started from."""
    given = start_from.load(config.seed).encoder.state_dict()
    if start.is_file():
        started = load_encoder(start, config.encoder).state_dict()
        if not all(tensor.equal(started[name]) for name, tensor in given.items()):
            raise InputError(
                f"--encoder {start_from.path or config.encoder.name}: the run in {start.parent} was started from another "
                "encoder. Use another run directory, or the encoder that it was started with"
            )


def in_ranks(ranks: int, config: Config) -> int | None:
    """Start this very command in several ranks and return its exit code, or None: this process is to do the work."""
    if is_rank():  # torchrun, srun or ourselves started this process
        return None
    wanted = ranks or num_gpus(config)
    if wanted == 1:
        return None
    return run_ranks(wanted, sys.argv[1:])


def num_gpus(config: Config) -> int:
    """Return one rank per GPU, or one rank on a CPU."""
    import torch

    return 1 if config.device == "cpu" else max(1, torch.cuda.device_count())
