"""How good an encoder in training is on the validation slides: on some patches of each, the same ones at every look."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hnm.aggregator.aggregators import Aggregator
from hnm.aggregator.dsmil import Packed, pack_rows
from hnm.encoder.augment import to_float
from hnm.encoder.contrastive_model import split_batch
from hnm.encoder.finetune import FinetuneConfig
from hnm.encoder.resnet import at_least_float32
from hnm.encoder.slide_plan import plan_slide_steps
from hnm.engine.engine import for_inference
from hnm.engine.pair import PairedEngine
from hnm.engine.ranks import broadcast_array, gather_rows
from hnm.engine.step import Progress
from hnm.run.session import Session
from shards.reading.plan import ids_of_rank


class SlideValidation:
    """Looks at the validation slides with copies of the networks, so that any engine may hold those in training.

    Args:
        encoder: as it is before it is wrapped.
        aggregator: on the world's device.
    """

    def __init__(self, encoder: nn.Module, aggregator: Aggregator, config: FinetuneConfig, session: Session) -> None:
        self.encoder, self.aggregator = copy.deepcopy(encoder), copy.deepcopy(aggregator).eval()
        self.session, self.slide, self.chunk_size = session, config.slide, config.chunk_size
        slides, per_step = session.study.validation, config.slide.slides_per_step
        groups = [slides[i : i + per_step] for i in range(0, len(slides), per_step)]
        bounds, num_patches = session.study.cohort.patch_bounds, config.slide.patches_per_slide
        self.steps = plan_slide_steps(groups, bounds, None, num_patches, session.seed, "validation")

    def average(self, progress: Progress, engine: PairedEngine) -> None:
        """Bring the moving average of the encoder's weights up to date, after a step. Every rank must call it."""
        decay = self.slide.ema
        if not decay:
            return
        weights = engine.full_weights()
        if not progress.average:
            progress.average = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
            return
        for name, tensor in weights.items():
            old, new = progress.average[name], tensor.detach().cpu()
            progress.average[name] = old.lerp(new, 1 - decay) if old.is_floating_point() else new.clone()

    def weights(self, progress: Progress, engine: PairedEngine) -> dict[str, Tensor]:
        """Return the weights to be looked at and kept: the moving average, where there is one."""
        return progress.average or engine.full_weights()

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor], engine: PairedEngine) -> float:
        """Return the mean binary cross-entropy of the validation slides. Every rank must call it.

        All get rank 0's: sums on GPUs may differ in the last bit, and ranks that disagree on the best epoch would part.
        """
        world, study = self.session.world, self.session.study
        own = {name.removeprefix("encoder."): tensor for name, tensor in weights.items() if name.startswith("encoder.")}
        self.encoder.load_state_dict(own)
        self.aggregator.load_state_dict(engine.head.full_weights())
        forward = for_inference(self.encoder, self.session.engine, world)
        batches = self.session.reader.batches([ids_of_rank(step.row, world.rank, world.size) for step in self.steps])
        logits = []
        for step, (_, images) in zip(self.steps, batches, strict=True):
            parts = images.split(self.chunk_size or max(len(images), 1))
            features = [at_least_float32(forward(to_float(part.to(world.device)))) for part in parts if len(part)]
            mine = torch.cat(features) if features else torch.empty(0, self._dim(), device=world.device)
            everyone = gather_rows(mine, split_batch(step.row, world), world)
            logits.append(self._bag_logits(pack_rows(step.sizes, everyone)))
        targets = torch.from_numpy(study.labels[study.validation].astype(np.float32))
        loss = functional.binary_cross_entropy_with_logits(torch.cat(logits).float().cpu(), targets)
        return float(broadcast_array(loss.double().numpy()[None] if world.is_main else None, world)[0])

    def _dim(self) -> int:
        return int(self.encoder.feature_dim)  # type: ignore[arg-type]

    def _bag_logits(self, bags: Packed) -> Tensor:
        said = self.aggregator(bags)
        members = said if isinstance(said, list) else [said]
        return torch.stack([one.bag_logits for one in members]).mean(0)
