"""Scores: predictions or embeddings and labels → fractions in [0, 1].

Shapes: N images, C classes, D dimensions of an embedding, n queries in a block.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 2**24  # similarities held at once: 64 MiB in float32
NEVER = torch.iinfo(torch.long).max
TIE = 1e-6  # a negative this near to the best positive counts as nearer


def top_k_accuracy(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Return for each k the share of images whose class is among their k largest logits.

    Args:
        logits: (N, C) in any float type; where C < k, k is C.
        labels: (N,) in 0 … C - 1.
        ks: the k to report.

    Raises:
        ValueError: there is no image.

    >>> top_k_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), ks=(1, 2))[1]
    0.6666666666666666
    """
    if len(labels) == 0:
        raise ValueError("no image to score")
    best = logits.topk(min(max(ks), logits.shape[1])).indices  # (N, k)
    hits = best == labels.to(best.device)[:, None]
    return {k: hits[:, :k].any(1).sum().item() / len(labels) for k in ks}


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return counts (C, C): row = the true class, column = the predicted one."""
    pairs = labels * num_classes + predictions
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def recall_at_k(
    embeddings: Tensor, labels: Tensor, ks: Sequence[int] = (1, 2, 4, 8)
) -> dict[int, float]:
    """Return Recall@K: the share of queries with an image of their class among the K nearest.

    Every image is a query against all others; similarity is the cosine. A query is a hit at K
    where fewer than K negatives are at least as similar as its best positive (less 1e-6: ties
    count against the query, so collapsed embeddings score 0). A query whose class has no other
    image is a miss. Memory is bounded: queries are compared in blocks.

    Args:
        embeddings: (N, D) in any float type, normalised here in float32.
        labels: (N,) integers.
        ks: the K to report.

    Raises:
        ValueError: there is no image, or an embedding is not finite.

    >>> recall_at_k(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), torch.tensor([0, 0, 1]), ks=(1,))
    {1: 0.6666666666666666}
    """
    if len(labels) == 0:
        raise ValueError("no image to score")
    unit = F.normalize(embeddings.float(), dim=1)
    if not unit.isfinite().all():
        raise ValueError("an embedding is not finite")
    labels = labels.to(unit.device)
    block = max(BLOCK_ELEMENTS // len(unit), 1)
    nearer = torch.cat(
        [_nearer_negatives(unit, labels, start, block) for start in range(0, len(unit), block)]
    )
    return {k: (nearer < k).sum().item() / len(nearer) for k in ks}


def _nearer_negatives(unit: Tensor, labels: Tensor, start: int, block: int) -> Tensor:
    """Count (n,) the negatives as near as the best positive, for queries start … start + n - 1."""
    queries = torch.arange(start, min(start + block, len(unit)), device=unit.device)
    similarity = unit[queries] @ unit.T  # (n, N)
    same = labels[queries, None] == labels[None, :]
    negative = similarity.masked_fill(same, -torch.inf)
    same[torch.arange(len(queries)), queries] = False  # the query itself
    best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
    nearer = (negative >= best - TIE).sum(1)
    return nearer.masked_fill(best[:, 0].isinf(), NEVER)  # no positive: a miss


def chance(labels: Tensor, ks: Sequence[int] = (1, 2, 4, 8)) -> dict[int, float]:
    """Return the Recall@K of a random order, exactly.

    A query with p of its N - 1 others positive is missed at K with probability
    ∏_{i<K} (N - 1 - p - i) / (N - 1 - i).

    Args:
        labels: (N,) integers.
        ks: the K to report.
    """
    others = len(labels) - 1
    positives = labels.bincount()[labels].double() - 1
    missed = torch.ones(len(labels), dtype=torch.double)
    found = {}
    for i in range(max(ks)):
        missed *= ((others - positives - i) / max(others - i, 1)).clamp(min=0)
        found[i + 1] = 1 - missed.where(positives > 0, 1.0).mean().item()
    return {k: found[k] for k in ks}


def neighbours(
    queries: Tensor, gallery: Tensor, count: int, itself: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest of the gallery to each query: cosines and positions, both (Q, K).

    Args:
        queries: (Q, D), of length 1.
        gallery: (N, D), of length 1.
        count: K; N where there are fewer.
        itself: (Q,) the queries' own positions in the gallery, which are left out.
    """
    similarity = queries @ gallery.T
    if itself is not None:
        similarity[torch.arange(len(queries)), itself] = -torch.inf
    found = similarity.topk(min(count, len(gallery) - (itself is not None)))
    return found.values, found.indices
