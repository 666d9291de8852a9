"""Networks looked into: what each stage gives and costs, what the gates do.

Shapes: B images, C channels, H × W positions, S pixels a side, N features of block 1.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cubslib import models
from cubslib.blocks import CubsBlock1, CubsBlock2, self_similarity


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


@contextmanager
def _as_trained(model: nn.Module) -> Iterator[None]:
    """Put a network in train mode; leave its state and mode, and what is drawn next, as they were.

    BatchNorm counts whatever it sees.
    """
    training, state = model.training, {k: x.clone() for k, x in model.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[]):
            model.train()
            yield
    finally:
        model.load_state_dict(state)
        model.train(training)


def _noise(model: nn.Module, batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size).to(next(model.parameters()).device)


def step_seconds(model: nn.Module, size: int, batch: int = 32, repeats: int = 3) -> float:
    """Return the seconds of a forward and backward pass, the fastest of `repeats`.

    Other work on the machine slows some, and never makes one faster.

    Args:
        model: a network of `models`; its weights and gradients are left as they are.
        size: S of the random images.
        batch: B.
        repeats: how many passes are timed, after one that is not.
    """
    seconds = []
    with _as_trained(model):
        images = _noise(model, batch, size)
        for _ in range(repeats + 1):
            start = time.perf_counter()
            loss = model(images).square().mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            _ = gradients[0].sum().item()  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def kept_bytes(model: nn.Module, size: int, batch: int) -> int:
    """Return how many bytes a forward pass keeps for its backward pass, weights among them.

    Args:
        model: a network of `models`, left as it is.
        size: S of the random images.
        batch: B, 2 or more.
    """
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()  # many share one
        return x

    with _as_trained(model), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        outputs = model(_noise(model, batch, size))
    del outputs  # until here it held what was counted
    return sum(kept.values())


@torch.no_grad()
def block_inputs(model: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Return each CUBS block with the residual block it follows and its input (B, C, H, W).

    Args:
        model: a `cubs_resnet18`, judged in eval mode.
        images: normalised (B, 3, S, S).
    """
    found: list[tuple[str, nn.Module, Tensor]] = []
    names = {
        block: name.rsplit(".", 2)[0]
        for name, block in model.named_modules()
        if isinstance(block, CubsBlock1 | CubsBlock2)
    }
    hooks = [
        block.register_forward_hook(lambda block, x, _: found.append((names[block], block, x[0])))
        for block in names
    ]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def gates(model: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the CUBS blocks' gates in (0, 1) by the residual block that they follow.

    Args:
        model: a `cubs_resnet18`, judged in eval mode.
        images: normalised (B, 3, S, S).

    Returns:
        The channel gates (B, C) of block 1 and the spatial gates (B, H, W) of block 2.
    """
    inputs = block_inputs(model, images)
    channel, spatial = (
        {name: block.gate(x).float() for name, block, x in inputs if isinstance(block, kind)}
        for kind in (CubsBlock1, CubsBlock2)
    )
    return channel, spatial


@torch.no_grad()
def attended(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a CUBS block's queries and what attention makes of them, softmax(q kᵀ) v.

    Args:
        block: a `CubsBlock1` or `CubsBlock2`.
        x: its input (B, C, H, W).

    Returns:
        Two of (B, N), or (B, H·W).
    """
    source = x.mean((2, 3)) if isinstance(block, CubsBlock1) else x
    q, k, v = (layer(source).flatten(1).float() for layer in (block.query, block.key, block.value))
    return q, self_similarity(q, k, v)


@torch.no_grad()
def gate_statistics(model: nn.Module, images: Tensor) -> list[dict[str, object]]:
    """Return a row a CUBS block: what its gate does, and what attention does to its gate.

    Two columns are standard deviations, over images and channels or places, of the gate's change:
    `by attention` when attention's output is replaced by its mean over images (and places);
    `by comparing` when its softmax is replaced by equal weights, so that q and k do nothing.

    Args:
        model: a `cubs_resnet18`, judged in eval mode.
        images: normalised (B, 3, S, S).
    """
    rows = []
    for name, block, x in block_inputs(model, images):
        channel = isinstance(block, CubsBlock1)
        gate = block.gate(x).float().flatten(1)  # (B, C) or (B, H·W)
        _, attention = attended(block, x)
        source = x.mean((2, 3)) if channel else x
        equal = block.value(source).flatten(1).float().mean(1, keepdim=True).expand_as(attention)
        mean = attention.mean(0, keepdim=True) if channel else attention.mean()

        def gated(s: Tensor, block=block, x=x, channel=channel) -> Tensor:
            return torch.sigmoid(block.project(s) + x.mean((2, 3)) if channel else s)

        rows.append(
            {
                "after": name,
                "block": "1, channels" if channel else "2, positions",
                "mean": f"{gate.mean():.3f}",
                "over images": f"{gate.std(0).mean():.3f}",
                "over channels or places": f"{gate.std(1).mean() if gate.shape[1] > 1 else 0:.3f}",
                "by attention": f"{(gate - gated(mean)).std():.3f}",
                "by comparing": f"{(gate - gated(equal)).std():.3f}",
            }
        )
    return rows
