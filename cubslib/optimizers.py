"""What moves the weights: which optimizer, at which rate each weight, and Muon.

Muon: each step on a convolution's kernel is an orthogonal matrix (Jordan et al., 2024). The
gradient of a kernel is nearly of low rank: a few directions are learnt fast and all others slowly.
With every singular value set to 1 all directions move alike.
"""

import copy
import time

import torch
from torch import Tensor, nn

from cubslib.recipes import Recipe

SCALE = 0.2  # of the other weights' rate
MOMENTUM = 0.95  # of the kernels; 0.9 of all else
QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values from near 0 to about 1 in five rounds


def build(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimizer; weights of two and more dimensions decay.

    Muon's orthogonal steps are for kernels that mix channels: not the first one's, of 3 colours.

    The CUBS blocks' weights learn at lr / fan-in. Their inputs are never negative, so a step moves
    all of an output's weights one way, and the output fan-in times as far as one weight: at the
    full rate a gate over 512 channels closes within an epoch. Divided by the fan-in a step moves
    it as far as its bias does (Yang et al., Tensor Programs V, 2022, table 3, output weights).
    """
    groups: dict[tuple[float, float, bool], list] = {}
    for name, parameter in model.named_parameters():
        in_gate = ".attention." in name and parameter.ndim > 1
        kernel = parameter.ndim == 4 and parameter.shape[1] > 3 and not in_gate
        orthogonal = recipe.optimizer == "muon" and kernel
        lr = recipe.lr / (parameter[0].numel() if in_gate else 1) * (SCALE if orthogonal else 1)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, decay, orthogonal), []).append(parameter)
    groups = [
        {"params": parameters, "lr": lr, "weight_decay": decay, "orthogonal": orthogonal}
        for (lr, decay, orthogonal), parameters in groups.items()
    ]
    if recipe.optimizer == "muon":
        return Muon(groups)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups)


def step_seconds(model: nn.Module, recipe: Recipe) -> float:
    """Return the seconds of a step of `recipe`'s optimizer, on the weights of a copy of `model`."""
    model, seconds = copy.deepcopy(model), []
    optimizer = build(model, recipe)
    for _ in range(3):  # the first one makes its state
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        start = time.perf_counter()
        with torch.autocast(parameter.device.type, enabled=False):  # as in training
            optimizer.step()
        _ = parameter.sum().item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum in which groups with `orthogonal=True` take Muon's steps.

    Args:
        groups: of parameters, each with its `lr` and `weight_decay`.
    """

    def __init__(self, groups: list[dict]):
        super().__init__(groups, momentum=0.9, nesterov=True)

    @torch.no_grad()
    def step(self, closure=None):
        """Move every parameter that has a gradient; an orthogonal group's is used up by it."""
        for group in self.param_groups:
            for weight in group["params"] if group.get("orthogonal") else ():
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].mul_(MOMENTUM).add_(weight.grad)
                update = orthogonal((weight.grad + MOMENTUM * momentum).flatten(1))
                lr = group["lr"] * max(1, update.shape[0] / update.shape[1]) ** 0.5
                weight.mul_(1 - lr * group["weight_decay"])
                weight.sub_(update.view_as(weight), alpha=lr)
                weight.grad = None  # SGD below passes it over
        return super().step(closure)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix (M, N) with about the same singular vectors and values of 0.7 to 1.2.

    Newton and Schulz's iteration with Jordan's quintic in place of a singular value decomposition:
    X ← (a + b·XXᵀ + c·(XXᵀ)²) X. All rounds' factors are polynomials of the first XXᵀ, which has
    the shorter side alone, so they are multiplied there and meet X once.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    product = factor = _factor(gram)
    for _ in range(4):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def _factor(gram: Tensor) -> Tensor:
    """Return a + b·G + c·G² of a symmetric matrix G."""
    a, b, c = QUINTIC
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
