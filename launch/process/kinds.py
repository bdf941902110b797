"""What a folder is that was given in place of a run directory, and which command suits it."""

from pathlib import Path

from shards.errors import InputError


def refuse_other(folder: Path) -> None:
    """Refuse a folder of ours, or a table, that no hnm train wrote; what is none of ours passes.

    Raises:
        InputError: saying what it is, and what to run with it.
    """
    if told := _what_is(folder):
        raise InputError(f"{folder}: {told}")


def _what_is(folder: Path) -> str:
    if not folder.exists():
        return f"there is no such folder. A run directory is made with: hnm train COHORT {folder}"
    if folder.suffix.lower() == ".csv":
        return f"a table, no run directory. Cut its slides first: hnm tile {folder} cohort/"
    if (folder / "crossval.json").is_file():
        return (
            "a cross-validation: hnm crossval has evaluated its folds, the figures are in its metrics.json. Look at them with: "
            f"hnm report {folder}. A fold is a run directory: {folder / 'repeat-0' / 'fold-0'}"
        )
    if (folder / "plan.json").is_file():
        return (
            f"a study: hnm study has evaluated the folds of its methods, the figures are in its study.html. How far it is: hnm "
            f"status {folder}"
        )
    if (folder / "model.json").is_file():
        return (
            "an exported model, which has no test split to read; the figures of its run are in its MODEL.md. On other slides "
            f"with labels it is measured by: hnm validate {folder} slides.csv --out validation/"
        )
    if (folder / "state.json").is_file():
        return _pretrained(folder) if (folder / "encoder.safetensors").is_file() else ""
    if (folder / "cohort.json").is_file():
        return f"a cohort, no run directory. Train on it first: hnm train {folder} run/, then: hnm evaluate run/"
    if (folder / "validation.json").is_file():
        return f"a validation of a model, by hnm validate. Look at {folder / 'validation.html'}"
    if (folder / "predictions.parquet").is_file() and (folder / "patches").is_dir():
        return (
            "predictions by hnm predict, no run directory. Where slides.csv has labels: hnm validate MODEL slides.csv; the test "
            "split of a run is read by: hnm evaluate RUN"
        )
    if (folder / "slides" / "slides.csv").is_file() and (folder / "run" / "state.json").is_file():
        return f"the folder of hnm demo. Its run directory is {folder / 'run'}"
    return ""


def _pretrained(folder: Path) -> str:
    encoder = folder / "encoder.safetensors"
    return (
        "a pretrained encoder, by hnm pretrain: it gives patches features and calls no slide positive or negative. Next: "
        f"hnm train COHORT run/ --encoder {encoder}, then: hnm evaluate run/"
    )
