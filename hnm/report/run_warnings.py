"""What one should know before one believes a run: data that was skipped, slides that stand out, figures that rest on little.

RunRecord ──▶ a sentence each, the gravest first; an empty list says that nothing was found
"""

from collections.abc import Callable, Sequence

import numpy as np

from hnm.encoder.suits import unsuited_file
from hnm.report.record import RunRecord
from hnm.run.broken import MAX_NAMED, explain_broken, named
from hnm.run_rounds import START_ENCODER
from hnm.statistics.zero_width import warnings_told
from shards.tiling.outliers import find_outliers

FEW_SLIDES = 10  # of a class: one slide more or less moves the sensitivity by a tenth
MPP_SPREAD = 1.05  # as in shards/tiling/merge.py


def warnings_of(record: RunRecord) -> list[str]:
    """Return the warnings about a run, in words for people."""
    checks: Sequence[Callable[[RunRecord], list[str]]] = (
        _unfinished,
        _judged_slides,
        _skipped_slides,
        _broken_patches,
        _rounds,
        _outliers,
        _resolution,
        _encoder,
    )
    found = [warning for check in checks for warning in check(record)]
    return list(dict.fromkeys(found))  # metrics.json has told some of them already


def outlier_slides(record: RunRecord) -> dict[str, str]:
    """Return what is unusual about a slide's number of patches, by slide id."""
    counts = record.study.cohort.patches_per_slide
    number_of = {
        str(slide_id): int(count)
        for slide_id, count in zip(record.study.cohort.slide_ids, counts, strict=True)
        if count
    }
    return {outlier.slide_id: str(outlier) for outlier in find_outliers(number_of)}


def status_of_slides(record: RunRecord) -> np.ndarray:
    """Return (S,) str: done, or why the tiling dropped the slide."""
    return np.array(record.study.cohort.slides["status"].to_pylist(), dtype=object)


def _unfinished(record: RunRecord) -> list[str]:
    warnings = []
    if not record.is_finished:
        done, wanted = record.num_rounds - 1, record.config.rounds.num_rounds
        attempts = record.state.get("attempts", [])
        at_work = "; its last process had not ended when this page was drawn" if attempts and not attempts[-1]["ended"] else ""
        warnings.append(f"The run is not finished: {done} of {wanted} fine-tunings are done{at_work}.")
    if len(record.study.test) == 0:
        column = record.config.data.split_column
        warnings.append(
            f"There is no test split with labels (column {column}): all figures are of the validation slides, on which "
            "round and threshold were chosen, and flatter the model."
        )
    elif record.metrics is None:
        warnings.append(
            "The test split has not been read yet (hnm evaluate): all figures are of the validation slides, on which round "
            "and threshold were chosen, and flatter the model."
        )
    return warnings


def _judged_slides(record: RunRecord) -> list[str]:
    split, slides = record.judged
    labels = record.study.labels[slides]
    told = [str(text)[:1].upper() + str(text)[1:] for text in warnings_told(record.metrics or {})]
    num_positive, num_negative = int((labels == 1).sum()), int((labels == 0).sum())
    if min(num_positive, num_negative) == 0 and not told:
        word = "positive" if num_negative == 0 else "negative"
        return [f"All {len(labels)} {split} slides are {word}: AUC and balanced figures are not defined."]
    if 0 < min(num_positive, num_negative) < FEW_SLIDES:
        few = (
            f"Only {num_positive} positive and {num_negative} negative {split} slides: one slide more or less "
            "changes the figures."
        )
        return [*told, few]
    return told


def _skipped_slides(record: RunRecord) -> list[str]:
    ids, status = record.study.cohort.slide_ids, status_of_slides(record)
    tiled = np.array([text == "done" for text in status])
    unlabelled, without_part = record.study.labels < 0, record.split_of == ""
    groups = (
        (np.array([text.startswith("failed") for text in status]), "could not be read when they were tiled"),
        (np.array([text.startswith("empty") for text in status]), "gave no patch"),
        (tiled & unlabelled, "have no label and take no part"),
        (tiled & ~unlabelled & without_part, "are in no split and take no part"),
    )
    return [
        f"{int(chosen.sum())} of {len(ids)} slides {what}: {named(ids[chosen])}."
        for chosen, what in groups
        if chosen.any()
    ]


def _broken_patches(record: RunRecord) -> list[str]:
    study = record.study
    of_test = explain_broken(record.broken, study, study.test, "test")
    of_training = explain_broken(record.broken, study, study.train, "training")
    return of_test + explain_broken(record.broken, study, study.validation, "validation") + of_training


def _rounds(record: RunRecord) -> list[str]:
    warnings = []
    if record.num_rounds > 1 and record.chosen == 0:
        warnings.append(
            "No fine-tuned round was better than the start encoder on the validation slides: round 0 was chosen."
        )
    rates = [decision["witness_rate_self_paced"] for decision in record.decisions]
    if rates[0] is not None and rates[-1] is not None and rates[-1] < 0.5 * rates[0]:
        warnings.append(
            f"The witness rate of the self-paced positives fell from {rates[0]:.0%} to {rates[-1]:.0%}: the encoder was "
            "taught by more and more patches that are not positive (mining.candidates_per_slide, mining.self_paced_end)."
        )
    return warnings


def _outliers(record: RunRecord) -> list[str]:
    outliers = outlier_slides(record)
    if not outliers:
        return []
    return [
        f"{len(outliers)} slides have an unusual number of patches: {'; '.join(list(outliers.values())[:MAX_NAMED])}."
    ]


def _resolution(record: RunRecord) -> list[str]:
    slides, warnings = record.study.cohort.slides, []
    assumed = slides["mpp_from"].to_pylist().count("assumed")
    if assumed:
        warnings.append(f"The microns per pixel of {assumed} slides are assumed, not known (tile.assume_mpp).")
    known = [mpp for mpp in slides["source_mpp"].to_pylist() if mpp]
    if record.study.cohort.info["settings"]["mpp"] is None and known and max(known) > MPP_SPREAD * min(known):
        warnings.append(
            f"Patches are native pixels of slides with {min(known):.3g} to {max(known):.3g} microns per pixel: they do not "
            "show the same size of tissue (tile.mpp)."
        )
    return warnings


def _encoder(record: RunRecord) -> list[str]:
    start = record.home / START_ENCODER  # none where features were given
    found = unsuited_file(start, record.study.cohort) if start.is_file() else []
    return [f"{text[:1].upper()}{text[1:]}." for text in found]
