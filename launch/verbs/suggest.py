"""`hnm suggest`: looks at a table of slides, some of their headers and this machine, and prints a configuration to begin with."""

import shutil
from pathlib import Path

import numpy as np

from launch.process.cores import usable_cores
from launch.verbs.suggestion import Facts, as_yaml, preset_of, suggest
from shards.cohort.slides import Slide, read_slides
from shards.errors import InputError
from shards.files import whole_file
from shards.tiling.slide_reader import PlainImage, open_slide

MOST_LOOKED_AT = 24  # slides; a plain image is read whole
Look = tuple[int, int, float | None, bool]  # width, height, mpp, plain image


def run(slides_csv: Path, out: Path | None) -> int:
    """Write the configuration as YAML, or print it.

    Raises:
        InputError: the table is wrong, or none of the slides looked at can be read.
    """
    slides = read_slides(slides_csv, allow_unlabelled=True)
    looks, failed = look_at(slides)
    facts = facts_of(slides, looks)
    known = f"{min(facts.mpp):.3g} to {max(facts.mpp):.3g} um/px" if facts.mpp else "microns per pixel unknown"
    machine = f"{facts.num_gpus} GPUs of {facts.gpu_gib:.0f} GiB" if facts.num_gpus else "no GPU"
    head = [
        f"hnm suggest {slides_csv}: {facts.num_slides} slides, {facts.num_positive} positive and {facts.num_negative} negative; "
        f"{facts.width:,} x {facts.height:,} px (median of {len(looks)} looked at), {known}; {machine}, {facts.cores} cores.",
        "A start, not a result. With this as FILE (hnm suggest ... --out FILE), changed where you know better:",
        f"  hnm tile {slides_csv} cohort/ --config FILE --preview 5      and without --preview",
        "  hnm study cohort/ study/ --methods baselines,frozen,hnm --config FILE      which method earns its keep",
        f"  hnm train cohort/ run/ --config FILE --preset {preset_of(facts)}      hnm evaluate run/",
    ]
    head += [f"NOT READ: {reason}" for reason in failed]
    text = as_yaml(suggest(facts), head)
    if out is None:
        print(text, end="")
        return 0
    with whole_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {out}, with a reason for each value. Next: hnm tile {slides_csv} cohort/ --config {out} --preview 5")
    return 0


def look_at(slides: list[Slide]) -> tuple[list[Look], list[str]]:
    """Return what the files of some slides say, evenly spread over the table, and why others could not be read.

    Raises:
        InputError: none of them can.
    """
    looks: list[Look] = []
    failed: list[str] = []
    for number in np.unique(np.linspace(0, len(slides) - 1, min(len(slides), MOST_LOOKED_AT)).round().astype(int)):
        slide = slides[number]
        try:
            with open_slide(slide.path) as opened:
                looks.append((opened.width, opened.height, slide.mpp or opened.told.mpp, isinstance(opened, PlainImage)))
        except InputError as error:
            failed.append(str(error))
    if not looks:
        raise InputError(f"none of {len(failed)} slides that were looked at can be read; the first: {failed[0]}")
    return looks, failed


def facts_of(slides: list[Slide], looks: list[Look]) -> Facts:
    """Return what is known of slides and machine."""
    import torch

    labels = [next(iter(slide.labels.values()), None) for slide in slides]
    patients = [len({slide.patient_id for slide, its in zip(slides, labels, strict=True) if its == label}) for label in (0, 1)]
    width, height = (int(np.median([look[axis] for look in looks])) for axis in (0, 1))
    gpus = [torch.cuda.get_device_properties(number).total_memory / 2**30 for number in range(torch.cuda.device_count())]
    return Facts(
        labels.count(1), labels.count(0), len(slides), min(patients), any(any(its.splits.values()) for its in slides),
        width, height, sum(look[3] for look in looks) * 2 > len(looks),
        tuple(look[2] for look in looks if look[2]), sum(look[2] is None for look in looks),
        len(gpus), min(gpus, default=0.0), usable_cores(), shutil.disk_usage(".").free / 1e9,
    )  # fmt: skip
