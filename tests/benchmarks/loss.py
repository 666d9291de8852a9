"""Multi-Similarity loss of B embeddings, forward and backward, against pytorch-metric-learning."""

import prepared
import timing
import torch
import torch.nn.functional as F

from cubslib.losses import MultiSimilarityLoss

DIM, PER_CLASS = 512, 4


def embeddings(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loose classes, of which the mining keeps some of the pairs: a leaf and labels."""
    generator = torch.manual_seed(0)
    labels = torch.arange(size) // PER_CLASS
    centres = torch.randn(-(-size // PER_CLASS), DIM, generator=generator)
    images = 0.8 + 0.7 * centres[labels] + torch.randn(size, DIM, generator=generator)
    return F.normalize(images).requires_grad_(), labels


def compare(size: int, repeats: int) -> dict:
    """Compare at batch size B."""
    (leaf, labels), own = embeddings(size), MultiSimilarityLoss()

    def step(loss):
        leaf.grad = None
        found = loss()
        found.backward()
        return found.item(), leaf.grad

    contenders = {"ours": lambda: step(lambda: own(leaf, labels))}
    if prepared.peer("pytorch_metric_learning"):
        from pytorch_metric_learning import losses, miners

        miner = miners.MultiSimilarityMiner(epsilon=0.1)
        theirs = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
        contenders["pml"] = lambda: step(lambda: theirs(leaf, labels, miner(leaf, labels)))
    memory = {name: timing.peak_mib(work) for name, work in contenders.items()}
    found = {name: work() for name, work in contenders.items()}
    times = timing.seconds(contenders, repeats)
    row = {"B": size, "ours ms": times["ours"] * 1e3, "ours MiB": memory["ours"]}
    row["loss"] = found["ours"][0]
    if "pml" in found:
        (value, gradient), (expected, wanted) = found["ours"], found["pml"]
        differs = (gradient - wanted).abs().max() / wanted.abs().max()
        row |= {
            "pml ms": times["pml"] * 1e3,
            "pml / ours": times["pml"] / times["ours"],
            "pml MiB": memory["pml"],
            "loss differs": abs(value - expected),
            "gradient differs": differs.item(),
        }
    return row


def rows(quick: bool) -> list[dict]:
    """Return a row a batch size."""
    warm = compare(16, 1)  # what is loaded late
    return [warm] if quick else [compare(size, 15) for size in (128, 512, 2048)]
