"""The rows of a drawn cohort's slides.csv: names, labels, patients, splits and sites."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.cohort.cohort_table import write_csv
from shards.cohort.slides import SPLITS
from shards.cohort.splits import split_patients
from shards.errors import InputError
from shards.seeding import derive_seed


@dataclass(frozen=True)
class SlideRow:
    """What slides.csv says of a drawn slide; `site` counts from 0."""

    name: str
    label: int
    patient: str
    split: str
    site: int


def name_slides(
    num_slides: int, seed: int, num_sites: int = 1, split_sizes: tuple[int, int, int] | None = None
) -> list[SlideRow]:
    """Return the rows of a drawn cohort: every second slide is positive.

    Args:
        num_slides: each of a patient of its own.
        seed: of the splits.
        num_sites: pairs of a negative and a positive slide go to the sites in turn, so that a site tells nothing.
        split_sizes: the first slides train, the next validate, the others test; None: 60/20/20 by patient.

    Raises:
        InputError: the sizes are not those of num_slides slides.
    """
    labels = [number % 2 for number in range(num_slides)]
    patients = [f"patient-{number:03d}" for number in range(num_slides)]
    if split_sizes is None:
        splits = split_patients(patients, labels, seed=derive_seed(seed, "synthetic splits"))
    else:
        if sum(split_sizes) != num_slides or min(split_sizes) < 2:
            raise InputError(f"split_sizes are {split_sizes}: give three from 2 on, {num_slides} together")
        splits = [name for name, size in zip(SPLITS, split_sizes, strict=True) for _ in range(size)]
    sites = [number // 2 % num_sites for number in range(num_slides)]
    names = [f"slide-{number:03d}" for number in range(num_slides)]
    return [SlideRow(*each) for each in zip(names, labels, patients, splits, sites, strict=True)]


def write_slides_csv(
    folder: Path, rows: Sequence[SlideRow], paths: Sequence[str], annotations: Mapping[str, str]
) -> Path:
    """Write slides.csv; `paths` in the order of `rows`, and annotations by slide where it has any."""
    columns = {
        "slide_id": [row.name for row in rows],
        "path": paths,
        "label": [row.label for row in rows],
        "patient_id": [row.patient for row in rows],
        "split": [row.split for row in rows],
    }
    if any(row.site for row in rows):
        columns["site"] = [f"site-{row.site}" for row in rows]
    if annotations:
        columns["annotation"] = [annotations.get(row.name, "") for row in rows]
    return write_csv(folder / "slides.csv", tuple(columns), list(zip(*columns.values(), strict=True)))
