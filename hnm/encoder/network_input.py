"""The first thing an encoder does, on the device: resize and normalise its patches as the network was trained to see them."""

from torch import Tensor, nn, tensor
from torch.nn import functional as F

from hnm.encoder.spec import InputSpec


class NetworkInput(nn.Module):
    """(batch, 3, h, w) float RGB in [0, 1] to (batch, 3, side, side) as a network wants it. It has no parameters and no state."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.normalises:  # not persistent: they are in the file's metadata
            self.register_buffer("mean", tensor(spec.mean)[:, None, None], persistent=False)
            self.register_buffer("std", tensor(spec.std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        side = self.spec.side_px
        if side is not None and images.shape[-2:] != (side, side):
            mode = self.spec.interpolation
            images = F.interpolate(images, (side, side), mode=mode, align_corners=False, antialias=True)
            if mode == "bicubic":
                images = images.clamp(0, 1)  # it overshoots at edges; an 8-bit picture could not
        if self.spec.normalises:
            images = (images - self.mean) / self.std
        return images
