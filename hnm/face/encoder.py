"""Encoders in Python: `hnm.load_encoder(path)` and `embed(images)`.

    run/, model/, *.safetensors, *.pth, a name ──load_encoder──▶ PatchEncoder ──embed──▶ (n, feature_dim) float32

What the network is and what it does to its input first stands in the file (a network of others), beside it (config.yaml), or
is read off the tensors' shapes (our ResNets).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from hnm.config import read_config
from hnm.encoder.augment import to_float
from hnm.encoder.encoder_config import EncoderConfig
from hnm.encoder.lora import is_of_adapter
from hnm.encoder.networks import Encoder, in_words
from hnm.encoder.spec import InputSpec, told_in
from hnm.encoder.start import find_start
from hnm.encoder.weights import NORM_KEY, read_checkpoint, torchvision_name
from hnm.encoder.weights import load_encoder as load_network
from hnm.engine.state import State, load_metadata
from hnm.model.model import ENCODER_FILE, is_exported
from hnm.run_rounds import choose_round, encoder_of_round, round_folder
from shards.errors import InputError

Picture = np.ndarray | Tensor | Image.Image | Path | str
Images = np.ndarray | Tensor | Iterable[Picture]


class PatchEncoder(nn.Module):
    """An encoder of patches, with the resizing and normalisation that it was trained with.

    Attributes:
        network: ours, or one of others; its tensors have their own names.
        feature_dim: length of a feature vector.
        source: where its weights were read.
    """

    def __init__(self, network: Encoder, source: str) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = network.feature_dim
        self.source = source

    @property
    def input(self) -> InputSpec:
        """What it does to pictures first: side in pixels (None: as they are), mean and deviation."""
        return self.network.input.spec

    def forward(self, images: Tensor) -> Tensor:
        """Return features, with gradient: (n, 3, h, w) float RGB in [0, 1] to (n, feature_dim)."""
        features: Tensor = self.network(images)
        return features

    def embed(self, images: Images, batch_size: int = 64) -> np.ndarray:
        """Return the features of pictures, in evaluation mode and without gradient.

        Args:
            images: (n, h, w, 3) array of uint8, or of floats in [0, 1]; a tensor (n, 3, h, w) likewise; or any sequence of
                single pictures: arrays (h, w, 3), PIL images, paths. Sizes may differ.
            batch_size: pictures a forward pass.

        Returns:
            (n, feature_dim) float32, in the order of the pictures.

        Raises:
            InputError: something is no picture, a number is outside of [0, 1], or features are not finite.
        """
        device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
        was_training, blocks = self.training, []
        self.eval()
        try:
            with torch.inference_mode():
                for batch in batches_of(images, batch_size):
                    blocks.append(self.network(batch.to(device)).float().cpu().numpy())
        finally:
            self.train(was_training)
        features = np.concatenate(blocks) if blocks else np.empty((0, self.feature_dim), np.float32)
        if not np.isfinite(features).all():
            bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
            raise InputError(f"{self.source}: the features of {len(bad)} pictures are not finite, the first is number {bad[0]}")
        return features

    def extra_repr(self) -> str:
        return f"{in_words(self.network)}, from {self.source}"


def load_encoder(path: Path | str, **settings: Any) -> PatchEncoder:
    """Return an encoder in evaluation mode on the CPU; `.to("cuda")` moves it.

    Args:
        path: a run directory (the encoder of its chosen round), a folder that hnm export wrote, a file of weights
            (.safetensors, .pth), or a name (hnm encoder list) whose weights are on this machine.
        settings: keys of the section `encoder`, where a stranger's file does not tell: name="torchvision/resnet18".

    Raises:
        InputError: there is no such encoder, or the file is of another network.
    """
    section = _section(settings) if settings else None
    file, section = _place(path, section)
    network = load_network(file, section) if file is not None else find_start(str(path), section).load(0).encoder
    return PatchEncoder(network, str(file or path)).eval()


def embed(images: Images, encoder: "PatchEncoder | Path | str", batch_size: int = 64) -> np.ndarray:
    """Return the features of pictures by an encoder, or by one that `load_encoder` finds: see `PatchEncoder.embed`."""
    opened = encoder if isinstance(encoder, PatchEncoder) else load_encoder(encoder)
    return opened.embed(images, batch_size)


def _section(settings: dict[str, Any]) -> EncoderConfig:
    try:
        return EncoderConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"load_encoder: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}") from None


def _place(path: Path | str, section: EncoderConfig | None) -> tuple[Path | None, EncoderConfig]:
    """Return the file of weights and the section `encoder` that fits it; no file: a user's own function has the weights."""
    folder = Path(path)
    if is_exported(folder):
        return folder / ENCODER_FILE, section or read_config(folder / "config.yaml").encoder
    if (folder / "state.json").is_file():
        return _of_run(folder), section or read_config(folder / "config.yaml").encoder
    if folder.is_file():
        return folder, section or section_of_file(folder)
    if folder.is_dir():
        raise InputError(
            f"{folder}: neither a run directory (state.json) nor an exported model (model.json). Give the file of weights in it"
        )
    start = find_start(str(path), section or EncoderConfig())
    return start.path, start.config


def _of_run(run: Path) -> Path:
    """Return the encoder of the round that is the result as far as the run has come, or what hnm pretrain made."""
    if (run / "encoder.safetensors").is_file():
        return run / "encoder.safetensors"
    num_mined = 0
    while (round_folder(run, num_mined) / "mining.json").is_file():
        num_mined += 1
    if num_mined == 0:
        return encoder_of_round(run, 0)
    config = read_config(run / "config.yaml")
    so_far = config.rounds.model_copy(update={"num_rounds": num_mined - 1})
    return encoder_of_round(run, choose_round(config.model_copy(update={"rounds": so_far}), run))


def section_of_file(path: Path) -> EncoderConfig:
    """Return the section `encoder` of a file of weights: of others what its metadata says, of ours what the shapes tell.

    Raises:
        InputError: it holds no network that could be told.
    """
    network = told_in(load_metadata(path), str(path))[0] if path.suffix == ".safetensors" else None
    if network is not None:
        return EncoderConfig(name=network.name)
    return section_of_shapes(read_checkpoint(path, EncoderConfig()).state, path)


def section_of_shapes(state: State, path: Path) -> EncoderConfig:
    """Return the section `encoder` of a ResNet by the names and shapes of its tensors.

    Raises:
        InputError: it is no ResNet.
    """
    shapes = {torchvision_name(key): tuple(tensor.shape) for key, tensor in state.items() if not is_of_adapter(key)}
    stem = shapes.get("conv1.weight")
    if stem is None or len(stem) != 4 or "layer1.0.conv1.weight" not in shapes:
        raise InputError(
            f"{path}: its tensors are not those of a ResNet, and the file does not say of which network they are. Name it: "
            "load_encoder(path, name='timm/...')"
        )
    return EncoderConfig(
        architecture="resnet50" if "layer1.0.conv3.weight" in shapes else "resnet18",
        norm="batch" if any(NORM_KEY.search(name) for name in shapes) else "instance",
        stem="imagenet" if stem[-1] == 7 else "small",
        width=stem[0] / 64,
    )


def batches_of(images: Images, batch_size: int) -> Iterator[Tensor]:
    """Yield float batches (b, 3, h, w) in [0, 1], b at most `batch_size`: pictures of one size that follow one another."""
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim != 4:
            raise InputError(
                f"images: of shape {tuple(images.shape)}. Give an array (n, h, w, 3), a tensor (n, 3, h, w) or a list of them"
            )
        for start in range(0, len(images), batch_size):
            yield _as_floats(images[start : start + batch_size], start)
        return
    if isinstance(images, str | Path | Image.Image):
        raise InputError("images: a single picture. Give a list: embed([picture])")
    waiting: list[Tensor] = []
    for number, picture in enumerate(images):
        one = _as_floats(_opened(picture)[None], number)
        if waiting and (len(waiting) == batch_size or one.shape != waiting[0].shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield torch.cat(waiting)


def _opened(picture: Picture) -> np.ndarray | Tensor:
    if isinstance(picture, str | Path):
        try:
            with Image.open(picture) as image:
                return np.array(image.convert("RGB"))
        except OSError as error:
            raise InputError(f"{picture}: no picture that can be read ({error})") from None
    return np.array(picture.convert("RGB")) if isinstance(picture, Image.Image) else picture


def _as_floats(images: np.ndarray | Tensor, first: int) -> Tensor:
    """Return (b, h, w, 3) arrays or (b, 3, h, w) tensors as float32 (b, 3, h, w); `first` is the number of the first picture."""
    channels = 1 if isinstance(images, Tensor) else 3
    if images.ndim != 4 or images.shape[channels] != 3:
        wanted = "(3, h, w)" if isinstance(images, Tensor) else "(h, w, 3)"
        raise InputError(f"images: number {first} has the shape {tuple(images.shape[1:])}, not {wanted}: RGB pictures are wanted")
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    if tensor.dtype == torch.uint8:
        return to_float(tensor)
    if not tensor.is_floating_point():
        raise InputError(f"images: number {first} is of {tensor.dtype}. Give uint8, or floats in [0, 1]")
    if len(tensor) and not (tensor.min() >= 0 and tensor.max() <= 1):
        raise InputError(
            f"images: floats from number {first} on lie between {tensor.min():g} and {tensor.max():g}, not in [0, 1]. Divide by "
            "255, and do not normalise: the encoder does that itself"
        )
    return tensor.float()
