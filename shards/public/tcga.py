"""TCGA as a table of slides: the GDC's manifest joined with a list of mutations, by patient.

    manifest   id, filename ...            TCGA-49-4506-01Z-00-DX3.a05a....svs ──barcode──▶ patient TCGA-49-4506, sample 01
    mutations  TCGA-49-4506-0 <tab> TP53   a row per patient and mutated gene

A patient with any row was sequenced: label 1 if the gene is among his, else 0. A patient without a row is unlabelled:
kept, with empty cells, and counted. A mutation is in the tumour, so his normal tissue (sample 11) is left out, or 0.
Folds are drawn by patient, or by the barcode's tissue source site (49).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shards.cohort.cohort_table import Row, read_rows, write_csv
from shards.cohort.source_sites import fold_sites, site_in_name, unevenness
from shards.cohort.splits import fold_columns, fold_patients
from shards.errors import InputError

BARCODE = re.compile(
    r"(?P<patient>TCGA-\w{2}-\w{4})-(?P<sample>\d{2})[A-Z]?-\w{2}-(?P<kind>[A-Z]{2})\w*", re.IGNORECASE | re.ASCII
)
PATIENT = re.compile(r"(?P<patient>TCGA-\w{2}-\w{4})(?:-(?P<sample>\d{2})(?!\d))?", re.IGNORECASE | re.ASCII)
DIAGNOSTIC = "DX"  # TS, MS, BS: frozen sections (top, middle, bottom)


# https://gdc.cancer.gov/resources-tcga-users/tcga-code-tables/sample-type-codes
PRIMARY = {"01": "primary solid tumour", "03": "primary blood derived cancer, peripheral blood"}
PRIMARY |= {"08": "human tumour original cells", "09": "primary blood derived cancer, bone marrow"}
LATER = {"02": "recurrent solid tumour", "04": "recurrent blood derived cancer, bone marrow"}
LATER |= {"05": "additional new primary", "06": "metastatic", "07": "additional metastatic"}
LATER |= {"40": "recurrent blood derived cancer, peripheral blood"}
NORMAL = {"10": "blood derived normal", "11": "solid tissue normal", "12": "buccal cell normal"}
NORMAL |= {"13": "EBV immortalized normal", "14": "bone marrow normal"}
NO_TISSUE = {"20": "control analyte", "50": "cell lines", "60": "primary xenograft", "61": "cell line derived xenograft"}
SAMPLE_TYPES = PRIMARY | LATER | NORMAL | NO_TISSUE


@dataclass(frozen=True)
class TcgaSummary:
    """What was joined.

    Attributes:
        slides_csv: the table's path.
        num_slides: in the table.
        num_patients: in the table.
        num_labelled_patients: of them with a mutation row.
        num_unlabelled_slides: of patients without one.
        num_not_diagnostic: slides of the manifest that were left out as frozen sections.
        num_missing_files: slides in the table that are not downloaded yet.
        num_positive_patients: by gene.
        num_taken: slides in the table that are no primary tumour, by sample type.
        num_left_out: slides (diagnostic ones, or all) that were left out, by sample type.
        doubled: rows of the manifest that say a file again, for people to read.
        num_normal_mutations: rows of the mutations that were found in normal tissue, and left out.
        sites: of folds by site: how many there are and how even the folds are, in words; "" by patient.
    """

    slides_csv: Path
    num_slides: int
    num_patients: int
    num_labelled_patients: int
    num_unlabelled_slides: int
    num_not_diagnostic: int
    num_missing_files: int
    num_positive_patients: dict[str, int]
    num_taken: dict[str, int]
    num_left_out: dict[str, int]
    doubled: list[str]
    num_normal_mutations: int
    sites: str = ""


@dataclass(frozen=True)
class _TcgaSlide:
    """A row of the manifest: the patient, the sample's type, and whether it is a diagnostic slide."""

    row: Row
    patient: str
    sample: str
    is_diagnostic: bool


def write_tcga(
    manifest: Path,
    mutations: Path,
    genes: Sequence[str],
    out: Path,
    slides: Path | None = None,
    all_slides: bool = False,
    num_folds: int = 5,
    seed: int = 0,
    normal_tissue: bool = False,
    split_by: Literal["patient", "site"] = "patient",
) -> TcgaSummary:
    """Write out/slides.csv: slide_id, path, label_<gene> ..., patient_id, split_fold0, split_fold1 ...

    Args:
        manifest: tab-separated, with the columns id and filename.
        mutations: patient and gene, a row each, without a header.
        genes: a label column each, in this order.
        out: where to write; made if absent.
        slides: folder of the downloads; None: the manifest's.
        all_slides: frozen sections too.
        num_folds: how many; each patient is in the test split of one of them.
        seed: of the folds.
        normal_tissue: slides of normal tissue too, with label 0.
        split_by: what folds keep whole: patients, or tissue source sites, as even as can be in patients of every gene.

    Raises:
        InputError: a file cannot be read, a name is no barcode or stands for two files, or a gene is in no row.
    """
    genes_of, num_normal_mutations = read_mutations(mutations)
    _require_known(genes, genes_of, mutations)
    rows, doubled = _distinct(read_rows(manifest, ("id", "filename"), delimiter="\t"))
    listed = [_tcga_slide(row) for row in rows]
    wanted = [slide for slide in listed if all_slides or slide.is_diagnostic]
    tissue = PRIMARY | LATER | (NORMAL if normal_tissue else {})
    chosen = [slide for slide in wanted if slide.sample in tissue]
    if not chosen:
        raise InputError(_none_chosen(manifest, listed, wanted))
    patients = sorted({slide.patient for slide in chosen})
    labels = {patient: _labels(genes_of.get(patient), genes) for patient in patients}
    paths = [_path(slide.row, slides or manifest.parent) for slide in chosen]
    labels_of_slide = [(0,) * len(genes) if slide.sample in NORMAL else labels[slide.patient] for slide in chosen]
    folds, sites = _draw_folds(split_by, patients, [labels[patient] for patient in patients], genes, num_folds, seed)
    return TcgaSummary(
        slides_csv=_write_table(out, chosen, paths, labels_of_slide, dict(zip(patients, folds, strict=True)), genes, num_folds),
        num_slides=len(chosen),
        num_patients=len(patients),
        num_labelled_patients=sum(patient in genes_of for patient in patients),
        num_unlabelled_slides=sum(None in its for its in labels_of_slide),
        num_not_diagnostic=len(listed) - len(wanted),
        num_missing_files=sum(not path.is_file() for path in paths),
        num_positive_patients={gene: sum(its[at] == 1 for its in labels.values()) for at, gene in enumerate(genes)},
        num_taken=_by_type(slide for slide in chosen if slide.sample not in PRIMARY),
        num_left_out=_by_type(slide for slide in wanted if slide.sample not in tissue),
        doubled=doubled,
        num_normal_mutations=num_normal_mutations,
        sites=sites,
    )


def _write_table(
    out: Path, chosen: Sequence[_TcgaSlide], paths: Sequence[Path], labels: Sequence[tuple[int | None, ...]],
    fold_of: Mapping[str, int], genes: Sequence[str], num_folds: int,
) -> Path:  # fmt: skip
    """Write slides.csv and return its path; `labels` are the slides', `fold_of` the patients'."""
    words_of = {patient: fold_columns(fold, num_folds) for patient, fold in fold_of.items()}
    table = [
        (_slide_id(slide.row), str(path), *its, slide.patient, *words_of[slide.patient])
        for slide, path, its in zip(chosen, paths, labels, strict=True)
    ]
    return write_csv(out / "slides.csv", _header(genes, num_folds), table)


def _draw_folds(
    split_by: str,
    patients: Sequence[str],
    labels: Sequence[tuple[int | None, ...]],
    genes: Sequence[str],
    num_folds: int,
    seed: int,
) -> tuple[list[int], str]:
    """Return the fold of each patient, and of folds by site how even they are, in words."""
    if split_by == "patient":
        return fold_patients(labels, num_folds, seed), ""
    sites, own = np.array([site_in_name(patient) for patient in patients]), np.array(patients)
    unlabelled = [its[0] is None for its in labels]
    kinds = np.array([[its[at] == word for at in range(len(genes)) for word in (1, 0)] for its in labels])
    words = [f"{word} ({gene})" for gene in genes for word in ("positive", "negative")]
    if any(unlabelled):
        kinds, words = np.column_stack([kinds, unlabelled]), [*words, "unlabelled"]
    folds = fold_sites(sites, own, kinds, num_folds, seed)
    shares = {f"fold {fold}": 1 / num_folds for fold in range(num_folds)}
    told = f"{len(set(sites.tolist()))} tissue source sites, none in two folds; {unevenness(folds, own, kinds, words, shares)}"
    return folds.tolist(), told


def _header(genes: Sequence[str], num_folds: int) -> list[str]:
    folds = [f"split_fold{fold}" for fold in range(num_folds)]
    return ["slide_id", "path", *(f"label_{gene}" for gene in genes), "patient_id", *folds]


def _distinct(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows with each file once, and which were left out for that.

    Raises:
        InputError: one name stands for two files, or one id.
    """
    first_of: dict[str, Row] = {}
    kept, doubled = [], []
    for row in rows:
        names = {"id": row.cells["id"].casefold(), "filename": _slide_id(row).casefold()}
        for column, name in names.items():
            first = first_of.setdefault(f"{column} {name}", row)
            same = all(first.cells[each].casefold() == row.cells[each].casefold() for each in names)
            if first is not row and not same:
                raise row.error(
                    column, f"also in row {first.number}, for {first.cells['filename']} ({first.cells['id']}). Remove one row"
                )
        if first is row:
            kept.append(row)
        else:
            doubled.append(f"{row.cells['filename']} (rows {first.number} and {row.number})")
    return kept, doubled


def _none_chosen(manifest: Path, listed: Sequence[_TcgaSlide], wanted: Sequence[_TcgaSlide]) -> str:
    if not wanted:
        return f"{manifest}: none of {len(listed)} slides is diagnostic (DX). Add --all-slides for frozen ones"
    types = ", ".join(f"{number} {kind}" for kind, number in _by_type(wanted).items())
    return f"{manifest}: none of {len(wanted)} slides is of a tumour ({types}). Add --normal-tissue for normal tissue"


def _by_type(slides: Iterable[_TcgaSlide]) -> dict[str, int]:
    """Count slides by sample type, "11 solid tissue normal" ..."""
    counts = Counter(slide.sample for slide in slides)
    return {f"{code} {SAMPLE_TYPES.get(code, 'of unknown type')}": counts[code] for code in sorted(counts)}


def _require_known(genes: Sequence[str], genes_of: Mapping[str, Collection[str]], mutations: Path) -> None:
    known = sorted({gene for its in genes_of.values() for gene in its})
    for gene in genes:
        if gene not in known:
            raise InputError(f"--gene {gene}: no row of {mutations} has it. Known: {', '.join(known)}")


def read_mutations(path: Path) -> tuple[dict[str, set[str]], int]:
    """Return the mutated genes by patient, and how many rows were left out: a normal sample's, not the tumour's.

    Line ends may be CR, LF or CRLF, also mixed in one file.

    Raises:
        InputError: no such file, no text, or a row that is no patient and gene.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Give a text file: patient, tab, gene") from None
    genes_of: dict[str, set[str]] = defaultdict(set)
    num_normal = 0
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        barcode = PATIENT.match(cells[0])
        if barcode is None or len(cells) != 2 or not cells[1]:
            raise InputError(f"{path}, row {number}: {line!r}: expected a patient's barcode, a tab and a gene")
        if (barcode["sample"] or "").startswith(("1", "2")):  # normal tissue, controls
            num_normal += 1
        else:
            genes_of[barcode["patient"].upper()].add(cells[1])
    if not genes_of:
        raise InputError(f"{path}: no row of a tumour. Give a text file: patient, tab, gene")
    return dict(genes_of), num_normal


def _tcga_slide(row: Row) -> _TcgaSlide:
    match = BARCODE.match(row.cells["filename"])
    if match is None:
        raise row.error("filename", "not a TCGA slide's barcode (TCGA-49-4506-01Z-00-DX1...). Remove the row")
    return _TcgaSlide(row, match["patient"].upper(), match["sample"], match["kind"].upper() == DIAGNOSTIC)


def _slide_id(row: Row) -> str:
    return Path(row.cells["filename"]).stem


def _labels(genes_of_patient: set[str] | None, genes: Sequence[str]) -> tuple[int | None, ...]:
    return tuple(None if genes_of_patient is None else int(gene in genes_of_patient) for gene in genes)


def _path(row: Row, root: Path) -> Path:
    """Return where a slide lies: in a folder named by its id, as the GDC's tool puts it, or flat."""
    nested, flat = root / row.cells["id"] / row.cells["filename"], root / row.cells["filename"]
    return (flat if flat.is_file() else nested).absolute()
