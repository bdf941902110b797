"""Models of several targets that share an encoder: a folder for each, which is a model like any other, and what joins them.

    FOLDER/targets/  targets.json: names, classes    KEY/ encoder.safetensors  aggregator.safetensors  model.json ...
                                                         (the encoder's file is one, under several names, where links are)
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnm.model.model import ENCODER_FILE, MODEL_FILE
from hnm.model.predictions import Row
from hnm.run.targets import TARGETS_FOLDER, Targets
from hnm.run.tracking_run import MODEL_FOLDER
from hnm.statistics.classes import CALLS, class_probabilities
from shards.errors import InputError
from shards.files import plain_name, whole_file, write_json

TARGETS_FILE = Path(TARGETS_FOLDER, "targets.json")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Several:
    """What targets.json says.

    Attributes:
        names: of the targets, in their order.
        keys: their folders' names.
        classes: where the targets are classes, those with the negative one last; else empty.
        called_by: how a class is called, chosen on validation slides; "": the run was not evaluated, by probability.
        format_version: of this file.
    """

    names: list[str]
    keys: list[str]
    classes: list[str]
    called_by: str
    format_version: int = FORMAT_VERSION


def write_several(folder: Path, targets: Targets, metrics: dict[str, Any] | None) -> None:
    """Write targets.json, last, of a folder whose models are written; link the encoders that are one."""
    first = next(iter(model_folders(folder, targets.keys)))
    for its in model_folders(folder, targets.keys)[1:]:
        with suppress(OSError):  # a file system without links: a copy each
            temporary = its / f".{ENCODER_FILE}.{os.getpid()}.tmp"
            os.link(first / ENCODER_FILE, temporary)
            os.replace(temporary, its / ENCODER_FILE)
    called_by = ((metrics or {}).get("classes") or {}).get("called_by", "")
    write_json(folder / TARGETS_FILE, asdict(Several(list(targets.names), targets.keys, targets.class_names, called_by)))


def read_several(folder: Path) -> Several | None:
    """Return what joins the models of a folder, or of a run; None: it has one model.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    path = folder / TARGETS_FILE
    if not path.is_file():
        return None
    try:
        several = Several(**json.loads(path.read_text(encoding="utf-8")))
        if several.format_version != FORMAT_VERSION:
            raise ValueError(f"format_version is {several.format_version}, this hnm reads {FORMAT_VERSION}")
        return several
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as what joins several models ({error}). Export the run again") from None


def model_folders(folder: Path, keys: Sequence[str]) -> list[Path]:
    """Return the targets' models: of an export the folders themselves, of a run those that its evaluation has written."""
    folders = [folder / TARGETS_FOLDER / plain_name(key, folder / TARGETS_FILE) for key in keys]
    return [its if (its / MODEL_FILE).is_file() else its / MODEL_FOLDER for its in folders]


def write_joined(path: Path, several: Several, rows_of: Sequence[Sequence[Row]]) -> None:
    """Write a row per slide: of each target score and predicted; of classes what is called, and each one's probability.

    Args:
        path: of the table.
        rows_of: by target the slides' rows, the same slides in the same order.
    """
    first = rows_of[0]
    columns: dict[str, Any] = {"slide_id": [row.slide_id for row in first], "status": [row.status for row in first]}
    for name, rows in zip(several.names, rows_of, strict=True):
        word = name.removeprefix("label_")
        columns[f"score_{word}"] = pa.array([row.score for row in rows], pa.float64())
        columns[f"predicted_{word}"] = pa.array([row.predicted for row in rows], pa.int8())
    if several.classes:
        columns |= _of_classes(several, rows_of)
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _of_classes(several: Several, rows_of: Sequence[Sequence[Row]]) -> dict[str, Any]:
    scores = np.array([[np.nan if row.score is None else row.score for row in rows] for rows in rows_of], float).T
    thresholds = np.array([rows[0].threshold for rows in rows_of])
    unknown, has_negative = np.isnan(scores).any(axis=1), len(several.classes) > len(several.names)
    filled = np.nan_to_num(scores, nan=0.5)
    called = CALLS[several.called_by or "probability"](filled, thresholds, has_negative)
    probabilities = class_probabilities(filled, has_negative)
    names = np.array(several.classes, dtype=object)[called]
    of_class = {
        f"probability_{name}": pa.array(its, mask=unknown) for name, its in zip(several.classes, probabilities.T, strict=True)
    }
    return {"called": pa.array(names, pa.string(), mask=unknown), **of_class}
