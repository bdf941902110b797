"""From what is known of slides and machine to a configuration to begin with, each value with its reason: pure functions.

    Facts ──suggest──▶ Advice(key, value, why), ... ──as_yaml──▶ a file for --config

The numbers are those of the packaged configurations and of docs/install.md, scaled to the number of patches: a start, not a
result. What is better is told by validation slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from launch.process.status import in_words

PATCH_SIDES = (224, 128, 96, 64, 48, 32)  # pixels
LEAST_PER_SIDE = 6  # patches along the shorter side of a small image: 36 to a bag
TISSUE_OF_WHOLE_SLIDES = 0.25  # assumed; hnm tile --preview measures it
FEW_SLIDES = 100  # with a label: docs/results.md, on 99 images, shows no gain of the rounds
RATE_PER_CORE = 18.0  # patches of 96 px a second in training steps, ResNet-18 of full width: docs/install.md, 36 on two cores
MOST_PATCHES_PER_CORE = 30_000  # without a GPU: at 224 px and full width 2.5 hours a pass
KB_OF_224_PX = 28.0  # JPEG quality 90: docs/install.md
VIEWS = {"cpu": 100_000, "gpu": 5_000_000}  # patches seen in pretraining: configs/colon.yaml 7 x 10^4, camelyon16.yaml 2.5 x 10^7


@dataclass(frozen=True)
class Facts:
    """What is known before anything is cut.

    Attributes:
        num_positive, num_negative: slides with that label.
        num_slides: all, with a label or not.
        smallest_class: patients of the rarer class.
        has_split: slides.csv has a column split.
        width, height: median of the slides looked at, level-0 pixels.
        is_plain: they are plain images, no pyramids.
        mpp: microns per pixel of the slides looked at, as far as known.
        num_without_mpp: of the slides looked at.
        num_gpus, gpu_gib: GPUs and the memory of the smallest.
        cores: that may be used.
        free_gb: of the disk where the command runs.
    """

    num_positive: int
    num_negative: int
    num_slides: int
    smallest_class: int
    has_split: bool
    width: int
    height: int
    is_plain: bool
    mpp: tuple[float, ...]
    num_without_mpp: int
    num_gpus: int = 0
    gpu_gib: float = 0.0
    cores: int = 1
    free_gb: float = float("inf")

    @property
    def num_labelled(self) -> int:
        """Slides that can train, choose or test."""
        return self.num_positive + self.num_negative

    @property
    def device(self) -> str:
        """Where models would live."""
        return "gpu" if self.num_gpus else "cpu"


@dataclass(frozen=True)
class Advice:
    """One setting, and why; without a key it is a remark."""

    key: str
    value: Any
    why: str


def suggest(facts: Facts) -> list[Advice]:
    """Return settings in the order of the configuration, and remarks."""
    patch, scale, num_patches = of_tiling(facts)
    texts = [f"Method: --preset {method_of(facts)}", *remarks(facts, patch.value, num_patches)]
    settings = [*scale, patch, *of_encoder(facts, patch.value), *of_training(facts, num_patches)]
    return [*settings, *(Advice("", None, text) for text in texts)]


def preset_of(facts: Facts) -> str:
    """Return the preset to begin with; a file that named it would mix with another one that is tried later."""
    return "frozen" if facts.num_labelled < FEW_SLIDES else "hnm"


def of_tiling(facts: Facts) -> tuple[Advice, list[Advice], int]:
    """Return the side of a patch, its microns per pixel, and about how many patches all slides give."""
    factor, scale = 1.0, of_scale(facts)
    value = next((advice.value for advice in scale if advice.key == "tile.mpp"), None)
    if value is not None:
        factor = value / max(facts.mpp)
    shorter = min(facts.width, facts.height) / factor
    side = next((side for side in PATCH_SIDES if side * LEAST_PER_SIDE <= shorter), PATCH_SIDES[-1])
    per_side = int(shorter // side)
    if side == 224:
        why = "what the packaged configurations take, and the side that foundation models were trained at"
    else:
        why = f"images of {shorter:.0f} px hold {per_side} along the shorter side; of 224 px only {int(shorter // 224)}"
    share = 1.0 if facts.is_plain else TISSUE_OF_WHOLE_SLIDES
    per_slide = max(1, int(facts.width * facts.height / factor**2 / side**2 * share))
    return Advice("tile.patch_px", side, why), scale, per_slide * facts.num_slides


def of_scale(facts: Facts) -> list[Advice]:
    """Return the microns per pixel of the patches."""
    if not facts.mpp:
        why = "no file tells its microns per pixel: pixels as they are, so all images must be of one scanner and magnification"
        return [Advice("tile.mpp", None, why)]
    coarsest = max(facts.mpp)
    if facts.is_plain and min(facts.width, facts.height) < 224 * LEAST_PER_SIDE:
        value, why = round(coarsest, 3), "small images: the coarsest one's own scale, so that few pixels are given away"
    else:
        value = next((step for step in (0.5, 1.0, 2.0) if coarsest <= 1.25 * step), round(coarsest, 3))
        why = f"the finest usual scale that the coarsest slide ({coarsest:.3g} um/px) has"
        num = _num_patches(facts, value)
        if facts.device == "cpu" and num > (most := MOST_PATCHES_PER_CORE * facts.cores):
            coarser = next((step for step in (1.0, 2.0) if step > value and _num_patches(facts, step) <= most), max(2.0, value))
            why = f"at {value:g} there would be about {num:,} patches, too many for {facts.cores} cores without a GPU"
            value = coarser
    advice = [Advice("tile.mpp", value, why)]
    if facts.num_without_mpp:
        why = f"{facts.num_without_mpp} of the slides looked at do not tell theirs: correct this, or the column mpp of slides.csv"
        advice.append(Advice("tile.assume_mpp", round(sorted(facts.mpp)[len(facts.mpp) // 2], 3), why))
    return advice


def _num_patches(facts: Facts, mpp: float) -> int:
    share = 1.0 if facts.is_plain else TISSUE_OF_WHOLE_SLIDES
    factor = mpp / max(facts.mpp)
    return int(facts.width * facts.height / factor**2 / 224**2 * share * facts.num_slides)


def method_of(facts: Facts) -> str:
    """Return the preset to begin with, and why."""
    if facts.num_labelled < FEW_SLIDES:
        return (
            f"{preset_of(facts)}. With 99 labelled slides, and here are {facts.num_labelled}, no method that fine-tunes was "
            "shown to beat a frozen encoder (docs/results.md). It takes minutes; then --preset hnm: does validation gain by it?"
        )
    return f"{preset_of(facts)}. {facts.num_labelled} slides have a label; hnm study tells whether it beats frozen on yours"


def of_encoder(facts: Facts, side: int) -> list[Advice]:
    """Return the network."""
    advice = []
    if side <= 64:
        why = f"the usual stem divides {side} px by 32 and leaves a map of {max(1, side // 32)}; this one divides by 8"
        advice += [Advice("encoder.stem", "small", why)]
    if facts.device == "cpu":
        why = "no GPU: a quarter of the channels, as configs/colon.yaml; with --encoder and a network of others, leave it out"
        advice += [Advice("encoder.width", 0.25, why)]
    return advice


def of_training(facts: Facts, num_patches: int) -> list[Advice]:
    """Return epochs, batches and rounds."""
    train = max(1, int(0.6 * num_patches))
    epochs = min(100, max(2, round(VIEWS[facts.device] / train)))
    most = 256 if facts.device == "cpu" or facts.gpu_gib < 24 else 512
    negatives = train * facts.num_negative / max(1, facts.num_labelled)
    batch, tuned = power_below(min(most, train / 4)), power_below(min(most, 0.2 * negatives))
    seen = f"about {train:,} training patches (three fifths of {num_patches:,})"
    memory = "no GPU" if facts.device == "cpu" else f"{facts.gpu_gib:.0f} GiB a GPU"
    rounds, epochs_of_slides = 2 if facts.device == "cpu" else 5, 50 if facts.num_labelled < FEW_SLIDES else 100
    return [
        Advice("pretrain.epochs", epochs, f"{seen}: some {epochs * train:,} views in all; not used where --encoder is given"),
        Advice("pretrain.batch_size", batch, f"{memory}; several batches an epoch"),
        Advice("aggregate.epochs", epochs_of_slides, f"{facts.num_labelled} slides are an epoch; the best one is chosen"),
        Advice("aggregate.select", "validation", "and it is chosen on validation slides"),
        Advice("finetune.batch_size", tuned, f"mined negatives must fill it: a fifth of about {negatives:,.0f}"),
        Advice("rounds.num_rounds", rounds, "then look at the report: does validation still gain? (none with --preset frozen)"),
    ]


def remarks(facts: Facts, side: int, num_patches: int) -> list[str]:
    """Return what no setting can mend."""
    told = []
    disk_gb = num_patches * KB_OF_224_PX * (side / 224) ** 2 / 1e6
    hours = num_patches * (side / 96) ** 2 / (RATE_PER_CORE * facts.cores) / 3600
    told.append(f"Disk: about {max(disk_gb, 0.01):.2g} GB for {num_patches:,} patches" + (
        f"; ONLY {facts.free_gb:.0f} GB ARE FREE HERE" if disk_gb > facts.free_gb else ""))  # fmt: skip
    if facts.device == "cpu":
        told.append(f"Time: a training pass of a full-width ResNet-18 over all patches would take {in_words(3600 * hours)} on "
                    f"{facts.cores} cores (18 patches of 96 px a second and core, measured elsewhere)")  # fmt: skip
    else:
        told.append("Time: a GPU's rate was not measured; hnm status run/ tells patches per second after a minute")
    for count, word in ((facts.num_positive, "positive"), (facts.num_negative, "negative")):
        if count == 0:
            told.append(f"THERE IS NO {word.upper()} SLIDE: training needs both; without labels, hnm embed and hnm predict work")
    if facts.num_labelled < FEW_SLIDES and not facts.has_split and facts.smallest_class >= 3:
        folds = min(5, facts.smallest_class)
        told.append(f"A test split of a fifth would hold {max(1, facts.smallest_class // 5)} patients of the rarer class: "
                    f"hnm crossval cohort/ cv/ --folds {folds} --config FILE --preset frozen tests every slide")  # fmt: skip
    elif 0 < facts.smallest_class < 3:
        told.append(f"Only {facts.smallest_class} patients of the rarer class: too few to train, choose and test on others")
    if not facts.is_plain:
        told.append(f"Assumed: {TISSUE_OF_WHOLE_SLIDES:.0%} of a slide is tissue; hnm tile --preview 5 shows what is kept")
    return told


def power_below(number: float) -> int:
    """Return the largest power of two that is at most `number`, at least 8."""
    power = 8
    while 2 * power <= number:
        power *= 2
    return power


def as_yaml(advice: Sequence[Advice], head: Sequence[str]) -> str:
    """Return a file for --config: the remarks and the reasons as comments."""
    lines = [f"# {line}" for line in [*head, *(each.why for each in advice if not each.key)]]
    section = ""
    for each in (each for each in advice if each.key):
        name, _, key = each.key.rpartition(".")
        value = yaml.safe_dump(each.value, default_flow_style=True).split("\n")[0]
        lines += [f"{name}:"] * (name != section) + [f"  # {each.why}", f"  {key}: {value}"]
        section = name
    return "\n".join(lines) + "\n"
