"""Networks looked into: what each stage gives, what the gates do.

Shapes: B images, C channels, H × W positions, S pixels a side.
"""

import torch
from torch import Tensor, nn

from cubslib import models
from cubslib.blocks import CubsBlock1, CubsBlock2


@torch.no_grad()
def stages(model: nn.Module, size: int) -> list[dict]:
    """Return a row a stage: its name, its output's shape for one image and its parameters.

    Args:
        model: a network of this module.
        size: S, the side of the image.
    """
    rows: list[dict] = []

    def note(module: nn.Module, _, output: Tensor) -> None:
        name = next(name for name, child in model.named_children() if child is module)
        shape = " × ".join(str(n) for n in output.shape[1:])
        count = f"{models.num_parameters(module):,}"
        rows.append({"stage": name, "output": shape, "parameters": count})

    hooks = [child.register_forward_hook(note) for child in model.children()]
    training = model.training
    parameter = next(model.parameters())
    model.eval()(parameter.new_zeros(1, 3, size, size))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return rows


@torch.no_grad()
def gates(model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the CUBS blocks' gates in (0, 1) by the residual block that they follow.

    Args:
        model: a `cubs_resnet18`, judged in eval mode.
        images: normalised (B, 3, S, S).

    Returns:
        The channel gates (B, C) of block 1 and the spatial gates (B, H, W) of block 2.
    """
    channel: dict[str, Tensor] = {}
    spatial: dict[str, Tensor] = {}

    def note(module: nn.Module, arguments: tuple, _) -> None:
        found = channel if isinstance(module, CubsBlock1) else spatial
        found[names[module]] = module.gate(arguments[0]).float()

    names = {
        block: name.rsplit(".", 2)[0]
        for name, block in model.named_modules()
        if isinstance(block, CubsBlock1 | CubsBlock2)
    }
    hooks = [block.register_forward_hook(note) for block in names]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return channel, spatial
