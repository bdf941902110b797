"""TCGA as a table of slides: the GDC's manifest joined with a list of mutations, by patient.

    manifest   id, filename ...                   TCGA-49-4506-01Z-00-DX3.a05a....svs ──barcode──▶ patient TCGA-49-4506
    mutations  TCGA-49-4506-0 <tab> TP53          a row per patient and mutated gene

A patient with any row was sequenced: label 1 if the gene is among his, else 0. A patient without a row is unlabelled:
kept, with empty cells, and counted.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.cohort.cohort_table import write_csv
from shards.cohort.slides import Row, read_rows
from shards.cohort.splits import fold_columns, fold_patients
from shards.errors import InputError

BARCODE = re.compile(r"(?P<patient>TCGA-\w{2}-\w{4})-\w{3}-\w{2}-(?P<kind>[A-Z]{2})\w*", re.IGNORECASE)
PATIENT = re.compile(r"TCGA-\w{2}-\w{4}", re.IGNORECASE)
DIAGNOSTIC = "DX"  # TS, MS, BS: frozen sections (top, middle, bottom)


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
    """

    slides_csv: Path
    num_slides: int
    num_patients: int
    num_labelled_patients: int
    num_unlabelled_slides: int
    num_not_diagnostic: int
    num_missing_files: int
    num_positive_patients: dict[str, int]


def write_tcga(
    manifest: Path,
    mutations: Path,
    genes: Sequence[str],
    out: Path,
    slides: Path | None = None,
    all_slides: bool = False,
    num_folds: int = 5,
    seed: int = 0,
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

    Returns:
        The numbers.

    Raises:
        InputError: a file cannot be read, a name is no barcode, or a gene is in no row.
    """
    genes_of = read_mutations(mutations)
    _require_known(genes, genes_of, mutations)
    rows = read_rows(manifest, ("id", "filename"), delimiter="\t")
    barcodes = [(row, _barcode(row)) for row in rows]
    wanted = [(row, barcode) for row, barcode in barcodes if all_slides or barcode["kind"].upper() == DIAGNOSTIC]
    chosen = [(row, barcode["patient"].upper()) for row, barcode in wanted]
    if not chosen:
        raise InputError(f"{manifest}: none of {len(rows)} slides is diagnostic (DX). Add --all-slides for frozen ones")
    patients = sorted({patient for _, patient in chosen})
    labels = {patient: _labels(genes_of.get(patient), genes) for patient in patients}
    fold_of = dict(zip(patients, fold_patients([labels[p] for p in patients], num_folds, seed), strict=True))
    root = slides or manifest.parent
    paths = [_path(row, root) for row, _ in chosen]
    table = [
        (Path(row.cells["filename"]).stem, str(path), *labels[patient], patient, *fold_columns(fold_of[patient], num_folds))
        for (row, patient), path in zip(chosen, paths, strict=True)
    ]
    fold_names = [f"split_fold{fold}" for fold in range(num_folds)]
    header = ("slide_id", "path", *(f"label_{gene}" for gene in genes), "patient_id", *fold_names)
    return TcgaSummary(
        slides_csv=write_csv(out / "slides.csv", header, table),
        num_slides=len(chosen),
        num_patients=len(patients),
        num_labelled_patients=sum(patient in genes_of for patient in patients),
        num_unlabelled_slides=sum(patient not in genes_of for _, patient in chosen),
        num_not_diagnostic=len(rows) - len(chosen),
        num_missing_files=sum(not path.is_file() for path in paths),
        num_positive_patients={
            gene: sum(labels[patient][column] == 1 for patient in patients) for column, gene in enumerate(genes)
        },
    )


def _require_known(genes: Sequence[str], genes_of: Mapping[str, Collection[str]], mutations: Path) -> None:
    known = sorted({gene for its in genes_of.values() for gene in its})
    for gene in genes:
        if gene not in known:
            raise InputError(f"--gene {gene}: no row of {mutations} has it. Known: {', '.join(known)}")


def read_mutations(path: Path) -> dict[str, set[str]]:
    """Return the mutated genes by patient; line ends may be CR, LF or CRLF, also mixed in one file.

    Raises:
        InputError: no such file, no text, or a row that is no patient and gene.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Give a text file: patient, tab, gene") from None
    genes_of: dict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        patient = PATIENT.match(cells[0])
        if patient is None or len(cells) != 2 or not cells[1]:
            raise InputError(f"{path}, row {number}: {line!r}: expected a patient's barcode, a tab and a gene")
        genes_of[patient[0].upper()].add(cells[1])
    if not genes_of:
        raise InputError(f"{path}: no row. Give a text file: patient, tab, gene")
    return dict(genes_of)


def _barcode(row: Row) -> re.Match[str]:
    match = BARCODE.match(row.cells["filename"])
    if match is None:
        raise row.error("filename", "not a TCGA slide's barcode (TCGA-49-4506-01Z-00-DX1...). Remove the row")
    return match


def _labels(genes_of_patient: set[str] | None, genes: Sequence[str]) -> tuple[int | None, ...]:
    return tuple(None if genes_of_patient is None else int(gene in genes_of_patient) for gene in genes)


def _path(row: Row, root: Path) -> Path:
    """Return where a slide lies: in a folder named by its id, as the GDC's tool puts it, or flat."""
    nested, flat = root / row.cells["id"] / row.cells["filename"], root / row.cells["filename"]
    return (flat if flat.is_file() else nested).absolute()
