"""`hnm submit study`: which jobs a study becomes.

    first ──one job, or an array of folds that pretrain──▶ study ──array, method x fold──▶ summary

Each element is one process on one node, which starts its ranks, as those of crossval are.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnm.config import Config, ConfigError
from hnm.private import hidden_words
from hnm.slurm_config import resources_of
from launch.cluster.job_spec import JobSpec

if TYPE_CHECKING:
    from launch.verbs.study_folder import Methods, StudyRequest


def request_of(params: dict[str, Any]) -> "StudyRequest":
    """Return what `hnm study` makes of its command line, with paths that hold in any folder.

    The jobs get the user's own config and settings, not the resolved ones: each method's preset lies between the two.

    Args:
        params: what the command line gave, by the name of the local command's parameter.
    """
    from launch.verbs.study_folder import StudyRequest

    encoder, config = params["encoder"], params["config"]
    methods = ",".join(str(Path(name).absolute()) if Path(name).is_file() else name for name in params["methods"].split(","))
    return StudyRequest(
        params["source"].absolute(), params["out"].absolute(), methods,
        encoder.absolute() if isinstance(encoder, Path) else encoder, params["folds"], params["seeds"], params["budget"],
        params["null"], params["part"], str(Path(config).absolute()) if config and Path(config).is_file() else config,
        params["overrides"] or [], params["ranks"],
    )  # fmt: skip


def check_study(params: dict[str, Any], config: Config) -> None:
    """Refuse what the jobs would refuse as soon as they run; the cohort is looked at where it is cut already.

    Raises:
        InputError: saying what to change.
    """
    from launch.verbs.study_folder import check_methods, check_request

    request = request_of(params)
    methods = check_request(request)
    if hidden_words(request.overrides)[0] != list(request.overrides):
        raise ConfigError("hnm submit study: a setting on the command line holds a secret, which others could read in the job. "
                          "Write it into your own settings: hnm config --help")  # fmt: skip
    if (request.cohort / "cohort.json").is_file():
        check_methods(request, methods, request.cohort)


def study_specs(params: dict[str, Any], config: Config, cluster: str) -> list[JobSpec]:
    """Return the job or array of the first features, the array of the cells that are not done, and the summary.

    Args:
        params: what the command line gave.
        config: the resolved configuration, for what the jobs ask for.
        cluster: only `slurm` has arrays; with another, and with --part, it is one job.
    """
    from launch.verbs.study_folder import check_request
    from launch.verbs.study_page import is_joined

    request = request_of(params)
    methods = check_request(request)
    resources = resources_of(config.slurm, "study")
    if (config.slurm.of_stage("study").nodes or 1) > 1:
        raise ConfigError("hnm study takes one node a fold. Leave out --nodes and slurm.stages.study.nodes")
    ranks = request.ranks or resources.ranks_per_node or resources.gpus_per_node or 1
    resources = resources.model_copy(update={"nodes": 1})
    one = JobSpec("study", request.out, [_words(request, ranks)], resources, ranks, starts_ranks=True)
    if is_joined(request.out, methods):
        return []
    if request.part is not None or cluster != "slurm":
        return [one]
    first, cells = _first_spec(request, one, ranks), _cell_spec(request, methods, one, ranks)
    summary = _summary_spec(request, config)
    specs = [spec for spec in (first, cells, summary) if spec is not None]
    return [specs[0], *(replace(spec, after=before.stage) for before, spec in itertools.pairwise(specs))]


def _words(request: "StudyRequest", ranks: int, part: str | None = None) -> list[str]:
    from launch.verbs.study import words_of

    return words_of(replace(request, ranks=ranks, part=part or request.part))


def _first_spec(request: "StudyRequest", one: JobSpec, ranks: int) -> JobSpec | None:
    """Return the job that cuts and embeds, an array where each fold pretrains; None if all is there."""
    from launch.verbs.study import first_keys
    from launch.verbs.study_first import is_first_done
    from shards.cohort.cohort import Cohort

    is_cut = (request.cohort / "cohort.json").is_file()
    if is_cut and not Cohort.open(request.cohort).has_pictures:
        return None
    keys = first_keys(request, request.keys)
    left = {i: key for i, key in enumerate(keys, 1) if not is_first_done(request, key)}
    if is_cut and not left:
        return None
    if len(keys) == 1 or not is_cut:  # the table's slides are cut by one process, before the rest
        return replace(one, stage="first", commands=[_words(request, ranks, "first")])
    commands = [_words(request, ranks, f"first:{i}/{len(keys)}") for i in left]
    return replace(one, stage="first", commands=commands, elements=[[f"repeat {r}, fold {f}"] for r, f in left.values()])


def _cell_spec(request: "StudyRequest", methods: "Methods", one: JobSpec, ranks: int) -> JobSpec | None:
    """Return the array of the cells that are not done; None if all are."""
    from launch.verbs.study_folder import BASELINE, EVERY_BASELINE, done_cells

    done, keys = done_cells(request, methods), request.keys
    done[EVERY_BASELINE] = set.intersection(*(done[BASELINE + name] for name in methods.baselines))
    cells = [(unit, key) for unit in methods.units for key in keys]
    left = {i: cell for i, cell in enumerate(cells, 1) if cell[1] not in done[cell[0]]}
    if not left:
        return None
    commands = [_words(request, ranks, f"{i}/{len(cells)}") for i in left]
    elements = [[f"{unit}, repeat {key[0]}, fold {key[1]}"] for unit, key in left.values()]
    return replace(one, commands=commands, elements=elements)


def _summary_spec(request: "StudyRequest", config: Config) -> JobSpec:
    """Return the job that joins the folds: the same command, to which nothing else is left."""
    asked = resources_of(config.slurm, "study", "summary")
    own = config.slurm.of_stage("summary")
    cores = {"nodes": 1, "gpus_per_node": own.gpus_per_node, "cpus": own.cpus}
    return JobSpec("summary", request.out, [_words(request, 1)], asked.model_copy(update=cores))
