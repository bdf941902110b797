"""MODEL.md: what a model is, what it was made from, how good it was, and what it must not be used for."""

from pathlib import Path
from typing import Any

from hnm.config import Config, flatten
from hnm.encoder.suits import unsuited_figures
from hnm.evidence.calls import calls_told
from hnm.evidence.patch_threshold import OF_TRUTH
from hnm.model.model import Description
from hnm.statistics.thresholds import AIMS, policy_in_words
from hnm.statistics.zero_width import few_patients
from shards.files import whole_file

FEW_SLIDES = 20  # of a class in the test split


def write_card(path: Path, about: Description, config: Config, loading_code: str) -> None:
    """Write the model card as Markdown.

    Args:
        loading_code: Python that loads the encoder without this package.
    """
    parts = [_head(about), _data(about), _method(about, config), _figures(about), _limits(about), _use(about, loading_code)]
    with whole_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(about: Description) -> str:
    return (
        f"# {about.name}\n\n"
        "A patch encoder and a slide classifier for histology slides, learned from slide labels alone (hard negative mining, "
        "Huang et al., MICCAI 2024).\n\n"
        "**For research. Not a medical device: not for diagnosis, and not for decisions about patients.**"
    )


def _data(about: Description) -> str:
    data, rows = about.data, []
    for name, split in data["splits"].items():
        rows.append(
            f"| {name} | {split['slides']:,} | {split['positive']:,} | {split['patients']:,} | {split['patches']:,} | "
            f"{split.get('without_patch', 0):,} |"  # an older export does not say
        )
    mpp = data["source_mpp"]
    scanned = (
        f"slides of {mpp[0]:.3g} to {mpp[1]:.3g} microns per pixel" if mpp else "slides of unknown microns per pixel"
    )
    return (
        "## Data\n\n"
        f"Label: column `{data['label_column']}`, 1 = positive. Cohort fingerprint `{data['fingerprint']}`, "
        f"{data['slides']:,} slides; {scanned}.\n\n"
        "| split | slides | positive | patients | patches | further slides, which gave no patch |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows) + "\n\n"
        "No patient is in two splits. Training slides taught the networks; validation slides chose the aggregator's epoch, "
        "the round and the thresholds; test slides were read once."
        + _known(about.known)
        + _reference(about.reference)
    )


def _known(known: dict[str, Any]) -> str:
    if not known:
        return ""
    return (
        f" `seen.parquet` holds hashes of the names and patients of the {known['slides']:,} training and validation slides, and "
        f"of {known['by_content']:,} of their files: `hnm predict` says so if it meets one again, and counts it in no figure."
    )


def _reference(reference: dict[str, Any]) -> str:
    if not reference:
        return ""
    scores, colours = reference["scores"], reference["colours"]
    num_scores = len(scores["negative"]) + len(scores["positive"])
    no_colours = f"no colours ({colours['why_not']})"
    of_colours = f"the colours of {colours['slides']:,} slides" if colours["values"] else no_colours
    return (
        f"\n\nFor `hnm validate`, which measures this model on slides of another place, `model.json` records {num_scores:,} "
        f"scores of validation slides and {of_colours}, sorted and without names."
    )


def _method(about: Description, config: Config) -> str:
    default, given = flatten(Config().model_dump(mode="json")), flatten(config.model_dump(mode="json"))
    private = ("tracking.", "reader.", "tile.points_file", "device")
    changed = [f"`{k}={v}`" for k, v in given.items() if default.get(k) != v and not k.startswith(private)]
    patches = about.preprocessing
    scale = f"{patches['mpp']:g} microns per pixel" if patches["mpp"] else "native pixels (level 0)"
    gain = f": {about.gain['says']}" if about.gain else ""
    made = ", ".join(f"{name} {version}" for name, version in about.made_with.items())
    return (
        "## Method and configuration\n\n"
        f"* Encoder {about.encoder.get('summary', config.encoder.architecture)}. Resizing and normalisation are part of its "
        "forward pass: give it RGB in [0, 1].\n"
        f"* Round {about.chosen_round} of {about.gain.get('last_round', config.rounds.num_rounds)} was chosen on validation "
        f"slides{gain}.\n"
        f"* Patches: {patches['patch_px']} x {patches['patch_px']} pixels, {scale}, cut {patches['cut']}; background "
        f"filter: {', '.join(patches['background'])}; stain normalisation: {patches['stain']}.\n"
        f"* A slide is called positive from {about.slide_threshold:.4f} on ({_policy(about, config)}), a patch from "
        f"{about.patch_threshold:.4f} on (chosen on {about.patch_threshold_from}{_reached(about)}).\n"
        f"* Settings that are not the default: {', '.join(changed) or 'none'}. All: `config.yaml`.\n"
        f"* Made with {made}."
    )


def _policy(about: Description, config: Config) -> str:
    """Return how the slide threshold was chosen, and what it reaches on the slides that it was chosen on."""
    reached = [f"{name} {about.validation[name]:.3f}" for name in AIMS if about.validation.get(name) is not None]
    return f"{policy_in_words(config.evaluate.threshold)} on validation slides{''.join(f', {its}' for its in reached)}"


def _reached(about: Description) -> str:
    """Return what the patch threshold does on negative test slides, as far as that is known."""
    share = ((about.test or {}).get("patch_threshold") or {}).get("share_of_negative_test_patches")
    return "" if share is None else f"; {100 * share:.1f} % of the patches of negative test slides reach it"


def _figures(about: Description) -> str:
    lines = ["## Figures", ""]
    if about.test is None:
        lines += [
            "**Not evaluated on a test split.** Validation figures flatter: the round and the threshold were chosen there."
        ]
        lines += ["", "| figure | validation |", "|---|---|", *_rows(about.validation)]
        return "\n".join(lines)
    lines += [f"{about.test['num_test_slides']} test slides, read once."]
    of_patches = (about.test.get("instance") or {}).get("intervals", {})
    intervals = {
        "Slide AUC": about.test.get("slide_auc_interval") or {},
        "Patch AUC": of_patches.get("auc", {}),
        "Patch AUC in positive slides": of_patches.get("in_positive_auc", {}),
    }
    for name, interval in intervals.items():
        if interval.get("low") is not None:
            few = f" ({told})" if (told := few_patients(about.test)) else ""
            by = about.test.get("interval_by", "patient")
            lines += [f"{name}, 95 % bootstrap interval by {by}: {interval['low']:.3f} to {interval['high']:.3f}{few}."]
    if figures := about.test.get("patient"):
        told = f"{about.test['num_test_patients']} patients, {about.test['patient_score']} of their slides' scores"
        lines += [f"The headline is the patient's: {told}; positive from {about.test['patient_threshold']:.4f} on."]
        lines += ["", "| figure, patients | test |", "|---|---|", *_rows(figures)]
    lines += ["", "| figure, slides | test |", "|---|---|", *_rows(about.test["slide"])]
    if "slide_without_missed" in about.test:
        lines += ["", "| figure, slides with tissue only | test |", "|---|---|", *_rows(about.test["slide_without_missed"])]
    if calls := calls_told(about.test):
        lines += ["", "| what a call is worth | test | 95 % interval |", "|---|---|---|"]
        for words, value, interval in calls:
            known = interval is not None and interval["low"] is not None
            ends = f"{interval['low']:.3f} to {interval['high']:.3f}" if interval and known else ""
            lines += [f"| {words} | {'not defined' if value is None else f'{value:.3f}'} | {ends} |"]
    if about.test.get("instance"):
        lines += ["", "| figure, patches | test |", "|---|---|", *_rows(about.test["instance"])]
    return "\n".join(lines)


def _rows(figures: dict[str, Any]) -> list[str]:
    return [
        f"| {name.replace('_', ' ')} | {'not defined' if value is None else f'{value:.3f}'} |"
        for name, value in figures.items()
        if value is None or isinstance(value, float | int)
    ]


def _limits(about: Description) -> str:
    limits = ["Scores are no probabilities of disease: they depend on the share of positive slides in training."]
    splits, mpp = about.data["splits"], about.data["source_mpp"]
    test = splits["test"]
    if about.test is None:
        limits.append("Nothing is known about slides that it was not tuned on.")
    elif min(test["positive"], test["slides"] - test["positive"]) < FEW_SLIDES:
        limits.append(
            f"The test split is small ({test['positive']} positive, {test['slides'] - test['positive']} negative slides): one "
            "slide more or less changes the figures."
        )
    if (note := about.encoder.get("licence_note")) is not None:
        limits.insert(0, f"**Licence of the start encoder:** {note}")
    told = [*_unsuited(about), *(about.test or {}).get("warnings", [])]  # an older export has none
    limits += [text[:1].upper() + text[1:] for text in told]
    limits.append(
        "All slides are of one cohort. Other scanners, stains, laboratories or organs were not tested unless the cohort holds "
        "them; expect lower figures there, and look at the heatmaps."
    )
    broken = {name: split["broken_patches"] for name, split in splits.items() if split.get("broken_patches")}
    if broken:
        counts = ", ".join(f"{number:,} of {splits[name]['patches']:,} {name} patches" for name, number in broken.items())
        limits.append(
            f"Some patches could not be read, and others stood in for them: {counts}. What is said of those slides rests on less."
        )
    if about.preprocessing["mpp"] is None and mpp:
        limits.append(
            f"Patches are native pixels: slides of other than {mpp[0]:.3g} to {mpp[1]:.3g} microns per pixel show it tissue of "
            "another size."
        )
    if about.preprocessing["cut"] != "on a grid":
        limits.append(
            "It saw patches centred on annotated points (nuclei); patches of a grid are another distribution."
        )
    if about.patch_threshold_from != OF_TRUTH:
        limits.append(
            "The patch threshold was not chosen on annotated patches: areas in heatmaps are a ranking, no segmentation."
        )
    return "## Limits\n\n" + "\n".join(f"* {limit}" for limit in limits)


def _unsuited(about: Description) -> list[str]:
    """Return what about the patches does not suit the encoder; an older export does not say what that takes."""
    wanted, network = about.encoder.get("input") or {}, about.encoder.get("network") or {}
    patches, source = about.preprocessing, about.data["source_mpp"]
    mpp = [patches["mpp"]] if patches["mpp"] else source or []
    return [f"{text}." for text in unsuited_figures(patches["patch_px"], mpp, wanted.get("side_px"), network.get("mpp", ()))]


def _use(about: Description, loading_code: str) -> str:
    return (
        "## Use\n\n```bash\nhnm predict FOLDER slides/*.svs --out predictions/\n```\n\n"
        f"The encoder alone, as a plain torch module, without hnm:\n\n```python\n{loading_code}```\n\n"
        "Files: `encoder.safetensors` and `aggregator.safetensors` (SHA-256 in `model.json`), `config.yaml`, `seen.parquet`, "
        "`model.json` (thresholds, preprocessing, figures)."
    )
