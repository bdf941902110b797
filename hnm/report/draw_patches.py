"""Montages of mined patches, a row per round: the hardest negatives, and the surest positives, with slide and score.

Drawn with Pillow, a pixel of a patch as whole pixels of the picture: what the encoder saw, not a smoothed view of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hnm.mining.coordinator import load_mined
from hnm.report.draw_style import GREEN, GREY, INK, VERMILLION, evenly_spread
from hnm.report.record import RunRecord
from hnm.run_rounds import round_folder
from shards.errors import InputError
from shards.files import whole_file
from shards.reading.reader import PatchReader

PER_ROUND, MAX_ROUNDS = 10, 6
CELL_PX, GAP_PX, CAPTION_PX, HEADING_PX, FRAME_PX = 112, 8, 36, 30, 4
FONT_PX = 13
TRUTH_WORD = {1: "true", 0: "false", -1: ""}
TRUTH_COLOUR = {1: GREEN, 0: VERMILLION, -1: None}


@dataclass(frozen=True)
class Row:
    """One row of a montage: its heading, and (k,) patch ids with their scores, best first."""

    heading: str
    ids: np.ndarray
    scores: np.ndarray


def draw_hard_negatives(path: Path, record: RunRecord, reader: PatchReader) -> None:
    """Draw the negative-slide patches that score highest in each round.

    Raises:
        InputError: no round has mined any.
    """
    rows = []
    for round_ in evenly_spread(record.num_rounds, MAX_ROUNDS):
        negatives, scores = load_mined(round_folder(record.run, round_)).negatives, record.patch_scores_of(round_)
        mimics = record.decisions[round_].get("mimic_share_hard_negatives")
        known = "" if mimics is None else f", {mimics:.0%} of all known mimics"
        heading = f"round {round_}: the hardest of {len(negatives):,} hard negatives{known}"
        rows.append(_top(heading, negatives, scores[negatives]))
    draw_montage(path, rows, record, reader, tell_truth=False)


def draw_positives(path: Path, record: RunRecord, reader: PatchReader) -> None:
    """Draw the positive candidates that score highest in each round; a frame tells whether they are truly positive.

    Raises:
        InputError: no round has any.
    """
    rows = []
    for round_ in evenly_spread(record.num_rounds, MAX_ROUNDS):
        mined, witness = (
            load_mined(round_folder(record.run, round_)),
            record.decisions[round_]["witness_rate_candidates"],
        )
        known = "" if witness is None else f", {witness:.0%} of all truly positive"
        heading = f"round {round_}: the highest of {len(mined.candidates):,} positive candidates{known}"
        rows.append(_top(heading, mined.candidates, mined.candidate_scores))
    draw_montage(path, rows, record, reader, tell_truth=True)


def draw_montage(path: Path, rows: Sequence[Row], record: RunRecord, reader: PatchReader, *, tell_truth: bool) -> None:
    """Write rows of patches with captions as PNG.

    Raises:
        InputError: there is no patch in any row.
    """
    if not any(len(row.ids) for row in rows):
        raise InputError("no round has mined such a patch")
    width = GAP_PX + PER_ROUND * (CELL_PX + GAP_PX)
    height_of_row = HEADING_PX + CELL_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (width, len(rows) * height_of_row), "white")
    draw, patches = ImageDraw.Draw(sheet), record.study.cohort.patches
    for number, row in enumerate(rows):
        top = number * height_of_row
        draw.text((GAP_PX, top + 8), row.heading, INK, ImageFont.load_default(15))
        if not len(row.ids):
            draw.text((GAP_PX, top + HEADING_PX + 12), "none", GREY, ImageFont.load_default(FONT_PX))
            continue
        images = reader.read(row.ids).permute(0, 2, 3, 1).numpy()  # (k, h, w, 3)
        for place, (patch, score, image) in enumerate(zip(row.ids.tolist(), row.scores, images, strict=True)):
            truth = int(patches.truth[patch]) if tell_truth else -1
            corner = (GAP_PX + place * (CELL_PX + GAP_PX), top + HEADING_PX)
            _cell(sheet, draw, corner, image, truth)
            name = str(record.study.cohort.slide_ids[patches.slide[patch]])
            _caption(draw, corner, name, f"{score:.3f} {TRUTH_WORD[truth]}")
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def enlarged(image: np.ndarray, side_px: int) -> Image.Image:
    """Return a patch at `side_px`: small ones by whole factors on white, pixels kept; large ones shrunk."""
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if longest > side_px:
        return picture.resize([max(1, side * side_px // longest) for side in picture.size], Image.Resampling.LANCZOS)
    factor = side_px // longest
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def fit_middle(text: str, most: int) -> str:
    """Return `text` in at most `most` letters; what is left out is in the middle, for names differ at both ends."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def _top(heading: str, ids: np.ndarray, scores: np.ndarray) -> Row:
    best = np.argsort(-scores, kind="stable")[:PER_ROUND]
    return Row(heading, ids[best], scores[best])


def _cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], image: np.ndarray, truth: int
) -> None:
    colour = TRUTH_COLOUR[truth]
    inside = CELL_PX - 2 * FRAME_PX
    if colour is not None:
        draw.rectangle((*corner, corner[0] + CELL_PX - 1, corner[1] + CELL_PX - 1), outline=colour, width=FRAME_PX)
    picture = enlarged(image, inside if colour is not None else CELL_PX)
    if colour is None:  # flush with its caption
        sheet.paste(picture, (corner[0], corner[1] + CELL_PX - picture.height))
    else:
        slack = (CELL_PX - picture.width) // 2, (CELL_PX - picture.height) // 2
        sheet.paste(picture, (corner[0] + slack[0], corner[1] + slack[1]))


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, figure: str) -> None:
    left, top = corner[0], corner[1] + CELL_PX + 2
    draw.text((left, top), fit_middle(name, 16), INK, ImageFont.load_default(FONT_PX))
    draw.text((left, top + 16), figure, GREY, ImageFont.load_default(FONT_PX))
