"""What hnm validate says of one model on drawn slides whose stain and share of positive slides go away from its own.

    python -m benchmarks.validation MODEL --out FOLDER [--slides 40]

MODEL is the export (or run directory) of a run on drawn slides of configs/demo.yaml, such as hnm-demo/run. Prints one JSON line:
for each place how strongly it stains (factors of haematoxylin and eosin), AUC, sensitivity and specificity at the frozen
threshold with intervals, the verdict, what re-choosing gains, and how many colours have moved. The model must not have seen the
slides: their names and pixels are new.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.about import about
from launch.verbs.validate import ValidateRequest, validate
from shards.cohort.cohort_table import write_csv
from shards.drawn.drawn_slides import design_slide, write_pyramid
from shards.drawn.site_stain import NO_SHIFT, SiteStain
from shards.files import whole_file
from shards.seeding import numpy_generator

SIDE_PX, PATCH_PX, TISSUE, TUMOUR, MPP = 352, 32, 0.55, 0.2, 0.5  # as hnm demo draws
PLACES = {
    "its own stain, half positive": (NO_SHIFT, 2),
    "its own stain, a fifth positive": (NO_SHIFT, 5),
    "pale haematoxylin, a fifth positive": (SiteStain(np.array([0.6, 1.0]), np.zeros((2, 3))), 5),
    "dark haematoxylin, a fifth positive": (SiteStain(np.array([1.5, 1.0]), np.zeros((2, 3))), 5),
    "strong eosin, a fifth positive": (SiteStain(np.array([1.0, 1.6]), np.zeros((2, 3))), 5),
}
SHOWN = ("auc", "sensitivity", "specificity", "balanced_accuracy", "calibration_error")


def draw(folder: Path, number: int, stain: SiteStain, one_in: int, num_slides: int) -> Path:
    """Draw slides of one place, two of each patient, every `one_in`-th patient positive; return slides.csv."""
    rows = []
    for slide in range(num_slides):
        patient, name = slide // 2, f"place-{number}-slide-{slide:03d}"
        label = int(patient % one_in == 1)
        random = numpy_generator(1000 + number, name)
        designed = design_slide(SIDE_PX, PATCH_PX, TISSUE, TUMOUR, label == 1, random, site=stain)
        with whole_file(folder / f"{name}.tiff") as temporary:
            write_pyramid(temporary, designed, MPP)
        rows.append((name, f"{name}.tiff", label, f"place-{number}-patient-{patient:03d}"))
    return write_csv(folder / "slides.csv", ("slide_id", "path", "label", "patient_id"), rows)


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the table tells of one validation.json."""
    frozen, rechosen = found["frozen"], found["rechosen"]
    figures = {
        name: [frozen["figures"][name], frozen["intervals"][name]["low"], frozen["intervals"][name]["high"]] for name in SHOWN
    }
    colours = found["drift"]["colours"] or {}
    return {
        "slides": frozen["slides"],
        "positive": frozen["positive"],
        "frozen": figures,
        "verdict": found["verdict"]["word"],
        "gain_of_rechoosing": rechosen and [rechosen["gain"][name] for name in ("mean", "low", "high")],
        "colours_moved": [name for name, its in colours.items() if its["p"] < 0.01],
        "scores_moved": [text for text in found["warnings"] if text.startswith("the scores of")],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=40, help="of each place")
    options = parser.parse_args(arguments)
    places = {}
    for number, (place, (stain, one_in)) in enumerate(PLACES.items()):
        folder = options.out / f"place-{number}"
        slides_csv = draw(folder, number, stain, one_in, options.slides)
        request = ValidateRequest(
            options.model, slides_csv, folder / "validation", device="cpu", overrides=["tracking.enabled=false"]
        )
        validate(request)
        places[place] = row_of(json.loads((folder / "validation" / "validation.json").read_text(encoding="utf-8")))
    print(json.dumps(about("validation", False, ("torch", "scikit-learn", "scipy")) | {"places": places}))


if __name__ == "__main__":
    main()
