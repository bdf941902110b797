import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.cohort.same_slides import same_slide_warnings
from shards.cohort.slides import label_column_warnings, read_slide_table, read_slides, slide_key
from shards.errors import InputError


def write_table(folder: Path, text: str) -> Path:
    """Write slides.csv and the image files a.png, b.png, c.png beside it (only their existence matters here)."""
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(b"image")
    path = folder / "slides.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_reads_all_columns(tmp_path: Path) -> None:
    text = (
        "slide_id,path,label,label_TP53,patient_id,split,mpp,hospital\n"
        f"A,a.png,1,0,P1,train,0.25,X\nB,{tmp_path / 'b.png'},0.0,1.0,,test,,Y\nC,c.png,,,P1,,,Z\n"
    )
    first, second, third = read_slides(write_table(tmp_path, text))
    assert (first.slide_id, first.path, first.patient_id, first.mpp) == ("A", tmp_path / "a.png", "P1", 0.25)
    assert first.labels == {"label": 1, "label_TP53": 0}
    assert first.splits == {"split": "train"}
    assert (second.path, second.patient_id, second.mpp) == (tmp_path / "b.png", "B", None)
    assert third.labels == {"label": None, "label_TP53": None}
    assert third.splits == {"split": ""}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("byte_order_mark", ["", "\ufeff"])
def test_any_line_ends_byte_order_mark_spaces_and_blank_rows(
    tmp_path: Path, line_end: str, byte_order_mark: str
) -> None:
    lines = [" slide_id , path,label ,,", "A , a.png, 1,,", "", ",,,,", '"B",b.png,0 ,,']
    slides = read_slides(write_table(tmp_path, byte_order_mark + line_end.join(lines)))
    assert [(slide.slide_id, slide.path.name, slide.labels) for slide in slides] == [
        ("A", "a.png", {"label": 1}),
        ("B", "b.png", {"label": 0}),
    ]


GOOD = "A,a.png,1,P1,train,\nB,b.png,0,P2,test,\n"


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("C,,0,P3,train,\n", ["row 4, column path: ''", "Fill the cell in"]),
        (",c.png,0,P3,train,\n", ["row 4, column slide_id: ''", "Fill the cell in"]),
        ("C,c.png,2,P3,train,\n", ["row 4, column label: '2'", "0 or 1"]),
        ("C,c.png,1,P3,Train,\n", ["row 4, column split: 'Train'", "train, validation, test"]),
        ("C,c.png,1,P3,train,0\n", ["row 4, column mpp: '0'", "0.25"]),
        ("C,c.png,1,P3,train,0.5um\n", ["row 4, column mpp: '0.5um'", "a number"]),
        ("C,c.png,1,P3\n", ["row 4: 4 cells", "header has 6"]),
        ("C,c.png,1,P3,train,,x\n", ["row 4: 7 cells", "header has 6", "double quotes"]),
        ("A,a.png,1,P1,train,\n", ["row 4, column slide_id: 'A'", "already in row 2", "Keep one row"]),
        ("a,c.png,1,P1,train,\n", ["row 4, column slide_id: 'a'", "already in row 2", "case"]),
        ("A,a.png,1,P1,test,\n", ["row 4, column slide_id: 'A'", "in two splits", "'train' in row 2", "'test' here"]),
        ("C,c.png,0,P1,test,\n", ["row 4, column split: 'test'", "patient 'P1' is in two splits", "'train' in row 2"]),
    ],
)
def test_a_bad_row_is_named_with_its_remedy(tmp_path: Path, rows: str, parts: list[str]) -> None:
    path = write_table(tmp_path, "slide_id,path,label,patient_id,split,mpp\n" + GOOD + rows)
    with pytest.raises(InputError) as error:
        read_slides(path)
    for part in [str(path), *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the file is empty"),
        ("slide_id,path,label\n", "no row below"),
        ("slide_id,path\nA,a.png\n", "no column 'label'"),
        ("slide_id;path;label\nA;a.png;1\n", "separated by commas"),
        ("slide_id,path,label,label\nA,a.png,1,1\n", "'label' is there twice"),
        ("slide_id,path,label,PatientID\nA,a.png,1,P\n", "did you mean 'patient_id'"),
        ("slide_id,path,label\nA,a.png,0\nB,b.png,\n", "no positive slide"),
        ("slide_id,path,label\nA,a.png,1\nB,b.png,\n", "no negative slide"),
        ("slide_id,path,label_EGFR,label_KRAS\nA,a.png,1,1\nB,b.png,1,0\n", "column label_EGFR: no negative slide"),
    ],
)
def test_a_bad_table_is_named_with_its_remedy(tmp_path: Path, text: str, part: str) -> None:
    path = write_table(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(part)) as error:
        read_slides(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_slides(tmp_path / "slides.csv")
    (tmp_path / "slides.csv").write_bytes(b"slide_id,path,label\nM\xfcller,a.png,1\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_slides(tmp_path / "slides.csv")


def test_many_bad_rows_are_shown_at_once_but_not_all(tmp_path: Path) -> None:
    rows = "".join(f"S{number},a.png,2\n" for number in range(30))
    with pytest.raises(InputError) as error:
        read_slides(write_table(tmp_path, "slide_id,path,label\n" + rows))
    assert str(error.value).count("a label is 0 or 1") == 10
    assert "and 20 more rows" in str(error.value)


def test_a_patient_with_an_unused_slide_is_in_one_split(tmp_path: Path) -> None:
    text = "slide_id,path,label,patient_id,split\nA,a.png,1,P,train\nB,b.png,0,P,\n"
    assert len(read_slides(write_table(tmp_path, text))) == 2


def test_a_plain_name_is_its_own_key() -> None:
    assert slide_key("TCGA-CR-7395-01A-01-TS1") == "TCGA-CR-7395-01A-01-TS1"


def test_a_key_of_a_tcga_name_has_no_dot_and_fits_a_tar_header() -> None:
    key = slide_key("TCGA-55-8512-01Z-00-DX1.2BE5E2D4-7C2C-4E6E-8A2B-0123456789AB")
    assert "." not in key
    assert len(f"{key}_1234567_1234567.jpg") <= 100


def test_keys_do_not_meet_even_if_a_name_looks_like_a_key() -> None:
    names = ["a.b", "a-b", "a b", "a/b", slide_key("a.b"), "x" * 90 + "1", "x" * 90 + "2", "é", "è"]
    assert len({slide_key(name) for name in names}) == len(names)


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_keys_are_safe_and_distinct(names: list[str]) -> None:
    keys = [slide_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,77}", key) for key in keys)


def test_a_missing_image_is_left_to_the_tiling(tmp_path: Path) -> None:
    slides = read_slides(write_table(tmp_path, "slide_id,path,label\nA,a.png,1\nB,gone.svs,0\n"))
    assert slides[1].path == tmp_path / "gone.svs"


def test_other_label_columns_may_lack_a_kind_and_label_itself_may_be_absent(tmp_path: Path) -> None:
    text = "slide_id,path,label_EGFR,label_KRAS,annotation\nA,a.png,1,,a.xml\nB,b.png,0,,\n"
    first, second = read_slides(write_table(tmp_path, text))
    assert first.labels == {"label_EGFR": 1, "label_KRAS": None}
    assert (first.annotation, second.annotation) == (tmp_path / "a.xml", None)


@pytest.mark.parametrize("text", ["slide_id,path\nA,a.png\n", "slide_id,path,label\nA,a.png,\n"])
def test_an_unlabelled_table_needs_the_switch(tmp_path: Path, text: str) -> None:
    path = write_table(tmp_path, text)
    with pytest.raises(InputError, match=r"tile\.allow_unlabelled=true"):
        read_slides(path)
    assert len(read_slides(path, allow_unlabelled=True)) == 1


@pytest.mark.parametrize(
    "header", ["Slide_ID,Path, Label ,MPP", "slide id,PATH,LABEL,mpp", "\u200bslide-id,path,label\u00a0,Mpp"]
)
def test_headers_in_other_case_or_with_spaces_are_read(tmp_path: Path, header: str) -> None:
    first, second = read_slides(write_table(tmp_path, f"{header}\nA,a.png,1,0.25\nB,b.png,0,\n"))
    assert (first.slide_id, first.labels, first.mpp, second.labels) == ("A", {"label": 1}, 0.25, {"label": 0})


def test_the_genes_of_a_header_keep_their_case(tmp_path: Path) -> None:
    (first, _) = read_slides(write_table(tmp_path, "slide_id,path,Label_EGFR,Split_Fold0\nA,a.png,1,train\nB,b.png,0,\n"))
    assert (first.labels, first.splits) == ({"label_EGFR": 1}, {"split_Fold0": "train"})


def test_a_header_twice_in_two_ways_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path, "slide_id,path,label,Label\nA,a.png,1,0\nB,b.png,0,1\n")
    with pytest.raises(InputError, match=r"the column 'label' is there twice .as 'Label' and 'label'"):
        read_slides(path)


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        *(("250", "0.25 if it is nanometres"), ("0.00025", "0.25 if it is millimetres"), ("2.5e-7", "0.25 if it is metres")),
        *(("40", "0.25 if it is an objective's power"), ("-0.25", "above 0"), ("0", "above 0"), ("nan", "above 0")),
        *(("inf", "above 0"), ('"0,25"', "with a point"), ("1_0", "above 0"), ("500", "0.5 if it is nanometres")),
    ],
)
def test_an_mpp_in_another_unit_is_refused_with_the_remedy(tmp_path: Path, cell: str, part: str) -> None:
    path = write_table(tmp_path, f"slide_id,path,label,mpp\nA,a.png,1,{cell}\nB,b.png,0,0.25\n")
    with pytest.raises(InputError, match=re.escape(part)) as error:
        read_slides(path)
    assert "row 2, column mpp" in str(error.value)


def test_home_and_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIDES_OF_TEST", "store")
    text = "slide_id,path,label,annotation\nA,~/a.svs,1,$SLIDES_OF_TEST/a.xml\nB,${SLIDES_OF_TEST}/b.svs,0,\n"
    first, second = read_slides(write_table(tmp_path, text))
    assert (first.path, first.annotation) == (tmp_path / "home" / "a.svs", tmp_path / "store" / "a.xml")
    assert second.path == tmp_path / "store" / "b.svs"
    (tmp_path / "$5.svs").touch()  # a name that holds a dollar is that file
    assert read_slides(write_table(tmp_path, "slide_id,path,label\nA,$5.svs,1\nB,b.png,0\n"))[0].path == tmp_path / "$5.svs"
    with pytest.raises(InputError, match=r"row 2, column path: .*the variable \$NO_SUCH_VARIABLE is not set"):
        read_slides(write_table(tmp_path, "slide_id,path,label\nA,$NO_SUCH_VARIABLE/a.svs,1\nB,b.png,0\n"))


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_in_the_other_form_of_unicode_is_found(tmp_path: Path, written: str, on_disk: str) -> None:
    folder = tmp_path / unicodedata.normalize(on_disk, "Präparate")
    folder.mkdir()
    image = folder / unicodedata.normalize(on_disk, "é1.svs")
    image.touch()
    cell = unicodedata.normalize(written, "Präparate/é1.svs")
    first, second = read_slides(write_table(tmp_path, f"slide_id,path,label\nA,{cell},1\nB,Präparate/ö.svs,0\n"))
    assert first.path == image
    assert os.path.exists(first.path)
    assert not second.path.exists()


def test_two_ids_that_differ_by_form_only_are_one(tmp_path: Path) -> None:
    ids = [unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")]
    path = write_table(tmp_path, f"slide_id,path,label,patient_id\n{ids[0]},a.png,1,P\n{ids[1]},b.png,0,P\n")
    with pytest.raises(InputError, match=r"row 3, column slide_id: .*already in row 2"):
        read_slides(path)
    path = write_table(tmp_path, f"slide_id,path,label,patient_id,split\nA,a.png,1,{ids[0]},train\nB,b.png,0,{ids[1]},test\n")
    with pytest.raises(InputError, match="is in two splits"):
        read_slides(path)


def test_a_column_of_splits_under_another_name_is_told(tmp_path: Path) -> None:
    table = read_slide_table(write_table(tmp_path, "slide_id,path,label,set\nA,a.png,1,Training\nB,b.png,0,test\n"))
    assert "the column 'set' holds splits, but is not looked at. Rename it to split" in table.warnings[0]


def test_a_label_column_that_is_none_is_told(tmp_path: Path) -> None:
    slides = read_slides(write_table(tmp_path, "slide_id,path,label_a,label_b\nA,a.png,1,0\nB,b.png,0,1\n"))
    assert label_column_warnings(slides, "label_b") == []
    (warning,) = label_column_warnings(slides, "label_c")
    assert "data.label_column=label_c is no column of the table. Training will need one of: label_a, label_b" in warning
    for several in ("a,b", "label_a,label_b", "label_a label_b"):
        with pytest.raises(InputError, match=r"names several columns. One is named so, of: label_a, label_b"):
            label_column_warnings(slides, several)


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["slide_id", "path", "label", "split", "mpp", "patient_id", "case_id", "Slide ID", "0", "1", "train"]),
    st.sampled_from(["~", "~x/a", "$", "${}", "$X", "\0", "/" * 300, "é" * 300, "TCGA-49-4506", "..", '"', "a,b", "\n"]),
    st.sampled_from(["\ufeff", "nan", "1e999", "-0", "a/" * 2500]),
)


@given(st.lists(st.lists(CELLS, max_size=6), max_size=5), st.booleans())
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoted: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    lines = [",".join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in row) for row in rows]
    for header in ("", "slide_id,path,label\n", "slide_id,path,label,mpp,patient_id,split\n"):
        path.write_bytes((header + "\n".join(lines)).encode())
        for allow_unlabelled in (False, True):
            try:
                slides = read_slide_table(path, allow_unlabelled).slides
                same_slide_warnings(slides)
            except InputError as error:
                assert str(error)  # noqa: PT017
            else:
                assert all(slide.slide_id and slide.path.is_absolute() for slide in slides)
