from pathlib import Path

import pytest

from shards.cohort.slides import read_slide_table, read_slides
from shards.errors import InputError


def write_table(folder: Path, column: str, values: list[str], ids: str = "ABCD") -> Path:
    rows = [f"{name},{name}.png,{number % 2},{value}" for number, (name, value) in enumerate(zip(ids, values, strict=True))]
    (folder / "slides.csv").write_text(f"slide_id,path,label,{column}\n" + "\n".join(rows) + "\n")
    return folder / "slides.csv"


@pytest.mark.parametrize(
    "column",
    [
        *("case_id", "case", "Case ID", "CaseID", "cases.submitter_id", "case_submitter_id", "subject", "subject_id"),
        *("pid", "PID", "submitter_id", "patient_barcode", "bcr_patient_barcode", "patients", "Participant", "donor_id"),
        *("Patienten-Nr", "MRN", "specimen_id", "accession_number", "pat_id", "person"),
    ],
)
def test_patients_under_another_name_are_asked_about(tmp_path: Path, column: str) -> None:
    path = write_table(tmp_path, column, ["P1", "P1", "P2", "P3"])
    with pytest.raises(InputError) as error:
        read_slides(path)
    for part in (str(path), f"have the same {column}, 'P1' (rows 2, 3)", "rename it to patient_id", f"to note_{column}"):
        assert part in str(error.value)
    assert len(read_slides(path, allow_unlabelled=True)) == 4  # for prediction it doesn't matter
    path = write_table(tmp_path, column, ["P1", "P2", "P3", "P4"])
    (warning,) = read_slide_table(path).warnings
    assert f"the column {column!r} is not looked at" in warning
    path = write_table(tmp_path, f"patient_id,{column}", ["a,P1", "b,P1", "c,", "d,"])  # the table says who is a patient
    assert read_slide_table(path).warnings == []


@pytest.mark.parametrize("column", ["patient", "patient_no", "PatientID", "anon_patient_id"])
def test_a_name_that_is_nearly_patient_id_is_refused_while_that_is_missing(tmp_path: Path, column: str) -> None:
    with pytest.raises(InputError, match=f"unknown column {column!r}; did you mean 'patient_id'"):
        read_slides(write_table(tmp_path, column, ["P1", "P2", "P3", "P4"]))
    assert len(read_slides(write_table(tmp_path, f"patient_id,{column}", ["a,1", "b,1", "c,2", "c,2"]))) == 4


@pytest.mark.parametrize(
    "column", ["patient_age", "case_type", "pT", "subject_sex", "sample_type", "hospital", "note_case_id", "block"]
)
def test_columns_that_name_no_patients_are_left_alone(tmp_path: Path, column: str) -> None:
    assert read_slide_table(write_table(tmp_path, column, ["1", "1", "2", "2"])).warnings == []


def test_a_case_may_be_a_class(tmp_path: Path) -> None:
    assert read_slide_table(write_table(tmp_path, "case", ["1", "0", "1", ""])).warnings == []
    assert read_slide_table(write_table(tmp_path, "case", ["case", "control", "case", "case"])).warnings == []


def test_an_empty_column_of_patients_names_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have the same case_id, 'P1'"):
        read_slides(write_table(tmp_path, "patient_id,case_id", [",P1", ",P1", ",P2", ",P3"]))
    (warning,) = read_slide_table(write_table(tmp_path, "patient_id", ["P1", "P1", "", ""])).warnings
    assert "2 of 4 slides have no patient_id, such as 'C' and 'D'" in warning
    (warning,) = read_slide_table(write_table(tmp_path, "patient_id", ["P1", "NA", "NA", "NA"])).warnings
    assert "3 slides have the patient_id 'NA'" in warning


def test_a_patient_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 3, column patient_id: 'p1': differs from 'P1' in row 2 by case only"):
        read_slides(write_table(tmp_path, "patient_id", ["P1", "p1", "P2", "P3"]))


@pytest.mark.parametrize(
    ("names", "patient"),
    [
        (["TCGA-49-4506-01Z-00-DX3", "TCGA-49-4506-01Z-00-DX1"], "TCGA-49-4506"),
        (["patient_010_node_4", "patient_010_node_1"], "PATIENT_010"),
        (["C3L-00001-21", "C3L-00001-22"], "C3L-00001"),
    ],
)
def test_slides_whose_names_hold_one_patient_are_asked_about(tmp_path: Path, names: list[str], patient: str) -> None:
    ids = [*names, "C", "D"]
    for column, values in (("hospital", ["x"] * 4), ("patient_id", ["P1", "P2", "P3", "P4"])):
        path = tmp_path / "slides.csv"
        rows = [f"{name},{name}.svs,{n % 2},{value}" for n, (name, value) in enumerate(zip(ids, values, strict=True))]
        path.write_text(f"slide_id,path,label,{column}\n" + "\n".join(rows))
        with pytest.raises(InputError, match=rf"are of one patient, {patient} \(rows 2, 3\)"):
            read_slides(path)
    path.write_text(path.read_text().replace("P2", "P1"))
    assert read_slide_table(path).warnings == []
