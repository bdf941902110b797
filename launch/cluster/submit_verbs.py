"""Which jobs a submitted verb becomes: one, an array with its merge, or the whole pipeline.

tile ──array, a share of the slides each──▶ merge ──▶ pretrain ──▶ train ──▶ evaluate
crossval ──array, a fold each──▶ summary
study ──first features──▶ array, a method and a fold each──▶ summary
embed ──one job, or an array, a share of the slides each
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hnm import slurm_config
from hnm.config import RECORDED, Config, ConfigError, difference, load_config, read_config
from launch.cluster.job_spec import JobSpec, parallel_job
from launch.cluster.submissions import PIPELINE_FOLDERS, submission_folder
from launch.cluster.submit import CONFIG_FILE, submit
from launch.cluster.submit_crossval import crossval_specs, request_of
from launch.cluster.submit_study import check_study, study_specs

Params = dict[str, Any]  # what the command line gave, by the name of the local command's parameter


@dataclass(frozen=True)
class Verb:
    """A local command that can be submitted.

    Attributes:
        folder: name of the parameter that says which folder it writes.
        check: refuses what the job itself would refuse as soon as it runs.
    """

    folder: str
    check: Callable[[Params, Config], None]


def submit_verb(
    name: str,
    command: Callable[[Path], list[str]],
    params: Params,
    flags: list[str],
    cluster: str,
    app: str,
    dry_run: bool,
    config_name: str | None = None,
) -> int:
    """Submit a verb or the pipeline, and say what comes next.

    Args:
        name: of the verb, or "pipeline".
        command: makes the local command's words from the file of the resolved configuration.
        params: what the command line gave.
        flags: the cluster's options as overrides.
        cluster: slurm, local or debug.
        app: the command line that the jobs run, "module:name".
        dry_run: only print the jobs.
        config_name: of evaluate and predict: the user's file that says how their jobs run.
    """
    folder = Path(params["folder" if name == "pipeline" else VERBS[name].folder]).absolute()
    config = _config(name, params, folder, flags, config_name)
    if name == "pipeline":
        specs = pipeline_specs(params["slides_csv"].absolute(), folder, config, cluster)
    else:
        VERBS[name].check(params, config)
        specs = _specs(name, command(submission_folder(folder) / CONFIG_FILE), params, folder, config, cluster)
    if not specs:
        print(f"{folder}: everything is done, nothing was submitted")
        return 0
    code = submit(specs, config, cluster, app, dry_run, print, lambda: _remove_if_asked(params))
    if not (code or dry_run) and cluster != "debug":
        print(f"Next: hnm status {folder}; hnm logs {folder} --follow; hnm cancel {folder}")
    return code


def _remove_if_asked(params: Params) -> None:
    """Do what --restart asks for, when nothing can be refused any more."""
    if params.get("restart"):
        from launch.process.run_directory import remove_run

        remove_run(params["run"], params["yes"])


def _config(name: str, params: Params, folder: Path, flags: list[str], config_name: str | None) -> Config:
    """Return the local command's configuration with the cluster's options over it."""
    if "config" not in params:  # what evaluate and predict compute stands in the folder; how their jobs run is the user's alone
        config = load_config(config_name, None, flags)
        _say_not_taken((params["model"] if name == "predict" else folder) / RECORDED, config)
        return config
    overrides = params["overrides"] or []
    if name == "tile":
        from launch.verbs.tile import TileRequest, overrides_of

        overrides = overrides_of(TileRequest(**(params | {"overrides": overrides})))
    return load_config(params["config"], params.get("preset"), [*overrides, *flags])


def _say_not_taken(recorded: Path, config: Config) -> None:
    """Say which settings of a folder, which a stranger may have made, do not become the job's: setup lines are shell commands."""
    if not recorded.is_file():
        return
    asked = read_config(recorded).slurm
    lines = difference(config, config.model_copy(update={"slurm": asked})) if asked != type(asked)() else []
    if lines:
        told = "; ".join(ascii(line)[1:-1] for line in lines)
        print(f"{recorded} says how jobs run; not taken: {told}. If they are yours and you want them: --config {recorded}")


def _specs(name: str, command: list[str], params: Params, folder: Path, config: Config, cluster: str) -> list[JobSpec]:
    """Return the jobs of one verb."""
    if name in ("predict", "validate"):  # one process; a run's own settings may ask for more
        resources = _single_node(config, name)
        workers = [] if "--workers" in command else ["--workers", str(resources.cpus or 1)]
        return [JobSpec(name, folder, [[*command, *workers]], resources)]
    if name == "crossval":
        return crossval_specs(command, params, config, cluster)
    if name == "study":
        return study_specs(params, config, cluster)
    if name == "embed":
        return embed_specs(params, folder, command, config, cluster)
    if name == "doctor":
        command = [*command, "--cluster"]
    if name != "tile":
        return [parallel_job(name, folder, command, config.slurm, params.get("ranks") or 0)]
    is_step = params["shard_of"] or params["merge"] or params["preview"]
    array_size = 1 if is_step or cluster != "slurm" else config.slurm.array_size
    return tile_specs(params["slides_csv"], folder, command, config, array_size)


def tile_specs(slides_csv: Path, cohort: Path, command: list[str], config: Config, array_size: int) -> list[JobSpec]:
    """Return the array that cuts the slides that are not cut yet, and the merge after it; none if all is done.

    Args:
        slides_csv: the table of slides.
        cohort: the folder to write.
        command: of `hnm tile`, without a share.
        config: the resolved configuration.
        array_size: most elements; 1: one job that also merges.
    """
    from shards.tiling.tile import plan_cohort, share_of
    from shards.tiling.unit import is_fresh

    jobs = plan_cohort(slides_csv, config.tile, config.data.positive).jobs
    missing = {job.slide.slide_id for job in jobs if not is_fresh(job, cohort)}
    if not missing and (cohort / "cohort.json").is_file():
        return []
    cutting, merging = (_single_node(config, stage) for stage in ("tile", "merge"))
    command = command if "--workers" in command else [*command, "--workers", str(cutting.cpus or 1)]
    if array_size == 1:
        return [JobSpec("tile", cohort, [command], cutting)]
    count = min(array_size, len(jobs))
    shares = {i: [job.slide.slide_id for job in share_of(jobs, i, count)] for i in range(1, count + 1)}
    left = {i: slides for i, ids in shares.items() if (slides := [slide for slide in ids if slide in missing])}
    commands = [[*command, "--shard-of", f"{i}/{count}"] for i in left]
    array = JobSpec("tile", cohort, commands, cutting, elements=list(left.values()))
    # after any end of the array: a slide that failed does not stop the others, and the merge judges by tile.max_failed
    merge = JobSpec("merge", cohort, [[*command, "--merge"]], merging)
    return [array, replace(merge, after="tile", after_failure_too=True)] if left else [merge]


def embed_specs(params: Params, out: Path, command: list[str], config: Config, cluster: str) -> list[JobSpec]:
    """Return the job that embeds the slides, or an array that shares them where slurm.array_size is given; none if all is done.

    Of an array, elements whose slides all have their features are left out.
    """
    from launch.verbs.embed import chosen_slides, missing_slides
    from shards.cohort.cohort import Cohort

    job, cohort = parallel_job("embed", out, command, config.slurm, params.get("ranks") or 0), Cohort.open(params["cohort"])
    slides = chosen_slides(cohort, params["shard_of"])
    is_array = cluster == "slurm" and params["shard_of"] is None and "array_size" in config.slurm.model_fields_set
    count = min(config.slurm.array_size, len(slides)) if is_array else 1
    shares = {f"{i}/{count}": chosen_slides(cohort, f"{i}/{count}") for i in range(1, count + 1)} if count > 1 else {}
    if not len(missing_slides(slides, cohort, out)):
        return []
    left = [[*command, "--shard-of", share] for share, its in shares.items() if len(missing_slides(its, cohort, out))]
    return [replace(job, commands=left or job.commands)]


def _single_node(config: Config, stage: str) -> slurm_config.JobConfig:
    """Return what a job of one process asks for: one node, and no GPUs unless the stage itself asks for them."""
    own = config.slurm.of_stage(stage)
    if (own.nodes or 1) > 1:
        raise ConfigError(f"hnm {stage} is one process on one node. Leave out --nodes and slurm.stages.{stage}.nodes")
    resources = slurm_config.resources_of(config.slurm, stage)
    return resources.model_copy(update={"nodes": 1, "gpus_per_node": own.gpus_per_node})


def pipeline_specs(slides_csv: Path, folder: Path, config: Config, cluster: str) -> list[JobSpec]:
    """Return the jobs from slides to metrics that are not done yet, each after the one before.

    Args:
        slides_csv: the table of slides.
        folder: gets cohort/, pretrained/ and run/.
        config: the resolved configuration.
        cluster: only `slurm` has arrays.
    """
    from hnm.run_rounds import last_round

    cohort, pretrained, run = (folder / name for name in PIPELINE_FOLDERS)
    encoder = pretrained / "encoder.safetensors"
    command = ["tile", str(slides_csv), str(cohort), *_config_option(cohort)]
    specs = tile_specs(slides_csv, cohort, command, config, config.slurm.array_size if cluster == "slurm" else 1)
    stages = (
        ("pretrain", pretrained, encoder.is_file(), [str(cohort), str(pretrained), *_config_option(pretrained)]),
        ("train", run, last_round(config, run) is not None,
         [str(cohort), str(run), "--encoder", str(encoder), *_config_option(run)]),
        ("evaluate", run, (run / "metrics.json").is_file(), [str(run)]),
    )  # fmt: skip
    for stage, writes, is_done, arguments in stages:
        if specs or not is_done:
            after = specs[-1].stage if specs else None
            specs.append(parallel_job(stage, writes, [stage, *arguments], config.slurm, after=after))
    return specs


def _config_option(folder: Path) -> list[str]:
    return ["--config", str(submission_folder(folder) / CONFIG_FILE)]


def _check_pretrain(params: Params, config: Config) -> None:
    from hnm.run.study import open_study
    from shards.cohort.cohort import Cohort

    open_study(Cohort.open(params["cohort"]), config.data, config.seed)


def _check_train(params: Params, config: Config) -> None:
    from hnm.encoder.start import find_start
    from launch.process.run_directory import open_run, remove_run
    from shards.cohort.cohort import Cohort

    if params["encoder"] is not None:
        find_start(str(params["encoder"]), config.encoder)  # is it here? Not after hours in the queue
    if params["restart"] and not params["yes"]:
        remove_run(params["run"], is_sure=False)
    _check_pretrain(params, config)
    if (params["run"] / "state.json").is_file() and not params["restart"]:
        open_run(params["run"], Cohort.open(params["cohort"]), config)  # refuses other settings; writes nothing


def _check_crossval(params: Params, config: Config) -> None:
    from launch.verbs.crossval_folder import check

    check(request_of(params), config)


def _check_evaluate(params: Params, config: Config) -> None:
    from launch.process.kinds import refuse_other
    from launch.process.run_directory import read_run

    refuse_other(params["run"])
    read_run(params["run"])


def _check_embed(params: Params, config: Config) -> None:
    from launch.verbs.embed import open_encoder
    from shards.cohort.cohort import Cohort

    Cohort.open(params["cohort"]).require_pictures("Embedding")
    open_encoder(str(params["encoder"]), config)


def _check_validate(params: Params, config: Config) -> None:
    from launch.verbs.predict import check_model
    from launch.verbs.validate import refuse_other_folder

    check_model(params["model"])
    refuse_other_folder(params["out"])
    if not params["source"].exists():
        raise ConfigError(f"{params['source']}: there is no such cohort or table")


def _check_predict(params: Params, config: Config) -> None:
    from hnm.model.several import read_several
    from launch.verbs.predict import check_model, positive_words, read_inputs

    if read_several(params["model"]) is None:
        check_model(params["model"])
    read_inputs(params["slides"], positive_words(params["model"]))


VERBS = {
    "tile": Verb("cohort", lambda params, config: None),
    "pretrain": Verb("out", _check_pretrain),
    "train": Verb("run", _check_train),
    "evaluate": Verb("run", _check_evaluate),
    "predict": Verb("out", _check_predict),
    "validate": Verb("out", _check_validate),
    "crossval": Verb("out", _check_crossval),
    "study": Verb("out", check_study),
    "embed": Verb("out", _check_embed),
    "doctor": Verb("folder", lambda params, config: None),
}
