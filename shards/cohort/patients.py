"""Who is a patient, and what a table says of it under other names.

    case_id, Subject, PID, bcr_patient_barcode ...   while patient_id is missing  ─┐
    TCGA-49-4506 in two slides' names                while their patient_id differs ├──▶ refused: the draw would part them
    P1 and p1                                                                       ─┘

Two slides of one patient on both sides of a split make every figure too good, and nothing in the result shows it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

from shards.cohort.cohort_table import Row
from shards.errors import InputError

# Letters and digits of a column's name, in lower case. What may be something else (pT is a stage) counts only as an id.
_ID = r"(?:ids?|no|nr|num|number|code|barcode|uu?id|name|key|index|hash|submitter|pseudonym|\d)"
_OF = r"(?:bcr|tcga|gdc|study|hospital|clinical|entity|anon(?:ymi[sz]ed)?|pseudo(?:nymi[sz]ed)?|dicom|wsi|slide)*"
_WHO = r"(?:patient(?:en|e)?|case|subject|subj|participant|person|individual|donor|submitter|pid|mrn|medicalrecord)s?"
_GROUP = r"(?:accession|specimen|sample|biopsy)s?(?:uu?id|id|barcode)|accession(?:no|nr|number)"  # one patient's at least
PATIENT_COLUMN = re.compile(rf"{_OF}(?:{_WHO}{_ID}*|(?:pat|pt){_ID}+|{_GROUP})")
# In case-control tables `case` is a class.
CLASS_WORDS = ("0", "1", "0.0", "1.0", "yes", "no", "true", "false", "y", "n", "case", "control", "cases", "controls")
PLACEHOLDERS = ("na", "n/a", "nan", "none", "null", "unknown", "unk", "-", "--", "?", "tbd", "missing")
# Names of slides that hold the patient's: TCGA, CPTAC, GTEx, Camelyon17.
PATIENT_IN_NAME = re.compile(
    r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|C3[LN]-\d{5}|GTEX-[A-Z0-9]{4,5})(?![A-Z0-9])|(patient_\d{3})_node_\d", re.IGNORECASE
)
MAX_NAMED = 3


def patient_warnings(rows: Sequence[Row], patients: Sequence[str]) -> list[str]:
    """Return what people should know of the patients, line by line; refuse what would put one on both sides of a split.

    Args:
        rows: (S,) of the table.
        patients: (S,) whose slide each is, as it is taken: patient_id, or the slide's own name.

    Raises:
        InputError: a column or the slides' names say that two slides are one patient's, and patient_id does not.
    """
    file = rows[0].file
    filled = [row for row in rows if row.cells.get("patient_id")]
    _refuse_two_ways_of_writing(filled)
    _refuse_parted(rows, patients, [_in_name(row) for row in rows], None)
    warnings = []
    if not filled:
        warnings += _ask_about_columns(rows, patients)
    elif len(filled) < len(rows):
        without = [row.cells["slide_id"] for row in rows if not row.cells["patient_id"]]
        warnings.append(
            f"{file}: {len(without)} of {len(rows)} slides have no patient_id, such as {_some(without)}: each is taken as a "
            f"patient of its own. Fill the column in where two are one patient's"
        )
    placeholders = {row.cells["patient_id"] for row in filled if row.cells["patient_id"].casefold() in PLACEHOLDERS}
    for placeholder in sorted(placeholders):
        slides = [row.cells["slide_id"] for row in filled if row.cells["patient_id"] == placeholder]
        if len(slides) > 1:
            warnings.append(
                f"{file}: {len(slides)} slides have the patient_id {placeholder!r} and are taken as one patient's, such as "
                f"{_some(slides)}. Leave the cell empty where the patient is not known"
            )
    return warnings


def _ask_about_columns(rows: Sequence[Row], patients: Sequence[str]) -> list[str]:
    warnings = []
    for column in rows[0].cells:
        plain = re.sub(r"[^a-z0-9]", "", column.casefold())
        values = {row.cells[column] for row in rows} - {""}
        is_class = all(value.casefold() in CLASS_WORDS for value in values)
        if column in ("patient_id", "slide_id") or not PATIENT_COLUMN.fullmatch(plain) or is_class:
            continue
        _refuse_parted(rows, patients, [row.cells[column] for row in rows], column)
        warnings.append(
            f"{rows[0].file}: the column {column!r} is not looked at: each slide is taken as a patient of its own. If it "
            f"names patients, rename it to patient_id"
        )
    return warnings


def _refuse_parted(rows: Sequence[Row], patients: Sequence[str], values: Sequence[str], column: str | None) -> None:
    """Raise if two slides of one value, from a column or (None) from their names, are taken as two patients'."""
    by_value: dict[str, list[int]] = defaultdict(list)
    for number, value in enumerate(values):
        if value and value.casefold() not in PLACEHOLDERS:
            by_value[value].append(number)
    parted = {value: its for value, its in by_value.items() if len({patients[number] for number in its}) > 1}
    if not parted:
        return
    value, numbers = next(iter(parted.items()))
    slides = _some([rows[number].cells["slide_id"] for number in numbers])
    in_rows = f"rows {', '.join(str(rows[number].number) for number in numbers[:MAX_NAMED])}"
    if len(parted) > 1:
        in_rows += f"; so do slides of {len(parted) - 1} other values"
    if column is None:
        raise InputError(
            f"{rows[0].file}: the names of {slides} are of one patient, {value} ({in_rows}), but their patient_id differs or "
            f"is missing, and they could stand in training and in test. Give them one patient_id, such as {value}"
        )
    raise InputError(
        f"{rows[0].file}: {slides} have the same {column}, {value!r} ({in_rows}), and there is no patient_id: each slide would "
        f"be taken as a patient of its own, and one patient's could stand in training and in test. If {column} names "
        f"patients, rename it to patient_id; if it does not, rename it, such as to note_{column}, or remove it"
    )


def _refuse_two_ways_of_writing(filled: Sequence[Row]) -> None:
    first_of: dict[str, Row] = {}
    for row in filled:
        first = first_of.setdefault(row.cells["patient_id"].casefold(), row)
        if first.cells["patient_id"] != row.cells["patient_id"]:
            raise row.error(
                "patient_id",
                f"differs from {first.cells['patient_id']!r} in row {first.number} by case only, and would be another "
                f"patient. Write it one way, or give two patients two names",
            )


def _in_name(row: Row) -> str:
    for text in (row.cells["slide_id"], re.split(r"[/\\]", row.cells["path"])[-1]):
        if match := PATIENT_IN_NAME.match(text):
            return (match[1] or match[2]).upper()
    return ""


def _some(slides: Sequence[str]) -> str:
    return " and ".join(map(repr, slides[:2])) if len(slides) <= 2 else f"{', '.join(map(repr, slides[:2]))} and others"
