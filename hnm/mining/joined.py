"""Several targets, one encoder: what each target's mining decided, put together for the fine-tuning.

    targets/KEY/round-000/{pseudo_labels, weights, negatives, candidates}.npy, one target at a time on rank 0
        ──▶ round-000/weights.npy (N,) float16, the largest weight that a patch has as somebody's negative
        ──▶ round-000/mining.json, the targets' summaries and their mean validation figures

A patch may be a hard negative of one target, a candidate of another and nothing to a third: in the loss it has a code for
each, and a batch serves the targets that it can anchor. An epoch passes over as many negatives as the target with the most
has, drawn by the joined weights: T targets on the same slides take the steps of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnm.engine.ranks import World, map_array
from hnm.mining.coordinator import load_mined, share_mined
from hnm.mining.mining import ROWS_AT_ONCE, Mined
from hnm.mining.ranking import Ties
from hnm.run.targets import Targets
from shards.files import write_array, write_json
from shards.reading.plan import weighted_sample

WEIGHTS = "weights.npy"


@dataclass(frozen=True)
class JoinedMined:
    """What one round of mining decided for all targets; stands where `Mined` does in the fine-tuning.

    Attributes:
        of_target: what each target's mining decided, mapped.
        slide_labels: (targets, S) int8: 1, 0, or -1.
        weights: (N,) float16, a patch's largest weight as a negative of a target; 0: of none.
        num_negatives: an epoch draws as many.
    """

    of_target: tuple[Mined, ...]
    slide_labels: np.ndarray
    weights: np.ndarray
    num_negatives: int

    @property
    def num_patches(self) -> int:
        """Patches of the cohort."""
        return len(self.weights)

    def draw_negatives(self, generator: np.random.Generator) -> np.ndarray:
        """Return the negatives that an epoch passes over, increasing int64 ids."""
        return weighted_sample(self.weights, self.num_negatives, generator)

    def draw_candidates(self, num: int, generator: np.random.Generator) -> np.ndarray:
        """Return about `num` of the candidates, evenly over the targets as far as each has as many; increasing ids."""
        return even_draw([mined.candidates for mined in self.of_target], num, generator)

    def draw_self_paced(self, ratio: float, ties: Ties, num: int, generator: np.random.Generator) -> np.ndarray:
        """Return about `num` of the best `ratio` of each target's candidates, as `draw_candidates` does."""
        return even_draw([mined.self_paced(ratio, ties) for mined in self.of_target], num, generator)

    def codes(self, ids: np.ndarray, slides: np.ndarray) -> np.ndarray:
        """Return what patches are to each target, (n, targets) int8: pseudo label 1 or 0, or -1: nothing.

        Nothing are those of slides without a label, and uncertain ones (positive slide, pseudo label 0) that have not joined
        the negatives: another target has brought them into the batch, and of the target's own they would not be drawn.

        Args:
            ids: (n,) patch ids.
            slides: (n,) their slides.
        """
        codes = np.stack([mined.pseudo_labels[ids] for mined in self.of_target], axis=1).astype(np.int8)
        is_drawn = np.stack([mined.weights[ids] > 0 for mined in self.of_target], axis=1)
        codes[(codes == 0) & (self.slide_labels[:, slides].T == 1) & ~is_drawn] = -1
        return codes


def even_draw(pools: Sequence[np.ndarray], num: int, generator: np.random.Generator) -> np.ndarray:
    """Return the union of equally many ids of each pool, drawn without replacement, all of a pool that has fewer.

    A rare target has few candidates, and would hardly be seen among the many of a frequent one.
    """
    share = -(-num // len(pools))
    return np.unique(np.concatenate([generator.choice(pool, min(share, len(pool)), replace=False) for pool in pools]))


def join_weights(weights: np.ndarray, mined: Mined) -> None:
    """Raise weights (N,) in place to those of the patches that are a target's negatives, in pieces."""
    for start in range(0, len(weights), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        its = np.where(mined.pseudo_labels[part] == 0, mined.weights[part], 0)
        np.maximum(weights[part], its, out=weights[part], casting="unsafe")


def join_round(
    folder: Path, decisions: Mapping[str, dict[str, Any]], mined_of: Sequence[Path], num_patches: int
) -> dict[str, Any]:
    """Write the joined weights and, last, the round's mining.json, which is also returned. On rank 0 only.

    Args:
        folder: the round's.
        decisions: by target's name its mining.json.
        mined_of: the targets' folders of that round.
        num_patches: of the cohort.
    """
    weights = np.zeros(num_patches, np.float16)
    for its in mined_of:
        join_weights(weights, load_mined(its))
    write_array(folder / WEIGHTS, weights)
    summary = {
        "validation": mean_figures([decision["validation"] for decision in decisions.values()]),
        "num_hard_negatives": max(decision["num_hard_negatives"] for decision in decisions.values()),
        "num_drawable_negatives": int(np.count_nonzero(weights)),
        "num_candidates": sum(decision["num_candidates"] for decision in decisions.values()),
        "broken_patches": next(iter(decisions.values()))["broken_patches"],
        "targets": dict(decisions),
    }
    write_json(folder / "mining.json", summary)
    return summary


def mean_figures(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the means over targets of what is a mean of targets: AUC, loss, F1; a threshold is not."""
    names = [name for name in ("auc", "auprc", "f1", "loss") if name in figures[0]]
    return {name: float(np.mean([its[name] for its in figures])) for name in names}


def share_joined(folder: Path, mined_of: Sequence[Path], targets: Targets, world: World) -> JoinedMined:
    """Return a round's decisions on every rank, which maps the files that rank 0 wrote. Every rank must call it.

    Raises:
        InputError: see `share_mined`.
    """
    of_target = tuple(share_mined(its, world) for its in mined_of)
    path = folder / WEIGHTS
    weights = map_array(path, np.load(path, mmap_mode="r") if world.is_main else None, world)
    most = max(len(mined.negatives) for mined in of_target)
    return JoinedMined(of_target, targets.labels, weights, most)
