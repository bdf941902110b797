"""All baselines by name. They have one interface:

BASELINES[name].fit(train: Bags, validation: Bags, seed) -> Fitted
Fitted.slide_scores(bags) -> (B,) float32 in [0, 1]
Fitted.patch_scores(bags) -> by bag (n_i,) float32 logits, or None
Fitted.chosen             -> what the validation bags chose
"""

from collections.abc import Mapping

from hnm.baselines.bags import Baseline
from hnm.baselines.instances import Instances
from hnm.baselines.networks import Network
from hnm.baselines.pooled import Pooled

BASELINES: Mapping[str, Baseline] = {
    "mean": Pooled(with_std=False),
    "meanstd": Pooled(with_std=True),
    "instance": Instances(),
    "simlp": Network("simlp"),
    "abmil": Network("abmil_gated"),
    "dsmil": Network("dsmil"),
}
LINEAR = ("mean", "meanstd", "instance")  # fitted in seconds: every run is told beside them
