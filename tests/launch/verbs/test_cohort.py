from pathlib import Path

from typer.testing import CliRunner

from launch.cli.main import app
from tests.paths import SHARED, needs_tcga


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
