from collections import defaultdict
from pathlib import Path

import pytest

from shards.cohort.slides import read_rows, read_slides
from shards.errors import InputError
from shards.public.tcga import read_mutations, write_tcga
from tests.paths import SHARED, needs_tcga

FOLDER = SHARED / "tcga_luad"
MANIFEST, MUTATIONS = FOLDER / "gdc_manifest.2020-09-06-TCGA-LUAD.txt", FOLDER / "mutations_labels_r3.txt"


def write_small(folder: Path) -> tuple[Path, Path]:
    """Two diagnostic slides of one patient, one of another, one of an unlabelled one, and a frozen section."""
    names = ["TCGA-05-0001-01Z-00-DX1.A.svs", "TCGA-05-0001-01Z-00-DX2.B.svs", "TCGA-05-0002-01Z-00-DX1.C.svs"]
    names += ["TCGA-05-0003-01Z-00-DX1.D.svs", "TCGA-05-0002-01A-01-TS1.E.svs"]
    rows = [f"id{number}\t{name}\tmd5\t1\treleased" for number, name in enumerate(names)]
    (folder / "manifest.txt").write_text("id\tfilename\tmd5\tsize\tstate\n" + "\n".join(rows) + "\n")
    (folder / "mutations.txt").write_bytes(
        b"TCGA-05-0001-0\tEGFR\rTCGA-05-0001-0\tTP53\r\nTCGA-05-0002-0\tTP53\nTCGA-99-0009-0\tKRAS"
    )
    (folder / "id1").mkdir()
    (folder / "id1" / names[1]).write_bytes(b"")
    return folder / "manifest.txt", folder / "mutations.txt"


def test_a_small_cohort_by_hand(tmp_path: Path) -> None:
    tables = write_small(tmp_path)
    summary = write_tcga(*tables, ["EGFR", "TP53"], tmp_path / "out", num_folds=3)
    assert (summary.num_slides, summary.num_patients, summary.num_labelled_patients) == (4, 3, 2)
    assert (summary.num_unlabelled_slides, summary.num_not_diagnostic, summary.num_missing_files) == (1, 1, 3)
    assert summary.num_positive_patients == {"EGFR": 1, "TP53": 2}
    slides = read_slides(summary.slides_csv)
    assert [slide.patient_id for slide in slides] == ["TCGA-05-0001"] * 2 + ["TCGA-05-0002", "TCGA-05-0003"]
    assert [slide.labels["label_EGFR"] for slide in slides] == [1, 1, 0, None]
    assert slides[1].path == tmp_path / "id1" / "TCGA-05-0001-01Z-00-DX2.B.svs"
    assert list(slides[0].splits) == ["split_fold0", "split_fold1", "split_fold2"]
    with_frozen = write_tcga(*tables, ["EGFR"], tmp_path / "all", all_slides=True)
    assert (with_frozen.num_slides, with_frozen.num_not_diagnostic) == (5, 0)


@pytest.mark.parametrize("line_end", [b"\r", b"\n", b"\r\n"])
def test_any_line_end(tmp_path: Path, line_end: bytes) -> None:
    (tmp_path / "m.txt").write_bytes(line_end.join([b"TCGA-05-0001-0\tEGFR", b"", b"TCGA-05-0001-0\tKRAS ", b""]))
    assert read_mutations(tmp_path / "m.txt") == {"TCGA-05-0001": {"EGFR", "KRAS"}}


@needs_tcga
def test_the_real_tables(tmp_path: Path) -> None:
    genes_of = read_mutations(MUTATIONS)
    assert len(genes_of) == 494
    assert sum("TP53" in genes for genes in genes_of.values()) == 280
    assert sum("EGFR" in genes for genes in genes_of.values()) == 68
    summary = write_tcga(MANIFEST, MUTATIONS, ["EGFR", "KRAS", "STK11", "TP53"], tmp_path)
    assert (summary.num_slides, summary.num_patients, summary.num_labelled_patients) == (530, 467, 407)
    assert summary.num_unlabelled_slides == 68
    rows = read_rows(summary.slides_csv, ("slide_id",))
    folds = [f"split_fold{fold}" for fold in range(5)]
    for column in folds:
        splits_of = defaultdict(set)
        for row in rows:
            splits_of[row.cells["patient_id"]].add(row.cells[column])
        assert all(len(splits) == 1 for splits in splits_of.values())  # a patient is never on both sides
        tested = {p for p, splits in splits_of.items() if splits == {"test"}}
        positive = {row.cells["patient_id"] for row in rows if row.cells["label_EGFR"] == "1"}
        assert len(tested) in (93, 94)
        assert len(tested & positive) == 11  # 55 of 407
    assert all(sum(row.cells[column] == "test" for column in folds) == 1 for row in rows)
    assert len(read_slides(summary.slides_csv)) == 530


def test_bad_tables_are_named(tmp_path: Path) -> None:
    manifest, mutations = write_small(tmp_path)
    with pytest.raises(InputError, match=r"--gene EGFRR: no row .* Known: EGFR, KRAS, TP53"):
        write_tcga(manifest, mutations, ["EGFRR"], tmp_path)
    mutations.write_text("TCGA-05-0001-0\tEGFR\nnonsense\tEGFR\n")
    with pytest.raises(InputError, match=r"mutations\.txt, row 2: 'nonsense\\tEGFR'"):
        write_tcga(manifest, mutations, ["EGFR"], tmp_path)
    manifest.write_text("id\tfilename\nx\tslide7.svs\n")
    mutations.write_text("TCGA-05-0001-0\tEGFR\n")
    with pytest.raises(InputError, match=r"row 2, column filename: 'slide7\.svs': not a TCGA slide's barcode"):
        write_tcga(manifest, mutations, ["EGFR"], tmp_path)
