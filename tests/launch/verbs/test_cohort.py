from pathlib import Path

from typer.testing import CliRunner

from launch.cli.main import app
from tests.paths import CASES, SHARED, needs_cases, needs_tcga


def test_camelyon16_says_what_it_found(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("normal_001.tif", "normal_002.tif", "tumor_001.tif", "tumor_002.tif", "tumor_001.xml", "test_001.tif"):
        (root / name).touch()
    (root / "reference.csv").write_text("test_001,Tumor\ntest_002,Normal\n")
    result = CliRunner().invoke(app, ["cohort", "camelyon16", str(root), "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "1 test slides; 1 with an annotation file" in result.output
    assert "2 positive slides without one, such as test_001" in result.output
    assert "1 slides of the test reference are not there" in result.output
    assert (tmp_path / "slides.csv").is_file()
    assert CliRunner().invoke(app, ["cohort", "camelyon16", str(tmp_path / "empty")]).exit_code == 1


@needs_tcga
def test_tcga_counts_patients(tmp_path: Path) -> None:
    folder = SHARED / "tcga_luad"
    arguments = ["--manifest", str(folder / "gdc_manifest.2020-09-06-TCGA-LUAD.txt")]
    arguments += ["--mutations", str(folder / "mutations_labels_r3.txt"), "--gene", "EGFR", "--gene", "TP53"]
    result = CliRunner().invoke(app, ["cohort", "tcga", *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert "530 slides of 467 patients, 407 of them with a mutation row; 68 slides unlabelled" in result.output
    assert "label_EGFR: 55 positive patients of 407" in result.output
    header = (tmp_path / "slides.csv").read_text().splitlines()[0]
    assert header.startswith("slide_id,path,label_EGFR,label_TP53,patient_id,split_fold0,")


@needs_cases
def test_tcga_tells_the_sample_types(tmp_path: Path) -> None:
    folder = CASES / "tcga"
    arguments = ["cohort", "tcga", "--manifest", str(folder / "manifest.txt"), "--mutations", str(folder / "mut.txt")]
    arguments += ["--gene", "EGFR", "--all-slides", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 slides left out: sample type 11 solid tissue normal (--normal-tissue takes them, with label 0)" in result.output
    assert "warning: 1 slides of sample type 02 recurrent solid tumour" in result.output
    table = (tmp_path / "slides.csv").read_text()
    assert "-11A-" not in table
    assert CliRunner().invoke(app, [*arguments, "--normal-tissue"]).exit_code == 0
    normal = [line for line in (tmp_path / "slides.csv").read_text().splitlines() if "-11A-" in line]
    assert [line.split(",")[2] for line in normal] == ["0", "0"]
