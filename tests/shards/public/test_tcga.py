from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from shards.cohort.cohort_table import read_rows
from shards.cohort.slides import read_slides
from shards.cohort.source_sites import sites_in_several
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
    assert read_mutations(tmp_path / "m.txt") == ({"TCGA-05-0001": {"EGFR", "KRAS"}}, 0)


@needs_tcga
def test_the_real_tables(tmp_path: Path) -> None:
    genes_of, _ = read_mutations(MUTATIONS)
    assert len(genes_of) == 494
    assert sum("TP53" in genes for genes in genes_of.values()) == 280
    assert sum("EGFR" in genes for genes in genes_of.values()) == 68
    summary = write_tcga(MANIFEST, MUTATIONS, ["EGFR", "KRAS", "STK11", "TP53"], tmp_path)
    assert (summary.num_slides, summary.num_patients, summary.num_labelled_patients) == (530, 467, 407)
    assert summary.num_unlabelled_slides == 68
    assert (summary.num_taken, summary.num_left_out, summary.doubled) == ({"02 recurrent solid tumour": 1}, {}, [])
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


@needs_tcga
@pytest.mark.parametrize(("num_folds", "largest"), [(5, (12, 77)), (10, (9, 73))])
def test_no_tissue_source_site_of_the_real_tables_is_in_two_folds(
    tmp_path: Path, num_folds: int, largest: tuple[int, int]
) -> None:
    summary = write_tcga(MANIFEST, MUTATIONS, ["EGFR"], tmp_path, num_folds=num_folds, split_by="site")
    slides = read_slides(summary.slides_csv)
    assert summary.sites.startswith("33 tissue source sites, none in two folds; most uneven is fold 0 with ")
    sites = np.array([slide.patient_id[5:7] for slide in slides])
    for fold in range(num_folds):
        assert sites_in_several(sites, np.array([slide.splits[f"split_fold{fold}"] for slide in slides])) == []
    tested = [
        [{s.patient_id for s in slides if s.splits[f"split_fold{fold}"] == "test" and s.labels["label_EGFR"] == label}
         for fold in range(num_folds)]
        for label in (1, 0)
    ]  # fmt: skip
    sizes = [[len(its) for its in kind] for kind in tested]
    assert [sum(kind) for kind in sizes] == [55, 352]
    # site 55 alone has 73 negative patients of 352, and 9 of 55 positive
    assert all(max(kind) <= most for kind, most in zip(sizes, largest, strict=True))
    assert min(sizes[0]) >= 3


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


def write_manifest(folder: Path, names: list[str]) -> Path:
    rows = [f"{name.split('.')[1]}\t{name}" for name in names]
    (folder / "manifest.txt").write_text("id\tfilename\n" + "\n".join(rows) + "\n")
    return folder / "manifest.txt"


def test_normal_tissue_never_has_the_tumours_label(tmp_path: Path) -> None:
    (tmp_path / "mut.txt").write_text("TCGA-05-0001\tEGFR\nTCGA-05-0002-01A\tTP53\nTCGA-05-0003-11A\tEGFR\n")
    codes = ["01A", "02A", "05A", "06A", "10A", "11A", "12A", "14A", "15A", "20A", "40A", "50A", "60A", "99A"]
    names = [f"TCGA-05-0001-{code}-01-TS1.{number}.svs" for number, code in enumerate(codes)]
    names += ["TCGA-05-0002-01A-01-BS1.b.svs", "TCGA-05-0003-01A-01-BS1.c.svs", "TCGA-05-0004-11-01-BS1.d.svs"]
    manifest = write_manifest(tmp_path, names)
    summary = write_tcga(manifest, tmp_path / "mut.txt", ["EGFR"], tmp_path, all_slides=True, num_folds=3)
    labels = {slide.slide_id[5:16]: slide.labels["label_EGFR"] for slide in read_slides(summary.slides_csv)}
    assert labels == {f"05-0001-{code}": 1 for code in ("01A", "02A", "05A", "06A", "40A")} | {
        "05-0002-01A": 0,
        "05-0003-01A": None,  # the only mutation is his normal tissue's
    }
    assert {kind[:2]: number for kind, number in summary.num_taken.items()} == {"02": 1, "05": 1, "06": 1, "40": 1}
    left_out = {kind[:2]: number for kind, number in summary.num_left_out.items()}
    assert left_out == {"10": 1, "11": 2, "12": 1, "14": 1, "15": 1, "20": 1, "50": 1, "60": 1, "99": 1}
    assert summary.num_normal_mutations == 1
    asked = write_tcga(manifest, tmp_path / "mut.txt", ["EGFR"], tmp_path, all_slides=True, num_folds=3, normal_tissue=True)
    normal = [slide.labels["label_EGFR"] for slide in read_slides(asked.slides_csv) if slide.slide_id[13] == "1"]
    assert normal == [0] * 5  # 10, 11, 12 and 14 of a mutated patient, 11 of one who was not sequenced
    assert asked.num_left_out.keys() == {kind for kind in summary.num_left_out if kind[:2] in ("15", "20", "50", "60", "99")}
    only_normal = write_manifest(tmp_path, names[5:6])
    with pytest.raises(InputError, match=r"none of 1 slides is of a tumour \(1 11 solid tissue normal\)\. Add --normal-tissue"):
        write_tcga(only_normal, tmp_path / "mut.txt", ["EGFR"], tmp_path, all_slides=True)


def test_a_file_twice_in_the_manifest_is_told_where_the_table_is_made(tmp_path: Path) -> None:
    manifest, mutations = write_small(tmp_path)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines, lines[2]]) + "\n")
    summary = write_tcga(manifest, mutations, ["EGFR"], tmp_path / "out", num_folds=3)
    assert summary.doubled == ["TCGA-05-0001-01Z-00-DX2.B.svs (rows 3 and 7)"]
    assert len(read_slides(summary.slides_csv)) == summary.num_slides == 4
    for old, new in (("id1", "id9"), ("DX2.B", "DX9.Z"), (".svs", ".tif")):
        second = lines[2].replace(old, new)
        manifest.write_text("\n".join([*lines, second]) + "\n")
        with pytest.raises(InputError, match=r"manifest\.txt, row 7, .*also in row 3, for TCGA-05-0001-01Z-00-DX2\.B\.svs"):
            write_tcga(manifest, mutations, ["EGFR"], tmp_path / "out")
