"""The context control: which slides it is of, and that positive patches play no part in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags
from hnm.aggregator.score import slide_logits
from hnm.engine.ranks import single_world
from hnm.evidence.context import RowsThatStay, context_part, control_of
from shards.seeding import seeded_torch
from tests.hnm.worlds import SessionWithFeatures, session_with_features


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionWithFeatures:
    """Its validation slides play the test slides: they have features."""
    made = session_with_features(single_world(), str(tmp_path_factory.mktemp("context")))
    return replace(made, study=replace(made.study, test=made.study.validation))


def test_positive_patches_play_no_part(session: SessionWithFeatures) -> None:
    study = session.study
    control = control_of(study)
    assert control is not None
    assert control.slides.tolist() == study.test.tolist()
    bags = Bags(session.features, torch.device("cpu"), study.test)
    stay = RowsThatStay(bags, study, control)
    with seeded_torch(0, "context"):
        model = build_aggregator("dsmil", bags.dim)
    logits = slide_logits(model, stay, control.slides, session.world)  # type: ignore[arg-type]
    for place, slide in enumerate(control.slides.tolist()):
        ids = study.patches_of(np.array([slide]))
        alone = bags.bag(slide)[torch.from_numpy(study.cohort.patches.truth[ids] != 1)]
        torch.testing.assert_close(stay.rows(*stay.rows_of_slide[slide]), alone)
        assert logits[1, place] == model.score(alone).max()
    part = context_part(model, bags, np.linspace(0, 1, len(study.test)), study, session.world)
    assert part is not None
    assert part["num_slides"] == len(study.test)


def test_slides_of_unknown_truth_or_of_positive_patches_only_are_left_out_and_counted(session: SessionWithFeatures) -> None:
    study = replace(session.study, test=session.study.embedded_slides)
    truth = study.cohort.patches.truth.copy()
    positive = [slide for slide in study.test.tolist() if study.labels[slide] == 1]
    bounds = study.cohort.patch_bounds
    truth[bounds[positive[0]]] = -1
    truth[bounds[positive[1]] : bounds[positive[1] + 1]] = 1
    told = replace(study, cohort=replace(study.cohort, patches=replace(study.cohort.patches, truth=truth)))
    control = control_of(told)
    assert control is not None
    assert (control.num_unknown, control.num_nothing_left) == (1, 1)
    assert not set(positive[:2]) & set(control.slides.tolist())
    nothing_known = replace(study.cohort.patches, truth=np.full_like(truth, -1))
    assert control_of(replace(study, cohort=replace(study.cohort, patches=nothing_known))) is None
