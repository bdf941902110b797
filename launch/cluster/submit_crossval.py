"""`hnm submit crossval`: which jobs a cross-validation becomes.

    crossval ──array, an element for each fold that is not done: one process on one node, which starts its ranks──▶ summary
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hnm.config import Config, ConfigError
from hnm.slurm_config import resources_of
from launch.cluster.job_spec import JobSpec

if TYPE_CHECKING:
    from launch.verbs.crossval_folder import Request


def request_of(params: dict[str, Any]) -> "Request":
    """Return what `hnm crossval` makes of its command line; its configuration is resolved already.

    Args:
        params: what the command line gave, by the name of the local command's parameter.
    """
    from launch.verbs.crossval_folder import Request

    return Request(
        params["cohort"], params["out"].absolute(), params["folds"], params["repeats"], params["share"], None, None, [],
        params["encoder"], params["encoders_of"], params["ranks"], params["reports"],
    )  # fmt: skip


def crossval_specs(command: list[str], params: dict[str, Any], config: Config, cluster: str) -> list[JobSpec]:
    """Return the array of the folds that are not done, and the summary after it; none if all is done.

    The summary is the same command without --fold: where all folds are done, joining them is all that it does. It starts only
    if all elements have ended well.

    Args:
        command: of `hnm crossval`, with the file of the resolved configuration.
        params: what the command line gave.
        config: the resolved configuration.
        cluster: only `slurm` has arrays; with another, and with --fold, it is one job, fold after fold.
    """
    from launch.verbs.crossval_folder import all_folds, is_done

    request = request_of(params)
    resources = resources_of(config.slurm, "crossval")
    if (config.slurm.of_stage("crossval").nodes or 1) > 1:
        raise ConfigError("hnm crossval takes one node a fold. Leave out --nodes and slurm.stages.crossval.nodes")
    ranks = request.ranks or resources.ranks_per_node or resources.gpus_per_node or 1
    resources = resources.model_copy(update={"nodes": 1})
    one_job = JobSpec(
        "crossval", request.out, [[*command, "--ranks", str(ranks)]], resources, ranks, starts_ranks=True
    )
    keys = list(all_folds(request))
    left = {i: key for i, key in enumerate(keys, 1) if not is_done(request, key)}
    if not left and (request.out / "metrics.json").is_file():
        return []
    if request.share is not None or cluster != "slurm":
        return [one_job]
    asked = resources_of(config.slurm, "crossval", "summary")
    own = config.slurm.of_stage("summary")
    cores = {"nodes": 1, "gpus_per_node": own.gpus_per_node, "cpus": own.cpus}
    summary = JobSpec("summary", request.out, [[*command, "--ranks", "1"]], asked.model_copy(update=cores))
    if not left:
        return [summary]
    commands = [[*one_job.commands[0], "--fold", f"{i}/{len(keys)}"] for i in left]
    elements = [[f"repeat {repeat}, fold {fold}"] for repeat, fold in left.values()]
    return [replace(one_job, commands=commands, elements=elements), replace(summary, after="crossval")]
