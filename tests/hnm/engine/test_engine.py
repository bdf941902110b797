"""The contract of every engine, on two real gloo ranks: the same training, and a checkpoint that goes on alike."""

import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hnm.config import ConfigError, check_config
from hnm.encoder.contrastive_model import start_training
from hnm.encoder.losses import PairMode, nt_xent, supcon
from hnm.encoder.resnet import ProjectionHead
from hnm.engine.deepspeed_config import KNOWN_OF_ZERO
from hnm.engine.engine import Engine, EngineConfig, for_inference
from hnm.engine.engines import wrap
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.state import OPTIMIZER_FILE, WEIGHTS_FILE
from hnm.engine.step import Computed, take_step
from shards.errors import InputError
from shards.seeding import seeded_torch
from tests.ranks import on_ranks

SIZES = [5, 4]  # patches of each rank
# Below its threshold of 100,000 numbers ZeRO 3 keeps parameters whole: here all are to be cut up.
ZERO3 = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
FP32 = {
    "ddp": EngineConfig(),
    **{f"zero{stage}": EngineConfig(deepspeed=f"zero{stage}") for stage in range(3)},  # type: ignore[arg-type]
    "zero3": EngineConfig(deepspeed=ZERO3),
}
BF16 = {f"{name} bf16": config.model_copy(update={"precision": "bf16"}) for name, config in FP32.items()}
ENGINES = {**FP32, **BF16}


class SmallModel(nn.Module):
    """A contrastive model with all that an engine may meet: convolution, batch norm with buffers, linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.encoder: nn.Module = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
        self.projection = ProjectionHead(64 * width, 16)

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.projection(self.encoder(images))
        return projections


def model_of(seed: int, width: int = 3) -> Any:
    with seeded_torch(seed, "engine test"):
        return SmallModel(width)


PARAMETERS = [name for name, _ in model_of(0).named_parameters()]


def images_of(step: int, world: World) -> Tensor:
    """Return this rank's two views of the step's patches, (2 * local, 3, 16, 16)."""
    views = torch.rand(2, sum(SIZES), 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return views.split(SIZES, dim=1)[world.rank].flatten(0, 1)


def step_of(engine: Engine, step: int, world: World, rate: float = 1e-3, clip_norm: float | None = None) -> float:
    """Take a step as pretraining (even) or one of fine-tuning's two steps (odd) does it; return the loss."""
    features = torch.stack(engine.model(images_of(step, world)).chunk(2), dim=1)
    sizes = SIZES[: world.size]
    ids = torch.arange(sizes[world.rank])
    if step % 2:
        pairs: PairMode = "negative" if step % 4 == 1 else "positive"
        loss = supcon(features, ids % 2 == 0, ids % 2 == 0, sizes, 0.5, pairs, world)
    else:
        loss = nt_xent(features, sizes, 0.5, world)
    engine.set_rate(rate)
    engine.backward(loss)
    return take_step(engine, Computed(loss, features, ids.numpy()), f"step {step}", clip_norm, world)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1.0, weight_decay=1e-2)


def engine_of(name: str, world: World, seed: int = 0) -> Engine:
    return start_training(model_of(seed), adam, ENGINES[name], world)


def whole(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in engine.full_weights().items()}


def contract(world: World, folder: str) -> dict[str, Any]:
    """Train with each engine, stop, load into a new one, and go on with both."""
    results: dict[str, Any] = {}
    for name in ENGINES:
        place, num_steps = Path(folder) / name, 20 if name in FP32 else 6
        engine = engine_of(name, world)
        losses = [step_of(engine, step, world) for step in range(num_steps)]
        engine.save(place)
        barrier(world)
        again = engine_of(name, world, seed=1)
        again.load(place)
        result = {"losses": losses, "weights": whole(engine), "loaded": whole(again)}
        result["next"] = [[step_of(e, num_steps + i, world) for i in range(2)] for e in (engine, again)]
        result["after"] = [whole(engine), whole(again)]
        results[name] = result
    results["elsewhere"] = loaded_elsewhere(world, Path(folder))
    results["clipped"] = {name: clipped(name, world) for name in FP32}
    results["stopped"] = {name: stopped(name, world) for name in FP32}
    return results


def loaded_elsewhere(world: World, folder: Path) -> dict[str, list[float]]:
    """Load the checkpoint of one engine with another; return the next losses."""
    ways = {"zero3 to ddp": ("zero3", "ddp"), "ddp to zero2": ("ddp", "zero2")}
    losses = {}
    for way, (first, second) in ways.items():
        engine = engine_of(second, world, seed=1)
        engine.load(folder / first)
        losses[way] = [step_of(engine, 20 + i, world) for i in range(2)]
    return losses


def clipped(name: str, world: World) -> float:
    """Return how far a step of rate 1 moves the parameters, all together, when gradients are clipped to 1e-3."""
    before = dict(model_of(0).named_parameters())
    engine = start_training(model_of(0), lambda p: torch.optim.SGD(p, lr=1.0), ENGINES[name], world)
    step_of(engine, 0, world, rate=1.0, clip_norm=1e-3)
    after = engine.full_weights()
    return float(torch.stack([(after[key] - before[key]).norm() for key in before]).norm())


def stopped(name: str, world: World) -> tuple[str, bool]:
    """Let the last rank's loss be finite but its gradient not; return the message, and whether the weights stayed."""
    engine = engine_of(name, world)
    before = {name: tensor for name, tensor in whole(engine).items() if name in PARAMETERS}
    features = torch.stack(engine.model(images_of(0, world)).chunk(2), dim=1)
    loss = nt_xent(features, SIZES, 0.5, world)
    if world.rank == world.size - 1:
        loss = loss + torch.sqrt(features.sum() * 0.0)  # 0, with the gradient 0 / 0
    engine.set_rate(1e-3)
    engine.backward(loss)
    try:
        take_step(engine, Computed(loss, features, 100 + torch.arange(len(features)).numpy()), "step 7", None, world)
    except FloatingPointError as error:
        after = whole(engine)
        return str(error), all(torch.equal(after[key], tensor) for key, tensor in before.items())
    return "", False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def trained(place: Path) -> list[dict[str, Any]]:
    """What `contract` returned on each of two ranks."""
    return on_ranks(2, contract, str(place))


@pytest.mark.parametrize("name", FP32)
def test_fp32_follows_ddp(trained: list[dict[str, Any]], name: str) -> None:
    start = model_of(0).state_dict()
    for result in trained:
        ours, ddp = result[name], result["ddp"]
        assert ours["losses"][0] == ddp["losses"][0]
        assert ours["weights"].keys() == start.keys()
        assert max(float((ours["weights"][key] - start[key]).abs().max()) for key in start) > 1e-2
        for key, tensor in ddp["weights"].items():  # 20 steps of Adam; 0.0 was seen for all stages
            torch.testing.assert_close(ours["weights"][key], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", BF16)
def test_bf16_trains_beside_fp32_and_keeps_fp32_weights(trained: list[dict[str, Any]], name: str) -> None:
    for result in trained:
        losses, expected = result[name]["losses"], result["ddp"]["losses"]
        assert losses[0] == pytest.approx(expected[0], abs=1e-2)
        assert losses[0] != expected[0]
        assert losses == pytest.approx(expected[: len(losses)], rel=2e-2)
        assert all(tensor.dtype != torch.bfloat16 for tensor in result[name]["weights"].values())


@pytest.mark.parametrize("name", ENGINES)
def test_a_loaded_checkpoint_goes_on_to_the_same_bits(trained: list[dict[str, Any]], name: str) -> None:
    for result in trained:
        weights, loaded, (after, after_loading) = (result[name][key] for key in ("weights", "loaded", "after"))
        assert all(torch.equal(loaded[key], tensor) for key, tensor in weights.items())
        losses, losses_after_loading = result[name]["next"]
        assert losses == losses_after_loading
        assert all(torch.equal(after_loading[key], tensor) for key, tensor in after.items())


def test_an_engine_goes_on_with_another_ones_checkpoint(trained: list[dict[str, Any]]) -> None:
    for result in trained:
        for losses in result["elsewhere"].values():
            assert losses == pytest.approx(result["ddp"]["next"][0], abs=1e-6)


def test_a_checkpoint_of_two_ranks_is_read_by_one(trained: list[dict[str, Any]], place: Path) -> None:
    engine = engine_of("ddp", single_world())
    engine.load(place / "zero3")
    weights = trained[0]["zero3"]["weights"]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in engine.full_weights().items())


@pytest.mark.parametrize("name", FP32)
def test_long_gradients_are_clipped(trained: list[dict[str, Any]], name: str) -> None:
    assert all(result["clipped"][name] == pytest.approx(1e-3, rel=1e-3) for result in trained)


@pytest.mark.parametrize("name", FP32)
def test_a_gradient_that_is_not_finite_on_one_rank_stops_all(trained: list[dict[str, Any]], name: str) -> None:
    for result in trained:
        message, unchanged = result["stopped"][name]
        assert message.startswith("the gradient's norm is nan at step 7 (rank 0: loss ")
        assert "ids [100, 101, 102, 103, 104]" in message
        assert unchanged


@pytest.mark.parametrize("file", [WEIGHTS_FILE, OPTIMIZER_FILE])
def test_a_pickle_bomb_is_refused_and_not_run(tmp_path: Path, file: str) -> None:
    engine = engine_of("ddp", single_world())
    step_of(engine, 0, single_world())
    engine.save(tmp_path)
    with open(tmp_path / file, "wb") as bomb:
        pickle.dump(Bomb(tmp_path / "exploded"), bomb)
    with pytest.raises(InputError, match=f"{file}: not a whole safetensors file"):
        engine.load(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    engine = engine_of("ddp", single_world())
    engine.save(tmp_path)
    other = model_of(0, width=4)
    with pytest.raises(InputError, match="of another network than the configuration's"):
        wrap(other, adam, EngineConfig(), single_world()).load(tmp_path)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("deepspeed", "message"),
    [
        ("zero9", r"there is no such file. Did you mean 'zero\d'\? Known: zero0, zero1, zero2, zero3"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4: it must be 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": 1}, "bf16": {}}, "leave 'bf16' out: set engine.precision"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer is not supported",
        ),
        ({"zero_optimisation": {"stage": 2}}, "unknown key 'zero_optimisation' of DeepSpeed. Did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stage": 2, "overlap_com": True}}, "Did you mean 'zero_optimization.overlap_comm'"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage is True: it must be 0, 1, 2 or 3"),
        ({"zero_optimization": "2"}, "zero_optimization is '2': it must be an object"),
    ],
)
def test_a_deepspeed_configuration_that_cannot_be_is_refused(deepspeed: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config({"engine": {"deepspeed": deepspeed}}, {})


def test_deepspeed_has_the_keys_that_are_known() -> None:
    """Read from its source: importing it takes seconds."""
    spec = importlib.util.find_spec("deepspeed")
    if spec is None or spec.origin is None:
        pytest.skip("deepspeed is not installed")
    source = (Path(spec.origin).parent / "runtime" / "zero" / "config.py").read_text().split("class DeepSpeedZeroConfig(")[1]
    names = set(re.findall(r"^    (\w+): ", source, re.MULTILINE)) | set(re.findall(r'alias="(\w+)"', source))
    assert set(KNOWN_OF_ZERO) <= names


def test_what_was_laid_out_for_embedding_can_still_be_trained() -> None:
    encoder = nn.Conv2d(3, 2, 3)
    with torch.inference_mode():
        for_inference(encoder, EngineConfig(channels_last=True), single_world())(torch.rand(2, 3, 8, 8))
    encoder(torch.rand(2, 3, 8, 8)).sum().backward()  # raised "Inference tensors cannot be saved for backward"
    assert encoder.weight.grad is not None
