"""The lines of MODEL.md that load an exported encoder as a plain torch module, without this package.

Our ResNets are written out on torch alone, for no library has them with instance norm, a small stem or a width of their
own; timm's networks are built by timm, a user's by the user's function. What is done to the input stands in the forward pass.
"""

from typing import Any

from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import Encoder
from hnm.encoder.resnet import ARCHITECTURES, ResNet
from hnm.encoder.spec import InputSpec

RESNET = """import torch
from safetensors.torch import load_file
from torch.nn import functional as F


class Encoder(torch.nn.Module):  # (n, 3, h, w) RGB in [0, 1] -> (n, {dim})
    def __init__(self, file):
        super().__init__()
        for name, tensor in load_file(file).items():
            is_state = "running" in name or "num_batches" in name
            value = tensor if is_state else torch.nn.Parameter(tensor)
            (self.register_buffer if is_state else self.register_parameter)(name[8:].replace(".", "_"), value)

    def unit(self, x, conv, norm, stride=1):
        weight = getattr(self, conv + "_weight")
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return {norm}

    def forward(self, x):
{input}        x = F.relu(self.unit(x, "conv1", "bn1", {stem_stride}))
{pool}        for layer, number in enumerate({blocks}, start=1):
            for block in range(number):
                at, stride, y = f"layer{{layer}}_{{block}}_", 2 if layer > 1 and block == 0 else 1, x
                for i in range(1, {convs} + 1):
                    y = self.unit(y, f"{{at}}conv{{i}}", f"{{at}}bn{{i}}", stride if i == {strided} else 1)
                    y = F.relu(y) if i < {convs} else y
                if hasattr(self, at + "downsample_0_weight"):
                    x = self.unit(x, at + "downsample_0", at + "downsample_1", stride)
                x = F.relu(y + x)
        return x.mean((2, 3))


encoder = Encoder("encoder.safetensors").eval()
"""
INSTANCE = "F.instance_norm(x)"
BATCH = (
    'F.batch_norm(x, *(getattr(self, f"{norm}_{part}") for part in ("running_mean", "running_var", "weight", "bias")))'
)
FOREIGN = """{imports}

class Encoder(torch.nn.Module):  # (n, 3, h, w) RGB in [0, 1] -> (n, {dim})
    def __init__(self, file):
        super().__init__()
        self.network = {network}
        self.network.load_state_dict({{name[16:]: tensor for name, tensor in load_file(file).items()}})

    def forward(self, x):
{input}{pooling}

encoder = Encoder("encoder.safetensors").eval()
"""
TOKENS = """        tokens = self.network.forward_features(x)
        return torch.cat([tokens[:, 0], tokens[:, self.network.num_prefix_tokens :].mean(1)], dim=1)
"""


def loading_code(encoder: Encoder) -> str:
    """Return Python that makes `encoder`, a torch module, from encoder.safetensors in the working directory."""
    return _foreign(encoder) if isinstance(encoder, ForeignEncoder) else _resnet(encoder)


def _resnet(encoder: ResNet) -> str:
    config = encoder.config
    is_imagenet, is_basic = config.stem == "imagenet", config.architecture == "resnet18"
    return RESNET.format(
        dim=encoder.feature_dim,
        norm=INSTANCE if config.norm == "instance" else BATCH,
        input=_input(encoder.input.spec),
        stem_stride=2 if is_imagenet else 1,
        pool="        x = F.max_pool2d(x, 3, stride=2, padding=1)\n" if is_imagenet else "",
        blocks=ARCHITECTURES[config.architecture][0],
        convs=2 if is_basic else 3,
        strided=1 if is_basic else 2,
    )


def _foreign(encoder: ForeignEncoder) -> str:
    spec = encoder.spec
    arguments = {name: value for name, value in spec.arguments.items() if name != "num_classes"}
    if spec.source == "timm":
        imports, call = "import timm", f'timm.create_model("{spec.network}", num_classes=0{_arguments(arguments)})'
    else:
        module, _, function = spec.network.partition(":")
        imports, call = f"from {module} import {function}", f"{function}({_arguments(arguments)[2:]})"
    return FOREIGN.format(
        imports=f"{imports}\nimport torch\nfrom safetensors.torch import load_file\nfrom torch.nn import functional as F\n",
        dim=encoder.feature_dim,
        network=call,
        input=_input(spec.input),
        pooling="        return self.network(x)\n" if spec.pooling == "own" else TOKENS,
    )


def _arguments(arguments: dict[str, Any]) -> str:
    """Return ", name=value" of each; a layer that timm's spec names by text is timm's own."""
    words = {name: f"timm.layers.{value}" if name == "mlp_layer" else repr(value) for name, value in arguments.items()}
    if (epsilon := words.pop("norm_eps", None)) is not None:
        words["norm_layer"] = f"lambda d: timm.layers.LayerNorm(d, eps={epsilon})"
    return "".join(f", {name}={value}" for name, value in words.items())


def _input(spec: InputSpec) -> str:
    """Return the lines that resize and normalise."""
    lines = []
    if spec.side_px is not None:
        size = f"({spec.side_px}, {spec.side_px})"
        lines.append(f'x = F.interpolate(x, {size}, mode="{spec.interpolation}", align_corners=False, antialias=True)')
        if spec.interpolation == "bicubic":
            lines.append("x = x.clamp(0, 1)")
    if spec.normalises:
        mean, std = (f"x.new_tensor({list(values)})[:, None, None]" for values in (spec.mean, spec.std))
        lines.append(f"x = (x - {mean}) / {std}")
    return "".join(f"        {line}\n" for line in lines)
