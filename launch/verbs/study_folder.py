"""The folder of a study: what was asked for, which cross-validation each method is, and where everything lies.

    OUT/plan.json  config.yaml       what was asked for; the settings that all methods share
        tiled/                       the cohort, where slides.csv was given
        null/                        the cohort with permuted labels, where --null was
        first/                       a crossval folder: the folds, each with the first encoder and its features
            shared/                  ... or these once for all folds, where the encoder was given
        methods/NAME/                a crossval folder of each method; baselines in methods/baseline/NAME
        study.html  study.json  study.csv  figures/
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hnm.baselines.baselines import BASELINES, LINEAR
from hnm.config import ConfigError, list_names, load_config, record_config
from hnm.installed import config_folder
from hnm.rounds_config import parse_budget
from launch.process.run_directory import SUBFOLDER
from launch.verbs import crossval_folder
from launch.verbs.crossval_folder import Fold, Request, run_folder
from shards.cohort.cohort import FEATURES, Cohort
from shards.errors import InputError
from shards.files import write_json

PLAN_FILE = "plan.json"
EVERY_BASELINE = "baselines"
BASELINE = "baseline/"  # before the names of baselines: simlp and dsmil are presets, too
DECISIVE = ("fingerprint", "folds", "seeds", "encoder", "budget", "null")  # all but the methods, of which more may be asked for


@dataclass(frozen=True)
class StudyRequest:
    """The command line of `hnm study`. See launch/cli/study.py for each.

    Attributes:
        source: a cohort, or the table of slides to be cut.
        encoder: a file or a name; None: each fold pretrains one, which all methods start from.
        seeds: how often the folds are drawn, each time with another seed.
        budget: `rounds.budget` of every method.
        null: permute the labels.
        part: "first", "first:I/N" or "I/N"; None: everything.
    """

    source: Path
    out: Path
    methods: str
    encoder: Path | str | None = None
    num_folds: int = 5
    seeds: int = 1
    budget: str | None = None
    null: bool = False
    part: str | None = None
    config: str | None = None
    overrides: Sequence[str] = ()
    ranks: int = 0

    @property
    def has_table(self) -> bool:
        """Are the slides to be cut first?"""
        return self.source.is_file()

    @property
    def cohort(self) -> Path:
        """The cohort with its true labels."""
        return self.out / "tiled" if self.has_table else self.source

    @property
    def keys(self) -> list[Fold]:
        """All folds."""
        return [(repeat, fold) for repeat in range(self.seeds) for fold in range(self.num_folds)]


class Methods(NamedTuple):
    """What is compared.

    Attributes:
        presets: by the method's name its preset, a packaged name or the path of a YAML file.
        baselines: names as in `hnm.baselines.baselines`, the linear ones always.
    """

    presets: dict[str, str]
    baselines: list[str]

    @property
    def names(self) -> list[str]:
        """All names, as in the table: baselines first."""
        return [*(BASELINE + name for name in self.baselines), *self.presets]

    @property
    def units(self) -> list[str]:
        """What one array job does of a fold: all baselines together, or one method."""
        return [EVERY_BASELINE, *self.presets]


def parse_methods(text: str) -> Methods:
    """Return what --methods means.

    Raises:
        ConfigError: an unknown name, or one twice.
    """
    presets: dict[str, str] = {}
    baselines, known = set(LINEAR), list_names(config_folder() / "presets")
    for name in filter(None, (word.strip() for word in text.split(","))):
        short = name.removeprefix(BASELINE)
        if name == EVERY_BASELINE:
            baselines |= set(BASELINES)
        elif short in BASELINES and (short != name or name not in known):
            baselines.add(short)
        elif name in known or Path(name).is_file():
            label = name if name in known else Path(name).stem
            if label in presets or (name not in known and label in known):
                raise ConfigError(f"--methods {text}: {label} is there twice. Give your file another name")
            presets[label] = name if name in known else str(Path(name).absolute())
        else:
            everything = [EVERY_BASELINE, *known, *(BASELINE + one for one in BASELINES)]
            close = difflib.get_close_matches(name, everything, n=1, cutoff=0.5)
            nearest = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"--methods: unknown method {name!r}.{nearest} Known: {', '.join(everything)}, or a YAML file")
    return Methods(presets, [name for name in BASELINES if name in baselines])


def check_request(request: StudyRequest) -> Methods:
    """Refuse what no cohort could mend; nothing is written.

    Raises:
        InputError: a name, the budget, or what the folder holds.
    """
    methods = parse_methods(request.methods)
    if request.budget is not None:
        try:
            parse_budget(request.budget)
        except ValueError as error:
            raise ConfigError(f"--budget {request.budget}: {error}, such as seconds=600") from None
    out = request.out
    is_ours = not out.exists() or is_study(out) or (out / "locks").is_dir()
    if not is_ours and (not out.is_dir() or any(path.name != SUBFOLDER for path in out.iterdir())):
        raise InputError(f"{out}: exists and is no study of hnm. Choose another name or remove it")
    return methods


def check_methods(request: StudyRequest, methods: Methods, cohort: Path) -> None:
    """Refuse what this cohort or folder does not allow, before hours are spent; nothing is written.

    Raises:
        InputError: see `launch.verbs.crossval_folder.check`; or the folder holds a study of something else.
    """
    if is_study(request.out):
        known, asked = read_plan(request.out), plan_of(request, methods, Cohort.open(cohort))
        decisive = [name for name in DECISIVE if name != "budget" or known["methods"]]  # baselines have none
        changed = [f"{name}: {known[name]} -> {asked[name]}" for name in decisive if known[name] != asked[name]]
        if changed:
            raise InputError(
                f"{request.out}: this study was started with other settings ({'; '.join(changed)}). Use another folder, or "
                "those that it was started with; only --methods may change"
            )
    for of_fold in (first_request(request, cohort), *(request_of(request, methods, name, cohort) for name in methods.presets)):
        crossval_folder.check(of_fold, load_config(of_fold.config, of_fold.preset, of_fold.overrides))


def plan_of(request: StudyRequest, methods: Methods, cohort: Cohort) -> dict[str, Any]:
    """Return what plan.json says."""
    encoder = request.encoder.resolve() if isinstance(request.encoder, Path) else request.encoder  # however it was written
    return {
        "cohort": str(request.cohort.resolve()), "fingerprint": cohort.fingerprint, "folds": request.num_folds,
        "seeds": request.seeds, "encoder": None if encoder is None else str(encoder),
        "budget": request.budget, "null": request.null, "methods": methods.presets, "baselines": methods.baselines,
    }  # fmt: skip


def open_study_folder(request: StudyRequest, methods: Methods, cohort: Path) -> None:
    """Write what the folder holds before its folds. Call it alone."""
    first, opened = first_request(request, cohort), Cohort.open(cohort)
    config = load_config(first.config, first.preset, first.overrides)
    with crossval_folder.alone(first.out):
        crossval_folder.open_folder(first, config, opened)
    record_config(request.out / "config.yaml", config)
    write_json(request.out / PLAN_FILE, plan_of(request, methods, opened))


def is_study(folder: Path) -> bool:
    """Is this a folder that `hnm study` writes?"""
    return (folder / PLAN_FILE).is_file()


def read_plan(out: Path) -> dict[str, Any]:
    """Return plan.json.

    Raises:
        InputError: there is none.
    """
    if not is_study(out):
        raise InputError(f"{out}: no study here ({PLAN_FILE} is missing). Make one with: hnm study COHORT {out}")
    plan: dict[str, Any] = json.loads((out / PLAN_FILE).read_text(encoding="utf-8"))
    return plan


def method_folder(out: Path, name: str) -> Path:
    """Return the crossval folder of a method or a baseline (baseline/NAME)."""
    return out / "methods" / name


def first_request(request: StudyRequest, cohort: Path) -> Request:
    """Return the cross-validation whose folds hold the first encoders and their features, and train nothing else."""
    overrides = [*request.overrides, "data.encoder_splits=[train]", "tracking.enabled=false"]
    encoder = None if request.encoder is None else Path(request.encoder)
    return Request(
        cohort, request.out / "first", request.num_folds, request.seeds, None, request.config, None, overrides, encoder, None,
        request.ranks,
    )  # fmt: skip


def request_of(
    request: StudyRequest, methods: Methods, name: str, cohort: Path, part: tuple[int, int] | None = None
) -> Request:
    """Return the cross-validation of a method: the same folds, first encoder and budget as all the others.

    Args:
        name: of the method.
        cohort: with the labels that are learned.
        part: (I, N): of the cells method x fold only every N-th, from the I-th on.
    """
    overrides = [*request.overrides, "data.encoder_splits=[train]"]
    overrides += [] if request.budget is None else [f"rounds.budget={request.budget}"]
    share = None if part is None else share_of_unit(part, methods.units.index(name), len(request.keys))
    first = request.out / "first"
    has_pictures = Cohort.open(cohort).has_pictures
    encoder = None if request.encoder is None else Path(request.encoder)
    return Request(
        cohort, method_folder(request.out, name), request.num_folds, request.seeds, share, request.config, methods.presets[name],
        overrides, encoder, first if encoder is None and has_pictures and (first / "crossval.json").is_file() else None,
        request.ranks, False, lambda key: first_folder(request, key) / FEATURES if has_pictures else None,
    )  # fmt: skip


def share_of_unit(part: tuple[int, int], unit: int, num_folds: int) -> str:
    """Return the share of a unit's folds, as of `hnm crossval --fold`, where every N-th cell of all units is done.

    Args:
        part: (I, N).
        unit: its place among the units; cells are numbered unit by unit.
        num_folds: of all seeds.
    """
    number, count = part
    return f"{(number - 1 - unit * num_folds) % count + 1}/{count}"


def is_shared(request: StudyRequest) -> bool:
    """Are the first features the same in all folds? A thinned cohort (data.witness_rate) is another with each seed."""
    config = load_config(request.config, None, list(request.overrides))
    return request.encoder is not None and config.data.witness_rate is None


def first_folder(request: StudyRequest, key: Fold) -> Path:
    """Return the run directory that holds a fold's first encoder and features."""
    first = request.out / "first"
    return first / "shared" if is_shared(request) else run_folder(first, key)


def parse_part(text: str | None) -> tuple[str, tuple[int, int] | None]:
    """Return ("all" | "first" | "cells", (I, N) or None) of --part.

    Raises:
        ConfigError: it is not written so.
    """
    if text is None:
        return "all", None
    stage, _, share = text.rpartition(":") if text != "first" else ("first", "", "")
    number, slash, count = share.partition("/")
    is_share = bool(slash) and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)
    if stage not in ("", "first") or not (is_share or text == "first"):
        raise ConfigError(f"--part {text}: write first, first:I/N or I/N, with I from 1 to N")
    return stage or "cells", (int(number), int(count)) if is_share else None


def done_cells(request: StudyRequest, methods: Methods) -> dict[str, set[Fold]]:
    """Return by name, as in the table, the folds that are done."""
    return {
        name: {key for key in request.keys if (run_folder(method_folder(request.out, name), key) / "metrics.json").is_file()}
        for name in methods.names
    }


