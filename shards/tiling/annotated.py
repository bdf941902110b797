"""What the annotations of a cohort were taken as, and what in it contradicts the labels or the settings.

    units' groups + labels + settings ──▶ AnnotationSummary ──▶ lines of hnm tile's summary, tiling.html, cohort.json
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shards.cohort.groups import Role, names_in_vain
from shards.cohort.slides import Slide
from shards.tiling.tile_config import TileConfig
from shards.tiling.unit import Unit

MAX_NAMED = 5  # slides or groups that a line names
ROLE_WORDS: dict[Role, str] = {"positive": "taken as positive", "cut out": "cut out", "ignored": "ignored (not tumour)"}


@dataclass(frozen=True)
class CohortGroup:
    """A group of outlines over all slides.

    Attributes:
        role: what its outlines are taken as.
        num_slides: that have it.
        num_outlines: with an area.
        num_points: of CSV files.
        area_px: of the outlines as drawn, level-0 pixels squared.
        area_mm2: the same; None where microns per pixel are unknown.
    """

    role: Role
    num_slides: int
    num_outlines: int
    num_points: int
    area_px: float
    area_mm2: float | None

    def __str__(self) -> str:
        area = f"{self.area_px:,.0f} px^2" if self.area_mm2 is None else f"{self.area_mm2:,.3g} mm^2"
        drawn = [f"{counted(self.num_outlines, 'outline')}, {area}"] if self.num_outlines else []
        drawn += [counted(self.num_points, "point")] if self.num_points else []
        return ", ".join([counted(self.num_slides, "slide"), *drawn])


@dataclass(frozen=True)
class AnnotationSummary:
    """What the annotations of a cohort say.

    Attributes:
        num_annotated: slides with an annotation file, without those that failed.
        groups: by name, those of the largest area first.
        num_marks: points, lines and empty geometries, which have no area.
        unknown: why it is unknown what is positive (truth -1), by slide id.
        warnings: contradictions, each a line that names slides or groups.
        are_chosen: whether tile.positive_groups says which groups are positive.
    """

    num_annotated: int = 0
    groups: dict[str, CohortGroup] = field(default_factory=dict)
    num_marks: int = 0
    unknown: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    are_chosen: bool = False

    def lines(self) -> list[str]:
        """Return what people should read of it, a line each; warnings begin with the word."""
        lines = [line for role in ROLE_WORDS if (line := self._line_of(role))]
        if self.num_marks:
            marks = "point, line or empty geometry" if self.num_marks == 1 else "points, lines and empty geometries"
            lines.append(f"{self.num_marks:,} {marks} of annotations without an area")
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]

    def _line_of(self, role: Role) -> str:
        own = [f"{name} ({group})" for name, group in self.groups.items() if group.role == role]
        more = f" and {len(own) - MAX_NAMED} more groups" if len(own) > MAX_NAMED else ""
        is_doubtful = role == "positive" and len(own) > 1 and not self.are_chosen
        hint = ". Not all of them tumour? Set tile.positive_groups" if is_doubtful else ""
        return f"annotations {ROLE_WORDS[role]}: {'; '.join(own[:MAX_NAMED])}{more}{hint}" if own else ""


def summarise_annotations(
    slides: Sequence[Slide], units: Sequence[Unit], settings: Mapping[str, Any]
) -> AnnotationSummary:
    """Put together what the units say of their annotations.

    Args:
        slides: of the cohort.
        units: what became of each.
        settings: of the tiling.
    """
    pairs = [(slide, unit) for slide, unit in zip(slides, units, strict=True) if slide.annotation and not unit.failed]
    groups = _groups([unit for _, unit in pairs])
    unknown = {slide.slide_id: unit.annotation_problem for slide, unit in pairs if unit.annotation_problem}
    warnings = [*_names_in_vain(settings, list(groups)), *_contradictions(pairs), *_unknown(unknown)] if pairs else []
    num_marks = sum(unit.num_marks for _, unit in pairs)
    return AnnotationSummary(len(pairs), groups, num_marks, unknown, warnings, settings.get("positive_groups") is not None)


def _groups(units: Sequence[Unit]) -> dict[str, CohortGroup]:
    result: dict[str, CohortGroup] = {}
    for name in dict.fromkeys(name for unit in units for name in unit.groups):
        own = [(unit.groups[name], unit.source_mpp) for unit in units if name in unit.groups]
        in_mm2 = [tally.area * mpp**2 / 1e6 for tally, mpp in own if mpp]
        result[name] = CohortGroup(
            own[0][0].role,
            len(own),
            sum(tally.num_outlines for tally, _ in own),
            sum(tally.num_points for tally, _ in own),
            sum(tally.area for tally, _ in own),
            sum(in_mm2) if len(in_mm2) == len(own) else None,
        )
    return dict(sorted(result.items(), key=lambda item: -item[1].area_px))


def _names_in_vain(settings: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    usual = TileConfig.model_fields["negative_groups"].default
    named = {
        "positive_groups": settings.get("positive_groups") or [],
        "negative_groups": [name for name in settings.get("negative_groups", []) if name not in usual],
        "mimic_groups": settings.get("mimic_groups", []),
    }
    warnings = []
    for key, names in named.items():
        for name in names_in_vain(names, groups):
            close = difflib.get_close_matches(name.casefold(), [group.casefold() for group in groups], n=1, cutoff=0.7)
            near = next((f"; did you mean {group!r}?" for group in groups if [group.casefold()] == close), "")
            known = ", ".join(map(repr, groups[:MAX_NAMED])) or "none"
            warnings.append(f"tile.{key}: no annotation has a group {name!r} (the groups are: {known}){near}")
    return warnings


def _contradictions(pairs: Sequence[tuple[Slide, Unit]]) -> list[str]:
    """Return where labels and outlines say different things."""
    drawn = [any(tally.role == "positive" for tally in unit.groups.values()) for _, unit in pairs]
    labels = [next(iter(slide.labels.values()), None) for slide, _ in pairs]
    negative = [slide.slide_id for (slide, _), its, label in zip(pairs, drawn, labels, strict=True) if its and label == 0]
    positive = [
        slide.slide_id
        for (slide, unit), its, label in zip(pairs, drawn, labels, strict=True)
        if not its and label == 1 and not unit.annotation_problem
    ]
    lines = [
        (negative, "with label 0", "outlines that are taken as positive"),
        (positive, "with label 1", "an annotation without anything that is taken as positive: truth 0 everywhere"),
    ]
    return [f"{counted(len(ids), 'slide')} {which} {_have(ids)} {what}: {_few(ids)}" for ids, which, what in lines if ids]


def _unknown(reasons: Mapping[str, str]) -> list[str]:
    if not reasons:
        return []
    first = next(iter(reasons.values()))
    return [
        f"{counted(len(reasons), 'slide')} {_have(reasons)} an annotation that does not say what is positive; "
        f"their patches' truth is unknown (-1), but 0 where the label is 0: {_few(list(reasons))}. The first: {first}"
    ]


def counted(number: int, noun: str) -> str:
    """Return "1 slide", "1,234 slides"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _have(things: Collection[str]) -> str:
    return "has" if len(things) == 1 else "have"


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_NAMED]) + (f" and {len(ids) - MAX_NAMED:,} more" if len(ids) > MAX_NAMED else "")
