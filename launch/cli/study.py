"""`hnm study`: what it accepts; what it does is in launch/verbs/study.py."""

from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.options import ConfigOption, Overrides, RanksOption, file_or_name, finish

DEFAULT_METHODS = "baselines,hnm,slide"


def study(
    source: Annotated[
        Path, typer.Argument(metavar="COHORT|SLIDES.CSV", help="Folder that `hnm tile` wrote, or a table of slides to cut first.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, or to resume.")],
    overrides: Overrides = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME", help="Presets (hnm, slide, frozen, ...), YAML files, baselines; `baselines` are all of these."
        ),
    ] = DEFAULT_METHODS,
    encoder: Annotated[
        Any,
        typer.Option(
            parser=file_or_name,
            metavar="FILE|NAME",
            help="First encoder of every method, which must not have seen the cohort. Without it each fold pretrains one.",
        ),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", "-k", help="Folds, stratified, by patient (see data.split_by); from 3.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Draw folds and everything else so many times anew.")] = 1,
    budget: Annotated[
        str | None,
        typer.Option(metavar="UNIT=N", help="Most that training a method may cost: seconds=600, steps=2000 or epochs=8."),
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="Null control: permute the labels; 0.5 is expected.")] = False,
    part: Annotated[
        str | None,
        typer.Option(metavar="PART", help="Array jobs: first[:I/N], the first features; I/N, every N-th fold of a method."),
    ] = None,
    config: ConfigOption = None,
    ranks: RanksOption = 0,
) -> None:
    """Compare methods with trivial baselines on the same folds, from one first encoder, with equal budgets; study.html.

    The first thing to do with a cohort: `hnm study cohort/ out/ --methods baselines --encoder E` takes minutes. The same command
    goes on where it stopped; more --methods may be asked for later. Example:
    `hnm study cohort/ out/ --methods frozen,hnm,slide --encoder timm/tf_efficientnet_lite0 --seeds 2 --budget seconds=600`
    """
    from launch.verbs.study import run
    from launch.verbs.study_folder import StudyRequest

    request = StudyRequest(
        source, out, methods, encoder, folds, seeds, budget, null, part, config, overrides or [], ranks
    )
    finish(lambda: run(request))
