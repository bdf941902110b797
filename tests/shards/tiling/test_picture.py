"""The picture of a slide shows what was kept, what is positive and what was left out."""

import numpy as np
import shapely

from shards.cohort.annotations import Annotation
from shards.tiling.picture import GREEN, RED, draw_survey
from shards.tiling.sites import grid_sites
from shards.tiling.survey import Survey


def test_the_picture_frames_what_was_kept_and_greys_the_rest() -> None:
    sites = grid_sites(64, 64, 16, 16)
    sites.truth[:] = 0
    sites.truth[5] = 1
    pixels = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    mask = np.ones((64, 64), bool)
    annotation = Annotation(shapely.box(16, 16, 32, 32))
    survey = Survey(0.5, "header", 16, sites, np.arange(16), pixels, 1.0, mask, None)
    picture = draw_survey(survey, np.array([0, 5]))
    scale = len(picture) / 64
    middle = [round(scale * at) for at in (8, 24, 40)]
    assert picture[0, middle[0]].tolist() == list(GREEN)
    assert picture[round(16 * scale), middle[1]].tolist() == list(RED)
    assert picture[middle[0], middle[0]].tolist() == [200, 120, 180]  # kept: as it is
    assert picture[middle[1], middle[1], 0] > picture[middle[1], middle[1], 1] + 60  # positive: tinted
    assert np.ptp(picture[middle[2], middle[2]].astype(int)) == 0  # left out: grey
    drawn = draw_survey(Survey(0.5, "header", 16, sites, np.arange(16), pixels, 1.0, mask, annotation), np.array([0]))
    assert (drawn == (255, 214, 0)).all(axis=2).sum() > 100  # the outline
