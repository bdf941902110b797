"""Scores of slides and patches by hand; tests/hnm/test_aggregate.py has them on several ranks."""

from pathlib import Path

import numpy as np
import torch

from hnm.aggregator import DSMIL, pack
from hnm.bags import Bags
from hnm.score import gather_scores, score_slides, slide_logits, slide_scores
from launch.distributed import single_world
from shards.seeding import seeded_torch
from tests.hnm.worlds import DIM, session_with_features


def test_a_slides_score_is_the_mean_of_both_streams_by_hand() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)], [0.0, -np.log(3.0)]])
    np.testing.assert_allclose(slide_scores(logits), [0.5, 0.5], atol=1e-7)
    assert slide_scores(torch.tensor([[100.0], [100.0]])).tolist() == [1.0]
    assert slide_scores(logits).dtype == np.float64


def test_every_embedded_patch_gets_its_own_score(tmp_path: Path) -> None:
    session = session_with_features(single_world(), str(tmp_path))
    study, bags = session.study, Bags(session.features, torch.device("cpu"))
    with seeded_torch(0, "test"):
        model = DSMIL(DIM)
    logits, scores = score_slides(model, bags, study.embedded_slides, session)
    assert scores is not None
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(scores), study.cohort.patches.slide >= 14)  # the test slides
    for row, slide in enumerate(study.embedded_slides):
        with torch.no_grad():
            prediction = model(pack([bags.bag(slide)]))
        expected = torch.stack([prediction.bag_logits[0], prediction.instance_logits.max()])
        torch.testing.assert_close(logits[:, row], expected)
        own = scores[study.patches_of(np.array([slide]))]
        np.testing.assert_allclose(own, prediction.instance_logits.sigmoid(), rtol=1e-5)
    torch.testing.assert_close(logits[:, 4:6], slide_logits(model, bags, study.embedded_slides[4:6], single_world()))


def test_only_rank_0_holds_the_scores() -> None:
    scores = gather_scores(np.array([1.0], np.float32), [1], np.array([2]), 3, single_world())
    np.testing.assert_array_equal(scores, np.array([np.nan, np.nan, 1.0], np.float32))
