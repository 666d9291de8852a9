"""Multi-Similarity loss, forward and backward, against pytorch-metric-learning's.

Run: python tests/benchmarks/loss.py [batch sizes]
"""

import sys

import timing
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners

from cubslib.losses import MultiSimilarityLoss


def compare(size: int, dim: int = 512, per_class: int = 4, repeats: int = 15) -> dict:
    """Compare both on loose classes, of which the mining keeps some of the pairs."""
    generator = torch.manual_seed(0)
    labels = torch.arange(size) // per_class
    centres = torch.randn(size // per_class, dim, generator=generator)
    images = 0.8 + 0.7 * centres[labels] + torch.randn(size, dim, generator=generator)
    leaf = F.normalize(images).requires_grad_()
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    theirs, own = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), MultiSimilarityLoss()

    def step(loss):
        leaf.grad = None
        found = loss()
        found.backward()
        return found.item(), leaf.grad

    contenders = {
        "pml": lambda: step(lambda: theirs(leaf, labels, miner(leaf, labels))),
        "cubslib": lambda: step(lambda: own(leaf, labels)),
    }
    memory = {name: timing.peak_mib(work) for name, work in contenders.items()}
    (value, gradient), (expected, wanted) = contenders["cubslib"](), contenders["pml"]()
    times = timing.seconds(contenders, repeats)
    return {
        "B": size,
        "pml ms": times["pml"] * 1e3,
        "ours ms": times["cubslib"] * 1e3,
        "ratio": times["pml"] / times["cubslib"],
        "pml MiB": memory["pml"],
        "ours MiB": memory["cubslib"],
        "loss": value,
        "loss differs": abs(value - expected),
        "gradient differs": ((gradient - wanted).abs().max() / wanted.abs().max()).item(),
    }


if __name__ == "__main__":
    compare(16, repeats=1)  # what is loaded late
    sizes = [int(size) for size in sys.argv[1:]] or [128, 512, 2048]
    timing.report("Multi-Similarity loss, forward and backward", [compare(n) for n in sizes])
