"""Attention of the CUBS blocks, forward and backward, against the N × N matrix held.

Run: python tests/benchmarks/attention.py
"""

import timing
import torch

from cubslib.attention import self_similarity


def literally(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The assignment's figure: the matrix, its softmax, the product with v."""
    matrix = query[:, :, None] * key[:, None, :]
    return (matrix.softmax(2) @ value[:, :, None])[:, :, 0]


def compare(size: int, batch: int, repeats: int = 7) -> dict:
    """Compare both on random scalars."""
    leaves = [x.requires_grad_() for x in torch.randn(3, batch, size).unbind()]
    leaves = [x.detach().requires_grad_() for x in leaves]

    def step(function):
        return lambda: torch.autograd.grad(function(*leaves).sum(), leaves)

    contenders = {"literal": step(literally), "cubslib": step(self_similarity)}
    memory = {name: timing.peak_mib(work) for name, work in contenders.items()}
    times = timing.seconds(contenders, repeats)
    return {
        "N": size,
        "batch": batch,
        "literal ms": times["literal"] * 1e3,
        "ours ms": times["cubslib"] * 1e3,
        "ratio": times["literal"] / times["cubslib"],
        "literal MiB": memory["literal"],
        "ours MiB": memory["cubslib"],
    }


if __name__ == "__main__":
    compare(16, 2, 1)  # what is loaded late
    rows = [compare(*case) for case in ((64, 128), (512, 32), (4096, 4))]
    timing.report("Attention over scalars, forward and backward", rows)
