"""What `hnm predict` says of slides whose label is known: how many are called right, and where they are measured.

An AUC alone, without interval, calibration and what the model has seen, is read as more than it is: `hnm validate` has it.
"""

from collections.abc import Sequence

from hnm.model.predictions import Row
from hnm.run.broken import named


def labelled_lines(rows: Sequence[Row], is_known: bool, command: str) -> list[str]:
    """Return what is said, line by line; nothing where no slide has a label.

    A positive slide without tissue counts as missed, with score 0, and the figures without such slides stand beside.

    Args:
        rows: of this command.
        is_known: whether the model says which slides it has seen.
        command: that measures them.
    """
    labelled = [row for row in rows if row.label is not None]
    if not labelled:
        return []
    lines = [] if is_known else [
        "warning: this export does not say which slides it was trained on or chosen by: this is a test only if it has "
        "seen none of them. Export the run again with this version"
    ]  # fmt: skip
    seen = [row for row in labelled if row.seen]
    if seen:
        reasons = named([f"{row.slide_id} ({row.seen})" for row in seen])
        lines.append(
            f"warning: {len(seen)} of {len(labelled)} slides with a label are no test of this model and are in no figure: "
            f"{reasons}. If it is another slide, of the same name by chance, give it another slide_id (or patient_id)"
        )
    tested = [row for row in labelled if not row.seen]
    scored, missed = [row for row in tested if row.score is not None], [row for row in tested if row.is_missed]
    if scored or missed:
        lines.append(f"{len(scored) + len(missed)} of them have a label: {_right([*scored, *missed])}")
    if missed:
        of_scored = _right(scored) if scored else "nothing"
        lines.append(
            f"{len(missed)} of these are positive and gave no patch ({named([row.slide_id for row in missed])}): they count as "
            f"missed, with score 0. Without them: {of_scored}"
        )
    if left_out := len(tested) - len(scored) - len(missed):
        lines.append(f"{left_out} with a label have no score (negative without a patch, or failed) and are in no figure")
    if scored or missed:
        lines.append(f"AUC, intervals by patient, calibration, drift: {command} (what is scored there is not scored again)")
    return lines


def _right(rows: Sequence[Row]) -> str:
    return f"{sum((row.predicted or 0) == row.label for row in rows)} called right"
