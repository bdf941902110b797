"""The blocks of a network, in the order of its forward pass, told from the names of its parameters.

    conv1, cls_token, ...    blocks.0.attn.qkv  blocks.0.mlp.fc1  ...  blocks.11.mlp.fc2    norm, conv_head, ...
    depth 0: the stem        depth 1                                   depth n              depth n + 1: the end

A block is what has a number in its name: blocks.3 (ViT), layer4.1 (ResNet), blocks.3.1 (EfficientNet), stages.2.blocks.5
(ConvNeXt). Networks register their parts in the order in which they call them; nothing else is asked of them.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

NUMBERED = ("blocks", "layers")  # of stages that hold numbered blocks of their own


def block_of(name: str) -> str | None:
    """Return the block that a parameter belongs to; None: none."""
    parts = name.split(".")
    end = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    while end < len(parts) and parts[end].isdigit():
        end += 1
    if end + 1 < len(parts) and parts[end] in NUMBERED and parts[end + 1].isdigit():
        end += 2
    return ".".join(parts[:end]) if end < len(parts) else None


def blocks_of(network: nn.Module) -> list[str]:
    """Return the names of a network's blocks, first to last."""
    found = (block_of(name) for name, _ in network.named_parameters())
    return list(dict.fromkeys(name for name in found if name is not None))


def depths_of(network: nn.Module) -> dict[str, int]:
    """Return how deep each parameter lies: 0 in the stem, 1 to n in the blocks, n + 1 after the last."""
    blocks = blocks_of(network)
    numbers = {block: number for number, block in enumerate(blocks, start=1)}
    depths, reached = {}, 0
    for name, _ in network.named_parameters():
        block = block_of(name)
        if block is not None:
            reached = numbers[block]
            depths[name] = reached
        else:  # between two blocks: with the one before
            depths[name] = reached if reached < len(blocks) or not blocks else len(blocks) + 1
    return depths


def recompute_blocks(network: nn.Module) -> int:
    """Let every block keep its input only and compute the rest again in the backward pass; return how many blocks there are."""
    names = blocks_of(network)
    innermost = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    for name in innermost:
        block = network.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(innermost)
