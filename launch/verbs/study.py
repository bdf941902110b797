"""`hnm study`: several methods on the same folds, from the same first encoder, with equal budgets; one page in the end.

    cohort, or slides.csv ──▶ folds ──▶ first encoder and features of each ──▶ baselines, a cross-validation of each method
        ──▶ study.html, study.json, study.csv

Each cell (a method, a fold) is claimed, done once, and gone on with where it was stopped: see `hnm crossval`, of which each
method is one. Array jobs do a part each: first[:I/N] the first features, I/N every N-th cell.
"""

import sys
from dataclasses import replace
from pathlib import Path

from hnm.config import load_config
from launch.process.distributed import is_rank
from launch.process.local import ASKED_TO_STOP, run_ranks, stop_if_asked
from launch.process.preemption import Preempted, StopSignals
from launch.verbs import crossval, study_first
from launch.verbs.crossval_folder import Fold, alone
from launch.verbs.study_baselines import fit_fold
from launch.verbs.study_folder import (
    EVERY_BASELINE,
    Methods,
    StudyRequest,
    check_methods,
    check_request,
    is_shared,
    open_study_folder,
    parse_part,
    request_of,
    share_of_unit,
)
from launch.verbs.study_page import finish
from launch.verbs.train import num_gpus
from shards.cohort.cohort import Cohort
from shards.errors import InputError


def run(request: StudyRequest) -> int:
    """Do a study, or one part of it; the exit code is 1 when a fold failed, 0 also when some are left to other processes.

    Raises:
        Preempted: it was asked to stop, and the fold that it was at has saved.
    """
    request = replace(request, out=request.out.absolute())
    stage, part = parse_part(request.part)
    if is_rank() and stage != "first":
        raise InputError("hnm study starts its ranks itself, fold by fold: leave torchrun out and give --ranks N")
    methods = check_request(request)
    if not is_rank() and (code := study_first.make_cohort(request)):
        return code
    cohort = open_cohort(request, methods)
    keys = request.keys if part is None else request.keys[part[0] - 1 :: part[1]]
    if stage in ("all", "first"):
        make_firsts(request, cohort, first_keys(request, keys))
    if stage == "first":
        return 0
    failed = do_cells(request, methods, cohort, part)
    with alone(request.out):
        finish(request.out)
    for problem in failed:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if failed else 0


def open_cohort(request: StudyRequest, methods: Methods) -> Path:
    """Return the cohort whose labels are learned, once all that could be refused is checked and the folder is open."""
    cohort = request.cohort
    if request.null:
        true, cohort = Cohort.open(cohort), request.out / "null"
        if not is_rank():
            config = load_config(request.config, None, list(request.overrides))
            study_first.write_null(true, cohort, config.data.one_column("hnm study"), config.seed)
    if not is_rank():  # else the process that has started the ranks has done so
        check_methods(request, methods, cohort)
        with alone(request.out):
            open_study_folder(request, methods, cohort)
    return cohort


def first_keys(request: StudyRequest, keys: list[Fold]) -> list[Fold]:
    """Return the folds whose first features are to be made: one of all where they share them."""
    return keys[:1] if is_shared(request) else keys


def make_firsts(request: StudyRequest, cohort: Path, keys: list[Fold]) -> None:
    """Make the first features of folds, in ranks of their own unless this process is one, or is all there is to be.

    Raises:
        InputError: it failed.
        Preempted: asked to stop.
    """
    if not Cohort.open(cohort).has_pictures:
        return
    if not is_rank():  # ranks all do the same: each looks what is there when its session is open
        keys = [key for key in keys if not study_first.is_first_done(request, key)]
    ranks = request.ranks or num_gpus(load_config(request.config, None, list(request.overrides)))
    if is_rank() or ranks == 1 or not keys:
        for key in keys:
            study_first.make_first(request, cohort, key)
        return
    code = run_ranks(ranks, words_of(replace(request, part=request.part or "first", ranks=ranks)))
    if code in ASKED_TO_STOP:
        raise Preempted("the first features: asked to stop")
    if code:
        raise InputError(f"hnm study --part first ended with exit code {code}; what it said stands above")


def words_of(request: StudyRequest) -> list[str]:
    """Return the command line of a study."""
    named = [
        ("--methods", request.methods), ("--folds", request.num_folds), ("--seeds", request.seeds), ("--ranks", request.ranks),
        ("--encoder", request.encoder), ("--budget", request.budget), ("--config", request.config),
        ("--part", request.part),
    ]  # fmt: skip
    options = [str(word) for pair in named if pair[1] is not None for word in pair]
    null = ["--null"] if request.null else []
    return ["study", str(request.source), str(request.out), *options, *null, *request.overrides]


def do_cells(request: StudyRequest, methods: Methods, cohort: Path, part: tuple[int, int] | None) -> list[str]:
    """Do the cells of this process that are missing; return what went wrong.

    Raises:
        Preempted: asked to stop; nothing else is begun.
    """
    problems, keys = [], request.keys
    if part is not None:
        number, _, count = share_of_unit(part, methods.units.index(EVERY_BASELINE), len(keys)).partition("/")
        keys = keys[int(number) - 1 :: int(count)]
    with StopSignals(is_quiet=True) as signals:
        for key in keys:
            stop_if_asked(signals)
            if problem := fit_fold(request, methods.baselines, key, cohort, signals):
                problems.append(f"baselines, repeat {key[0]}, fold {key[1]}: {problem}")
    for name in methods.presets:
        of_method = request_of(request, methods, name, cohort, part)
        if not crossval.share_of_folds(of_method):
            continue
        print(f"{name}:", flush=True)
        if crossval.run(of_method):
            problems.append(f"{name}: folds failed; what they said stands above")
    return problems
