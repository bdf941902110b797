"""Fine-tune the encoder on the slides' labels: encoder and aggregator together, a few slides and many patches of each a step.

    patches of the step's slides, shared over the ranks ──encoder, in chunks──▶ features ──gather──▶ the bags of all ranks
        ──aggregator──▶ its own loss, the same on each rank ──▶ gradient of the features ──▶ each rank replays its patches

With objective `both` each step takes a supervised contrastive batch (hnm/encoder/finetune.py) along, and the two gradients
are added. The aggregator begins as the round's own and is dropped afterwards: the next round trains one on all patches. The
epoch of the lowest validation loss is kept. Two separate graphs, joined by the features' gradient, as in TAPFM (Kumar et
al., arXiv 2506.05184); here the patches of a step may lie on any number of ranks.
"""

import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hnm.aggregator.aggregate import AggregateConfig, pair_losses, pair_slides
from hnm.aggregator.aggregate import make_optimizer as make_aggregator_optimizer
from hnm.aggregator.aggregators import Aggregator
from hnm.aggregator.dsmil import pack_rows
from hnm.encoder.batch_norm import refuse_chunks, use_global_batch_norm
from hnm.encoder.contrastive_model import ContrastiveModel, draw_views, forward_backward, split_batch
from hnm.encoder.finetune import FinetuneConfig, Step, learning_rate, make_optimizer, plan_steps, supcon_of_step
from hnm.encoder.grad_cache import count_chunks, outputs_of_chunks, replay
from hnm.encoder.parts import at_warmed_rate, optimizer_of, warmed_up
from hnm.encoder.resnet import at_least_float32
from hnm.encoder.slide_plan import SlideStep, plan_slide_steps
from hnm.encoder.slide_validation import SlideValidation
from hnm.encoder.step_curve import StepCurve
from hnm.engine.engines import wrap
from hnm.engine.pair import PairedEngine
from hnm.engine.ranks import gather_rows
from hnm.engine.step import Computed, Progress
from hnm.mining.mining import Mined, MiningConfig
from hnm.run.budget import IsOver, never
from hnm.run.session import PatchBatch, Session, train_epoch
from shards.reading.plan import ids_of_rank
from shards.seeding import numpy_generator, torch_generator


class RoundSettings(NamedTuple):
    """The sections that a round of fine-tuning on slide labels looks at, and the rounds of the run, for its schedules."""

    finetune: FinetuneConfig
    mining: MiningConfig
    aggregate: AggregateConfig
    num_rounds: int


def finetune_on_slides(
    model: ContrastiveModel,
    aggregator: Aggregator,
    mined: Mined,
    settings: RoundSettings,
    round_: int,
    session: Session,
    steps_before: int = 0,
    is_over: IsOver = never,
) -> tuple[dict[str, Tensor], int]:
    """Fine-tune `model` for one round with objective `slide` or `both`. Every rank must call it.

    Args:
        model: encoder and head, after `choose_parts`; not to be used afterwards (ZeRO 3 cuts it up).
        aggregator: the round's own; a copy of it is trained along.
        mined: the round's decision, the same on all ranks.
        round_: 0-based round; the epochs of the run go on from round to round.
        steps_before: optimizer steps of earlier rounds, for the step axis of what is told.
        is_over: asked on every rank after each epoch whether this fine-tuning ends there.

    Returns:
        The weights of the epoch with the lowest validation loss, the same on all ranks, and the optimizer steps taken.

    Raises:
        FloatingPointError: loss or gradient is not finite on some rank; no rank takes that step.
    """
    training = SlideTraining(model, aggregator, mined, settings, session, round_)
    return training.train(steps_before, is_over)


class FeaturesAndProjection(ContrastiveModel):
    """Images (n, 3, h, w) to (n, d) features and, with a head, (n, d + projection_dim): the unit-length projection behind."""

    def __init__(self, model: ContrastiveModel, project: bool) -> None:
        nn.Module.__init__(self)  # its parts are the other model's
        self.fixed_norms, self.encoder = model.fixed_norms, model.encoder
        self.projection = model.projection if project else None  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features if self.projection is None else torch.cat([features, self.projection(features)], dim=1)


class JointStep(NamedTuple):
    """One optimizer step: its slides, and its contrastive batch where there is one."""

    slides: SlideStep
    contrast: Step | None

    @property
    def row(self) -> np.ndarray:
        """The patch ids of all ranks, -1 padded."""
        return self.slides.row if self.contrast is None else np.concatenate([self.slides.row, self.contrast.row])

    def ids_of_rank(self, rank: int, size: int) -> np.ndarray:
        """Return a rank's patch ids: its share of the slides' patches, then its share of the contrastive batch."""
        parts = [self.slides.row] if self.contrast is None else [self.slides.row, self.contrast.row]
        return np.concatenate([ids_of_rank(part, rank, size) for part in parts])


class SlideTraining:
    """One round of it. Every rank must make the same calls.

    Args:
        model: encoder and head; not to be used afterwards.
        aggregator: the round's own, on the world's device; a copy is trained.
        mined: the round's decision.
        round_: 0-based round.
    """

    def __init__(
        self,
        model: ContrastiveModel,
        aggregator: Aggregator,
        mined: Mined,
        settings: RoundSettings,
        session: Session,
        round_: int,
    ) -> None:
        world, config = session.world, settings.finetune
        refuse_chunks(model, config.chunk_size, "finetune.chunk_size", model.fixed_norms)
        self.mined, self.config, self.session, self.round = mined, config, session, round_
        self.mining, self.aggregate = settings.mining, settings.aggregate
        self.dim = model.encoder.feature_dim
        self.first = round_ * config.epochs_per_round
        self.num_epochs = settings.num_rounds * config.epochs_per_round
        self.untrained = {} if config.objective == "both" else model.projection.state_dict(prefix="projection.")
        self.validation = SlideValidation(model.encoder, aggregator, config, session)
        model.to(world.device)
        model.encoder = use_global_batch_norm(model.encoder, world.size)  # type: ignore[assignment]
        module = FeaturesAndProjection(model, project=config.objective == "both")
        # Bags differ in size, and the aggregator is small: as in aggregate.py it is neither compiled nor in bf16.
        plain = session.engine.model_copy(update={"compile": False, "precision": "fp32", "channels_last": False})
        of_aggregator = settings.aggregate.model_copy(update={"lr": config.slide.aggregator_lr})
        self.engine = PairedEngine(
            wrap(module, optimizer_of(model, config, partial(make_optimizer, config)), session.engine, world),
            wrap(copy.deepcopy(aggregator), partial(make_aggregator_optimizer, of_aggregator), plain, world),
            head_rate=config.slide.aggregator_lr / config.lr,
        )
        labels = session.study.labels
        self.positives, self.negatives = (session.study.train[labels[session.study.train] == one] for one in (1, 0))

    def train(self, steps_before: int, is_over: IsOver = never) -> tuple[dict[str, Tensor], int]:
        """See `finetune_on_slides`."""
        config, session, engine = self.config, self.session, self.engine
        if config.slide.patches == "weighted" and (num_plain := self._count_unweighted()):
            session.journal.say(
                f"round {self.round}: {num_plain} of {len(session.study.train)} training slides have no patch with a "
                "sampling weight: theirs are drawn at random"
            )
        progress = session.resume(engine, Progress("finetune", self.round, self.first))
        last = self.first + config.epochs_per_round
        for epoch in range(progress.epoch, last):
            if self._is_stuck(progress):
                break
            rate = learning_rate(epoch, self.num_epochs, config)
            engine.set_rate(rate)
            steps = self.plan(epoch)
            rank, size = session.world.rank, session.world.size
            mine = [step.ids_of_rank(rank, size) for step in steps[progress.step :]]
            label = f"round {self.round}: fine-tune epoch {epoch + 1}/{self.num_epochs}"
            batches = session.journal.progress(
                session.reader.batches(mine), label, len(steps), progress.step, last - epoch - 1
            )
            rows, done = [step.row for step in steps], progress.step
            curve = StepCurve(
                session.journal, "step_{kind}_loss", rows, config.epochs_per_round, self._rate_of, done, steps_before
            )

            def tell(progress: Progress, kind: str, loss: float, curve: StepCurve = curve) -> None:
                self.validation.average(progress, engine)
                curve.step_taken(progress, kind, loss)

            compute = at_warmed_rate(engine, rate, progress, config, partial(self.compute, epoch, steps))
            train_epoch(engine, batches, compute, progress, session, tell)
            self._end_epoch(progress)
            if is_over(progress):
                break
        return {**self.untrained, **progress.best}, progress.num_steps

    def plan(self, epoch: int) -> list[JointStep]:
        """Return the steps of one epoch, the same on all ranks.

        Slides are paired until the shorter list ends; with a contrastive loss its epoch is what counts, and lists are paired
        anew until they fill it.
        """
        config, seed = self.config, self.session.seed
        contrast: list[Step | None] = []
        if config.objective == "both":
            contrast = list(plan_steps(self.mined, epoch, self.num_epochs, config, self.mining, seed))
        slides: list[np.ndarray] = []
        while not slides or len(slides) < len(contrast):
            generator = numpy_generator(seed, "slide pairs", epoch, len(slides))
            pairs = pair_slides(self.positives, self.negatives, config.slide.slides_per_step // 2, generator)
            slides += [pair.T.ravel() for pair in pairs]  # positives first
        slides = slides[: len(contrast)] if contrast else slides
        weights = self.mined.weights if config.slide.patches == "weighted" else None
        bounds, num_patches = self.session.study.cohort.patch_bounds, config.slide.patches_per_slide
        drawn = plan_slide_steps(slides, bounds, weights, num_patches, seed, "train", epoch)
        return [JointStep(one, other) for one, other in zip(drawn, contrast or [None] * len(drawn), strict=True)]

    def compute(self, epoch: int, steps: list[JointStep], number: int, batch: PatchBatch) -> tuple[str, Computed]:
        """Do forward and backward of step `number` of an epoch. Every rank must call it."""
        step, (ids, images), world = steps[number], batch, self.session.world
        num_local = split_batch(step.slides.row, world)[world.rank]
        computed = self._slide_step(step.slides, epoch, number, ids[:num_local], images[:num_local], step.contrast is None)
        if step.contrast is None:
            return "slide", computed
        other = self._contrast_step(step.contrast, epoch, number, ids[num_local:], images[num_local:])
        outputs = torch.cat([part.outputs.flatten(1).sum(1) for part in (computed, other)])  # finite where all are
        return "joint", Computed(computed.loss + other.loss, outputs, ids)

    def _slide_step(
        self, step: SlideStep, epoch: int, number: int, ids: np.ndarray, images: Tensor, is_last: bool
    ) -> Computed:
        """Add the gradients of the slide loss; `is_last`: no other backward pass of the encoder follows in this step."""
        config, world, engine = self.config, self.session.world, self.engine
        sizes = split_batch(step.row, world)
        generator = torch_generator(self.session.seed, "slide views", epoch, number)
        views = draw_views(images, sizes, config.augment, generator, world, num_views=1)
        num_chunks, seed = count_chunks(sizes, config.chunk_size), torch.initial_seed()
        outputs = engine.model(views) if num_chunks == 1 else outputs_of_chunks(engine, views, num_chunks, seed)
        features = at_least_float32(outputs.detach()[:, : self.dim]).clone().requires_grad_()
        bags = pack_rows(step.sizes, gather_rows(features, sizes, world))
        losses = pair_losses(engine.head.model, bags, len(self.negatives) / len(self.positives), self.aggregate)
        loss = losses.mean()
        engine.head.backward(loss)
        assert features.grad is not None
        gradient = torch.zeros_like(outputs)
        gradient[:, : self.dim] = features.grad
        self._send_back(views, outputs, gradient, num_chunks, seed, is_last)
        return Computed(loss.detach(), features.detach(), ids)

    def _send_back(
        self, views: Tensor, outputs: Tensor, gradient: Tensor, num_chunks: int, seed: int, is_last: bool
    ) -> None:
        if num_chunks == 1 and is_last:
            self.engine.backward((outputs * gradient).sum())
        elif num_chunks == 1:
            with self.engine.accumulate():
                self.engine.backward((outputs * gradient).sum())
        else:
            replay(self.engine, views, num_chunks, gradient, seed, is_last)

    def _contrast_step(self, step: Step, epoch: int, number: int, ids: np.ndarray, images: Tensor) -> Computed:
        """Add the gradients of the weighted contrastive loss; the projections are the last columns of what the model says."""
        config, session = self.config, self.session
        loss_of, sizes, views = supcon_of_step(step, ids, images, self.mined, config, self.mining, session, epoch, number)
        return forward_backward(
            self.engine,
            views,
            ids,
            sizes,
            config.chunk_size,
            lambda outputs: config.slide.supcon_weight * loss_of(outputs[..., self.dim :]),
        )

    def _end_epoch(self, progress: Progress) -> None:
        """Tell the epoch's losses and look at the validation slides: the best epoch's weights are kept."""
        epoch = progress.epoch
        losses = {f"{kind}_loss": loss for kind, loss in progress.end_epoch().items()}
        weights = self.validation.weights(progress, self.engine)
        loss = self.validation.loss(weights, self.engine)
        self.session.journal.metrics("finetune", epoch, **losses, validation_loss=loss)
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch
            progress.best = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def _count_unweighted(self) -> int:
        bounds, weights = self.session.study.cohort.patch_bounds, self.mined.weights
        return sum(not weights[bounds[slide] : bounds[slide + 1]].any() for slide in self.session.study.train)

    def _is_stuck(self, progress: Progress) -> bool:
        patience = self.config.slide.patience
        stuck = bool(patience and progress.best_epoch is not None and progress.epoch - progress.best_epoch > patience)
        if stuck:
            self.session.journal.say(
                f"round {self.round}: no lower validation loss for {patience} epochs: fine-tuning stops after epoch "
                f"{progress.epoch}; epoch {(progress.best_epoch or 0) + 1} is kept"
            )
        return stuck

    def _rate_of(self, taken: Progress) -> float:
        return warmed_up(learning_rate(taken.epoch, self.num_epochs, self.config), taken.num_steps - 1, self.config)
