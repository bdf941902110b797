"""Scores of slides and patches by hand; tests/hnm/test_aggregate.py has them on several ranks."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from hnm.aggregator.bags import Bags, file_of_rows, write_index
from hnm.aggregator.dsmil import DSMIL, pack
from hnm.aggregator.score import bounds_of_ranks, predict_bag, score_slides, slide_logits, slide_scores
from hnm.engine.ranks import World, single_world
from shards.reading.plan import rows_of_rank
from shards.seeding import seeded_torch
from tests.hnm.worlds import DIM, session_with_features, tables_only_study
from tests.ranks import on_new_process


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
    logits, (scores, bounds, ids) = score_slides(model, bags, study.embedded_slides, session)
    assert (bounds.tolist(), ids) == ([0, len(scores)], slice(0, len(scores)))
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


@pytest.mark.parametrize("size", [1, 2, 3, 7, 500])
def test_the_ranks_ranges_of_ids_hold_equally_many_scored_patches(size: int) -> None:
    study = tables_only_study()
    for slides in (study.embedded_slides, study.test, study.validation[1:2]):
        bounds, scored = bounds_of_ranks(study.rows_of(slides), study.cohort.num_patches, size), study.mask_of(slides)
        assert (bounds[0], bounds[-1], len(bounds)) == (0, len(scored), size + 1)
        shares = [rows_of_rank(int(scored.sum()), rank, size) for rank in range(size)]
        counts = [int(scored[bounds[rank] : bounds[rank + 1]].sum()) for rank in range(size)]
        assert counts == [share.stop - share.start for share in shares]


def test_the_chunk_does_not_matter(tmp_path: Path) -> None:
    session = session_with_features(single_world(), str(tmp_path))
    bags = Bags(session.features, torch.device("cpu"))
    with seeded_torch(0, "test"):
        model = DSMIL(DIM)
    whole = predict_bag(model, bags, 0, bags.num_rows)
    for chunk in (1, 7, bags.num_rows - 1):
        torch.testing.assert_close(predict_bag(model, bags, 0, bags.num_rows, chunk), whole)


def test_a_slide_of_100_000_patches_is_scored_in_bounded_memory(tmp_path: Path) -> None:
    features = np.lib.format.open_memmap(tmp_path / file_of_rows(0, 100_000), "w+", np.float16, (100_000, 512))
    features[::1000] = 1
    del features
    write_index(tmp_path, np.array([0]), np.array([100_000]), [file_of_rows(0, 100_000)])
    (grown,) = on_new_process(grown_by_a_large_bag, str(tmp_path))
    # A chunk is 17 MB of features and as much of h; the slide's features alone are 205 MB, with h and q 460 MB. The 102 MB
    # of the file's own pages count as resident here, too.
    assert grown < 250e6


def grown_by_a_large_bag(world: World, folder: str) -> float:
    """Return by how many bytes the process's highest resident memory grows."""
    bags, model = Bags(Path(folder), torch.device("cpu")), DSMIL(512)
    predict_bag(model, bags, 0, 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predict_bag(model, bags, 0, bags.num_rows)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
