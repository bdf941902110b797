"""Device discipline without a GPU: every phase's step on a device that computes nothing, and knows where each tensor is.

The device is torch's meta. By itself it lets some mixtures pass (a product of a meta and a CPU matrix is one), so that a dispatch
mode looks at the arguments of every operation. Real devices are compared by the tests marked gpu.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_steps import (
    ENCODER,
    KINDS,
    aggregate_step,
    draw_cohort,
    finetune_step,
    pretrain_step,
    session_on,
    single,
)
from hnm.aggregator import aggregate
from hnm.aggregator.aggregators import build_aggregator
from hnm.aggregator.bags import Bags, features_complete
from hnm.aggregator.score import score_slides
from hnm.encoder import augment
from hnm.encoder.contrastive_model import fresh_model
from hnm.encoder.embed import embed
from hnm.engine.step import take_step

META = torch.device("meta")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Idle(TorchDispatchMode):
    """Makes meta a device that answers 0 or yes to every question, and refuses tensors of several devices, as CUDA does."""

    num_operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do one operation."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # there operations come whole that elsewhere come in their parts
            with self:
                if (done := function.decompose(*args, **kwargs)) is not NotImplemented:
                    return done
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_meta = any(tensor.is_meta for tensor in tensors)
        self.num_operations += is_meta
        if function is torch.ops.aten._local_scalar_dense.default and is_meta:
            return True if args[0].dtype == torch.bool else torch.zeros((), dtype=args[0].dtype).item()
        if function is COPIES[0] and is_meta and torch.device(kwargs.get("device") or META).type == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if function is COPIES[1] and is_meta and not args[0].is_meta:
            return args[0].zero_()
        if function is torch.ops.aten.index.Tensor:
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool and index.is_meta]
            if masks:  # how many are true only a real device knows: one
                return args[0].new_empty((1, *args[0].shape[masks[0].dim() :]))
            tensors = tensors[:1]  # its indices may be anywhere
        if is_meta and function not in COPIES:
            strangers = [tensor for tensor in tensors if not tensor.is_meta and tensor.dim()]
            if strangers:
                raise RuntimeError(f"{function}: a tensor {tuple(strangers[0].shape)} is left on the CPU")
        return function(*args, **kwargs)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_cohort(tmp_path_factory.mktemp("drawn"), 16, 4)


@pytest.fixture(autouse=True)
def what_meta_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast knows no meta device, nor has it the fused Adam."""
    monkeypatch.setattr(augment.torch, "autocast", lambda *_, **__: nullcontext())
    plain = lambda config, parameters: torch.optim.Adam(parameters, lr=config.lr)  # noqa: E731
    monkeypatch.setattr(aggregate, "make_optimizer", plain)


def test_a_tensor_left_on_the_cpu_is_seen() -> None:
    with Idle():
        for operation in (torch.add, torch.matmul, torch.minimum):
            with pytest.raises(RuntimeError, match="left on the CPU"):
                operation(torch.ones(3, 3, device=META), torch.ones(3, 3))
        assert float((torch.ones(3, device=META) * torch.tensor(2.0)).sum()) == 0.0  # a number may come from anywhere
        assert torch.ones(3, device=META).cpu().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("take", [pretrain_step, partial(finetune_step, number=0), partial(finetune_step, number=1)])
def test_steps_of_the_encoder(take: Any, cohort: Path) -> None:
    with Idle() as device, session_on(cohort, single(META)) as session:
        engine, computed = take(session)
        assert computed.loss.is_meta
        assert take_step(engine, computed, "a step", 1.0, session.world) == 0.0
    assert device.num_operations > 500


def test_embedding_and_every_aggregators_step_and_scores(cohort: Path, tmp_path: Path) -> None:
    with Idle() as device, session_on(cohort, single(META)) as session:
        slides = session.study.embedded_slides
        embed(fresh_model(ENCODER, 0).encoder, slides, 16, tmp_path, session)
        assert features_complete(tmp_path)
        bags = Bags(tmp_path, META)
        for kind in KINDS:
            before = device.num_operations
            engine, computed = aggregate_step(session, bags, kind)
            assert take_step(engine, computed, "a step", None, session.world) == 0.0
            model = build_aggregator(kind, bags.dim, 2).to(META)
            _, part = score_slides(model, bags, slides, session)
            assert len(part.scores) == session.study.cohort.num_patches
            assert device.num_operations > before + 100, kind


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_what_must_hold_on_a_gpu(name: str, cohort: Path) -> None:
    assert CHECKS[name](cohort, torch.device("cuda", 0))
