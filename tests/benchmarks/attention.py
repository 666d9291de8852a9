"""Attention of the CUBS blocks over N scalars, forward and backward, against the matrix held."""

import timing
import torch

from cubslib.attention import self_similarity


def literally(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The assignment's figure: the matrix, its softmax, the product with v."""
    matrix = query[:, :, None] * key[:, None, :]
    return (matrix.softmax(2) @ value[:, :, None])[:, :, 0]


def compare(size: int, batch: int, repeats: int) -> dict:
    """Compare both on random scalars."""
    leaves = [x.detach().requires_grad_() for x in torch.randn(3, batch, size)]

    def step(function):
        return lambda: torch.autograd.grad(function(*leaves).sum(), leaves)

    contenders = {"literal": step(literally), "ours": step(self_similarity)}
    memory = {name: timing.peak_mib(work) for name, work in contenders.items()}
    times = timing.seconds(contenders, repeats)
    return {
        "N": size,
        "batch": batch,
        "literal ms": times["literal"] * 1e3,
        "ours ms": times["ours"] * 1e3,
        "literal / ours": times["literal"] / times["ours"],
        "literal MiB": memory["literal"],
        "ours MiB": memory["ours"],
    }


def rows(quick: bool) -> list[dict]:
    """Return a row a size."""
    if quick:
        return [compare(16, 2, 1)]
    compare(16, 2, 1)  # what is loaded late
    return [compare(*case, 7) for case in ((64, 128), (512, 32), (4096, 4))]
