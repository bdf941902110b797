"""What is trained: which parameters, at which rates, and the same on every engine and number of ranks."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hnm.config import ConfigError, load_config
from hnm.encoder.batch_norm import refuse_chunks
from hnm.encoder.blocks import block_of, depths_of
from hnm.encoder.contrastive_model import (
    ContrastiveModel,
    forward_backward,
    fresh_model,
    load_model,
    save_model,
    start_training,
)
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.finetune import FinetuneConfig, make_optimizer
from hnm.encoder.losses import nt_xent
from hnm.encoder.parts import PartsConfig, choose_parts, optimizer_of, rate_scales, warmed_up
from hnm.engine.engine import Engine, EngineConfig, trained_parameters
from hnm.engine.ranks import World, barrier, single_world
from hnm.engine.state import OPTIMIZER_FILE, WEIGHTS_FILE, load_weights
from shards.errors import InputError
from shards.seeding import seeded_torch
from tests.hnm.encoder.test_grad_cache import ENGINES, sizes_of
from tests.ranks import on_ranks

VIT = EncoderConfig(name="timm/test_vit", side_px=32, projection_dim=16)
LITE0 = EncoderConfig(name="timm/tf_efficientnet_lite0", side_px=32, projection_dim=16)
BATCH = EncoderConfig(stem="small", width=0.125, norm="batch", projection_dim=16)
LORA: dict[str, Any] = {"train": "lora", "lora": {"rank": 2, "layers": ["qkv", "fc1"]}}
CASES: dict[str, tuple[EncoderConfig, dict[str, Any]]] = {
    "lora": (VIT, LORA),
    "last_blocks": (BATCH, {"train": "last_blocks", "num_blocks": 3}),
    "norm_bias": (BATCH, {"train": "norm_bias"}),
}


def model_of(encoder: EncoderConfig, parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> ContrastiveModel:
    """Return a model with its parts chosen, and adapters that are not zero."""
    model = fresh_model(encoder, 0)
    choose_parts(model, PartsConfig(**parts), "finetune", seed=0)
    with seeded_torch(0, "parts test"):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return model.to(dtype)


def backward(engine: Engine, world: World, dtype: torch.dtype, chunk_size: int = 0) -> None:
    """Do forward and backward of a step on 9 drawn patches."""
    sizes = sizes_of(world)
    views = torch.rand(2, 9, 3, 24, 24, dtype=dtype, generator=torch.Generator().manual_seed(0))
    mine = views.split(sizes, dim=1)[world.rank].flatten(0, 1)
    ids = torch.arange(sizes[world.rank]).numpy()
    forward_backward(engine, mine, ids, sizes, chunk_size, lambda features: nt_xent(features, sizes, 0.5, world))


def gradient_of(
    case: str, world: World, engine: str = "ddp", dtype: torch.dtype = torch.float32, chunk_size: int = 0, **more: Any
) -> dict[str, Tensor]:
    """Return by how much a step of plain SGD at rate 1 moves each tensor."""
    encoder, parts = CASES[case]
    model = model_of(encoder, parts | more, dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = start_training(model, partial(torch.optim.SGD, lr=1.0), EngineConfig(deepspeed=ENGINES[engine]), world)
    backward(trained, world, dtype, chunk_size)
    trained.set_rate(1.0)
    trained.step()
    after = trained.full_weights()
    return {name: before[name] - after[name] for name in before}


def kept_and_gone_on(case: str, engine: str, world: World, folder: Path) -> tuple[list[str], bool]:
    """Take a step with AdamW, keep, load into a new engine, go on with both; return the kept names, and whether they agree."""
    encoder, parts = CASES[case]
    config = FinetuneConfig(**parts, optimizer="adamw", lr=1e-2, layer_decay=0.5)
    engines = []
    for _ in range(2):
        model = model_of(encoder, parts)
        optimizer = optimizer_of(model, config, partial(make_optimizer, config))
        engines.append(start_training(model, optimizer, EngineConfig(deepspeed=ENGINES[engine]), world))
    for number, trained in enumerate([engines[0], *engines]):
        if number == 1:
            engines[0].save(folder)
            barrier(world)
            engines[1].load(folder)
        backward(trained, world, torch.float32)
        trained.set_rate(1e-2)
        trained.step()
    first, second = (trained.full_weights() for trained in engines)
    kept = [*load_weights(folder / WEIGHTS_FILE)[0], *load_weights(folder / OPTIMIZER_FILE)[0]]
    return kept, all(torch.equal(second[name], tensor) for name, tensor in first.items())


def on_engines(world: World, folder: str) -> dict[str, Any]:
    """Return the gradients and what was kept, by case and engine."""
    found: dict[str, Any] = {}
    for case in CASES:
        found[f"{case} float64"] = gradient_of(case, world, dtype=torch.float64)
    for engine in ("ddp", "zero1", "zero2", "zero3"):
        found[engine] = gradient_of("lora", world, engine)
        found[f"{engine} kept"] = kept_and_gone_on("lora", engine, world, Path(folder) / engine)
    found["last_blocks kept"] = kept_and_gone_on("last_blocks", "zero2", world, Path(folder) / "last_blocks")
    return found


@cache
def trained_names(case: str) -> set[str]:
    return set(trained_parameters(model_of(*CASES[case])))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(3, on_engines, str(tmp_path_factory.mktemp("parts")))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_three_ranks_have_one_ranks_gradient_and_only_of_what_is_trained(found: list[dict[str, Any]], case: str) -> None:
    expected = gradient_of(case, single_world(), dtype=torch.float64)
    moved = {name for name, gradient in expected.items() if gradient.abs().max() > 0}
    buffers = {name for name in moved if "running_" in name or "num_batches" in name}
    assert moved - buffers <= trained_names(case)
    assert (moved & trained_names(case)) >= {name for name in trained_names(case) if "bias" not in name}
    assert bool(buffers) == (case == "last_blocks")  # elsewhere all running statistics stay
    assert not any("layer1" in name for name in buffers)
    for result in found:
        for name, gradient in expected.items():
            torch.testing.assert_close(result[f"{case} float64"][name], gradient, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3"])
def test_every_engine_leaves_the_frozen_ones_out_and_goes_on_alike(found: list[dict[str, Any]], engine: str) -> None:
    for result in found:
        for name, gradient in result["ddp"].items():
            torch.testing.assert_close(result[engine][name], gradient, atol=1e-6, rtol=0)
        kept, is_same = result[f"{engine} kept"]
        assert is_same
        assert {name.rpartition("/")[0] if "/" in name else name for name in kept} == trained_names("lora")
    kept, is_same = found[0]["last_blocks kept"]
    assert is_same
    assert "encoder.layer4.1.conv2.weight" in kept
    assert "encoder.layer1.0.conv1.weight" not in kept


def test_chunks_and_recomputed_blocks_have_the_same_gradients_for_a_vit() -> None:
    expected = gradient_of("lora", single_world(), dtype=torch.float64)
    for more in ({"chunk_size": 2}, {"gradient_checkpointing": True}, {"chunk_size": 4, "gradient_checkpointing": True}):
        found = gradient_of("lora", single_world(), dtype=torch.float64, **more)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=0)


def test_blocks_are_told_from_names() -> None:
    names = ["blocks.3.attn.qkv.weight", "layer4.1.downsample.0.weight", "blocks.3.1.conv_pw.weight", "0.weight", "a.2"]
    assert [block_of(name) for name in names] == ["blocks.3", "layer4.1", "blocks.3.1", "0", None]
    assert [block_of(name) for name in ("stages.2.blocks.5.mlp.fc1.bias", "stages.2.downsample.1.bias")] == [
        "stages.2.blocks.5",
        "stages.2",
    ]
    lite0 = depths_of(fresh_model(LITE0, 0).encoder.network)  # type: ignore[union-attr]
    assert lite0["conv_stem.weight"] == 0
    assert (lite0["blocks.0.0.conv_dw.weight"], lite0["blocks.6.0.conv_pw.weight"], lite0["conv_head.weight"]) == (1, 16, 17)


def test_which_parameters_each_way_trains() -> None:
    vit = fresh_model(VIT, 0)
    told = choose_parts(vit, PartsConfig(train="last_blocks", num_blocks=1), "finetune", 0)
    names = set(trained_parameters(vit.encoder))
    assert {name.split(".")[1] for name in names} == {"blocks", "norm"} or {"blocks", "fc_norm"}
    assert not any(".blocks.0." in name for name in names)
    assert told.startswith("trained of the encoder: the last 1 of ")
    assert {name for name in trained_names("norm_bias") if name.startswith("encoder.")} == {
        name for name, _ in fresh_model(BATCH, 0).named_parameters() if ".bn" in name or "downsample.1" in name
    }
    head = {f"projection.l{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")}
    assert all(head <= trained_names(case) for case in CASES)
    assert {name.rsplit(".", 2)[1] for name in trained_names("lora") - head} == {"lora_A", "lora_B"}
    frozen = fresh_model(LITE0, 0)
    assert choose_parts(frozen, PartsConfig(), "finetune", 0) == ""
    assert all(parameter.requires_grad for parameter in frozen.parameters())


def test_frozen_batch_norms_compute_as_in_embedding_and_may_be_cut_into_chunks() -> None:
    model = fresh_model(LITE0, 0)
    choose_parts(model, PartsConfig(train="lora"), "finetune", 0)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(model.train()(images), model.eval()(images))
    refuse_chunks(model, 8, "finetune.chunk_size", model.fixed_norms)
    partly = fresh_model(BATCH, 0)
    choose_parts(partly, PartsConfig(train="last_blocks"), "finetune", 0)
    with pytest.raises(InputError, match=r"finetune\.chunk_size is 8"):
        refuse_chunks(partly, 8, "finetune.chunk_size", partly.fixed_norms)
    assert load_config(overrides=["encoder.norm=batch", "finetune.chunk_size=8", "finetune.train=norm_bias"])
    with pytest.raises(ConfigError, match=r"finetune\.chunk_size is 8, but encoder\.norm is batch"):
        load_config(overrides=["encoder.norm=batch", "finetune.chunk_size=8", "finetune.train=last_blocks"])


def test_rates_fall_with_depth_and_rise_in_the_warm_up() -> None:
    model = fresh_model(VIT, 0)
    network = model.encoder.network  # type: ignore[union-attr]
    scales, names = rate_scales(network, 0.5), dict(network.named_parameters())
    last = max(depths_of(network).values()) - 1
    assert (scales[names["norm.weight"]], scales[names[f"blocks.{last - 1}.attn.qkv.weight"]]) == (1.0, 0.5)
    assert (scales[names["blocks.0.attn.qkv.weight"]], scales[names["cls_token"]]) == (0.5**last, 0.5 ** (last + 1))
    config = FinetuneConfig(optimizer="adamw", lr=1.0, layer_decay=0.5, weight_decay=0.1)
    optimizer = optimizer_of(model, config, partial(make_optimizer, config))(model.parameters())
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay.keys() == set(model.parameters())
    assert (decay[names["norm.weight"]], decay[names["blocks.0.attn.qkv.weight"]]) == (0.0, 0.1)
    plain = optimizer_of(model, FinetuneConfig(), partial(make_optimizer, FinetuneConfig()))(model.parameters())
    assert len(plain.param_groups) == 1
    warm = PartsConfig(rate_warmup_steps=4)
    assert [warmed_up(0.8, step, warm) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    ("encoder", "parts", "message"),
    [
        (BATCH, {"train": "last_blocks", "num_blocks": 8}, r"finetune\.num_blocks is 8, but this encoder has 8 blocks"),
        (BATCH.model_copy(update={"norm": "instance"}), {"train": "norm_bias"}, "has neither biases nor norms"),
        (BATCH, {"gradient_checkpointing": True}, "batch norms would count each batch twice"),
        (VIT, {"train": "lora", "lora": {"layers": ["quark"]}}, r"names no layer that can have an adapter \(quark\)"),
    ],
)
def test_parts_that_are_not_there_are_refused(encoder: EncoderConfig, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_parts(fresh_model(encoder, 0), PartsConfig(**parts), "finetune", 0)


def test_adapters_of_a_file_are_gone_on_with_or_folded_never_mixed(tmp_path: Path) -> None:
    images, path = torch.rand(2, 3, 32, 32), tmp_path / "adapted.safetensors"
    save_model(path, model_of(VIT, LORA), {})
    model = load_model(path, VIT, 1).eval()
    before = model(images)
    choose_parts(model, PartsConfig(**LORA), "finetune", 1)
    assert torch.equal(model(images), before)
    other = PartsConfig(train="lora", lora={"rank": 3, "layers": ["qkv", "fc1"]})
    with pytest.raises(InputError, match=r"adapters of rank 2, .* the settings say rank 3, .* or fold them"):
        choose_parts(model, other, "finetune", 0)
    folded = load_model(path, VIT, 1).eval()
    assert "adapters of the file were folded" in choose_parts(folded, PartsConfig(), "finetune", 0)
    torch.testing.assert_close(folded(images), before, atol=1e-5, rtol=0)
    assert all(parameter.requires_grad for parameter in folded.parameters())
    told = choose_parts(fresh_model(VIT, 0), FinetuneConfig(optimizer="adamw"), "finetune", 0)
    assert told.startswith("warning: finetune.lr is 0.01, high for finetune.optimizer=adamw")
