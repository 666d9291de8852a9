"""Scores: predictions or embeddings and labels → fractions in [0, 1]; the nearest of a gallery.

Embeddings are compared by the cosine, in float32 under autocast too, and in tiles or blocks: an
N × N matrix is never held.

Shapes: N images, C classes, D dimensions of an embedding, Q queries, n of them in a block; R
images of the query's class beside it, K neighbours.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cubslib import CubsError

BLOCK_ELEMENTS = 2**24  # similarities held at once in a block: 64 MiB in float32
TILE = 512  # images a side of a tile, small enough for a processor's cache
TIE = 1e-6  # a negative this near to a positive counts as nearer
SHORTEST = 1e-12  # a shorter embedding has no direction: its cosines go to 0


def top_k_accuracy(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Return for each k the share of images whose class is among their k largest logits.

    Args:
        logits: (N, C) in any float type; where C < k, k is C.
        labels: (N,) in 0 … C - 1.
        ks: the k to report.

    Raises:
        CubsError: there is no image, the shapes differ, or a k is no whole number above 0.

    >>> top_k_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), ks=(1, 2))[1]
    0.6666666666666666
    """
    _check(logits, labels, ks)
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

    Every image is a query against all others. It is a hit at K where fewer than K negatives are
    nearer than its best positive; where its class has no other image it is a miss.

    Args:
        embeddings: (N, D) in any float type, normalised here.
        labels: (N,) integers.
        ks: the K to report.

    Raises:
        CubsError: there is no image, the shapes differ, an embedding is not finite, or a K is no
            whole number above 0.

    >>> recall_at_k(torch.tensor([[1.0, 0], [1, 0.1], [0, 1]]), torch.tensor([0, 0, 1]), ks=(1,))
    {1: 0.6666666666666666}
    """
    _check(embeddings, labels, ks)
    nearer = nearer_negatives(embeddings, labels)
    return {k: (nearer < k).sum().item() / len(nearer) for k in ks}


def nearer_negatives(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Count for each image the negatives nearer than its best positive: whole floats (N,) ≥ 0.

    A negative within 1e-6 counts as nearer, so collapsed embeddings score 0; for an image without
    a positive the count is inf. Nothing is sorted by similarity: the best positive is known from
    the image's own class, and S is symmetric, so that one half of it gives the counts of both.

    Args:
        embeddings: (N, D) in any float type, normalised here.
        labels: (N,) integers.

    Raises:
        CubsError: as `recall_at_k`.
    """
    _check(embeddings, labels)
    labels, order = labels.to(embeddings.device).sort()  # a class's images side by side
    unit = _unit(embeddings)[order]
    reach = _best_positive(unit, labels) - TIE
    nearer = torch.zeros_like(reach)
    for rows, columns, shared in _tiles(labels, TILE):
        similarity = _cosines(unit[rows], unit[columns])
        if shared:
            negative = labels[rows, None] != labels[columns]
            similarity = similarity.where(negative, -torch.inf)
        nearer[rows] += _at_least(similarity, reach[rows, None]).sum(1)
        if rows != columns:
            nearer[columns] += _at_least(similarity, reach[columns]).sum(0)
    nearer[reach.isinf()] = torch.inf
    return torch.empty_like(nearer).scatter_(0, order, nearer)


def precisions_at_r(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each query's R-precision and average precision at R, both (N,) in [0, 1].

    The first is the share of the query's class among its R nearest; the second 1/R Σ_{i≤R} P(i),
    P(i) being the precision among the i nearest where the i-th is a hit, else 0. Musgrave,
    Belongie, Lim: A metric learning reality check, ECCV 2020, section 3.1. Ties and classes of one
    image count as in `recall_at_k`: against the query.

    Args:
        embeddings: (N, D) in any float type, normalised here.
        labels: (N,) integers.

    Raises:
        CubsError: as `recall_at_k`.
    """
    shares, means = [], []
    for hits, r in _nearest(embeddings, labels):
        places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
        hits = hits & (places <= r[:, None])
        shares.append(hits.sum(1) / r)
        means.append((hits.cumsum(1) / places * hits).sum(1) / r)
    return torch.cat(shares), torch.cat(means)


def r_precision(embeddings: Tensor, labels: Tensor) -> float:
    """Return the mean R-precision; see `precisions_at_r`."""
    return precisions_at_r(embeddings, labels)[0].mean().item()


def map_at_r(embeddings: Tensor, labels: Tensor) -> float:
    """Return MAP@R, the mean average precision at R; see `precisions_at_r`."""
    return precisions_at_r(embeddings, labels)[1].mean().item()


def share_found(
    embeddings: Tensor, labels: Tensor, ks: Sequence[int] = (1, 2, 4, 8)
) -> dict[int, float]:
    """Return the mean share of the query's class, R images, that its K nearest hold, in [0, 1].

    What information retrieval calls recall. It is at most K / R, and not what Recall@K means in
    metric learning. Arguments, ties and errors as of `recall_at_k`.
    """
    _check(embeddings, labels, ks)
    found = [hits.cumsum(1) / r[:, None] for hits, r in _nearest(embeddings, labels, max(ks))]
    found = torch.cat(found).mean(0).tolist()
    return {k: found[min(k, len(found)) - 1] if found else 0.0 for k in ks}


def chance(labels: Tensor, ks: Sequence[int] = (1, 2, 4, 8)) -> dict[int, float]:
    """Return the Recall@K of a random order, exactly.

    A query with p of its N - 1 others positive is missed at K with probability
    ∏_{i<K} (N - 1 - p - i) / (N - 1 - i).

    Args:
        labels: (N,) integers.
        ks: the K to report.

    Raises:
        CubsError: there is no image, or a K is no whole number above 0.
    """
    _check(labels[:, None], labels, ks)
    others = len(labels) - 1
    positives = labels.unique(return_inverse=True, return_counts=True)
    positives = positives[2][positives[1]].double() - 1  # (N,)
    missed, found = torch.ones_like(positives), {}
    for i in range(max(ks)):
        missed *= ((others - positives - i) / max(others - i, 1)).clamp(min=0)
        found[i + 1] = 1 - missed.where(positives > 0, 1.0).mean().item()
    return {k: found[k] for k in ks}


def neighbours(
    queries: Tensor, gallery: Tensor, count: int, itself: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each query's nearest of a gallery, best first: cosines and positions, both (Q, K).

    Args:
        queries: (Q, D), normalised here.
        gallery: (N, D), normalised here.
        count: K ≥ 1; as many as there are, where there are fewer.
        itself: (Q,) positions in the gallery that are not to be found: the queries' own.

    Raises:
        CubsError: an embedding is not finite.

    >>> neighbours(torch.eye(2), torch.tensor([[0.0, 2], [3, 4]]), 1)[1]
    tensor([[1],
            [0]])
    """
    queries, gallery = _unit(queries), _unit(gallery)
    count, block = min(count, len(gallery) - (itself is not None)), _rows(len(gallery))
    found = []
    for start in range(0, len(queries), block):
        similarity = _cosines(queries[start : start + block], gallery)  # (n, N)
        if itself is not None:
            similarity.scatter_(1, itself[start : start + block, None], -torch.inf)
        found.append(similarity.topk(count))
    return torch.cat([x.values for x in found]), torch.cat([x.indices for x in found])


def _check(rows: Tensor, labels: Tensor, ks: Sequence[int] = (1,)) -> None:
    """Refuse what cannot be scored: rows (N, ·), labels (N,) and the k."""
    if rows.ndim != 2 or labels.shape != rows.shape[:1]:
        raise CubsError(
            f"labels are {tuple(labels.shape)} for {tuple(rows.shape)}; "
            "they must be (N,) for (N, C) logits or (N, D) embeddings."
        )
    if len(labels) == 0:
        raise CubsError("there is no image to score: give at least one.")
    if not ks or not all(type(k) is int and k > 0 for k in ks):
        raise CubsError(f"ks are {tuple(ks)}; they must be whole numbers above 0.")


def _unit(embeddings: Tensor) -> Tensor:
    """Divide embeddings (N, D) by their lengths, in float32."""
    embeddings = embeddings.float()
    length = embeddings.norm(dim=1, keepdim=True)
    if not length.isfinite().all():
        raise CubsError("an embedding is not finite, or longer than float32 holds.")
    return embeddings / length.clamp(min=SHORTEST)


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Compare unit vectors (n, D) with (N, D), each with each: (n, N), float32."""
    with torch.autocast(one.device.type, enabled=False):
        return one @ other.T


def _at_least(similarity: Tensor, reach: Tensor) -> Tensor:
    """Return 1.0 where a cosine is at least `reach`, else 0.0: floats add faster than booleans."""
    return torch.ge(similarity, reach, out=torch.empty_like(similarity))


def _tiles(labels: Tensor, side: int) -> Iterator[tuple[slice, slice, bool]]:
    """Cut the upper half of an N × N matrix: rows, columns, whether they share a class.

    Args:
        labels: (N,), sorted.
        side: the longest side of a tile.
    """
    cuts = [slice(start, min(start + side, len(labels))) for start in range(0, len(labels), side)]
    labels = labels.tolist()
    for i, rows in enumerate(cuts):
        for columns in cuts[i:]:
            yield rows, columns, labels[rows.stop - 1] >= labels[columns.start]


def _best_positive(unit: Tensor, labels: Tensor) -> Tensor:
    """Return each image's highest cosine within its class (N,); -inf where it is alone."""
    best = unit.new_full((len(unit),), -torch.inf)
    for rows, columns, shared in _tiles(labels, TILE // 4):
        if shared:
            positive = labels[rows, None] == labels[columns]
            if rows == columns:
                positive.fill_diagonal_(False)
            similarity = _cosines(unit[rows], unit[columns]).where(positive, -torch.inf)
            best[rows] = best[rows].maximum(similarity.amax(1))
            best[columns] = best[columns].maximum(similarity.amax(0))
    return best


def _rows(num_images: int) -> int:
    """Return how many queries are compared with so many images at once."""
    return max(BLOCK_ELEMENTS // num_images, 1)


def _nearest(embeddings: Tensor, labels: Tensor, count: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for blocks of queries, which of their K nearest are hits, (n, K), and R (n,).

    K is `count`, or the largest R; R is given as 1 where it is 0. A positive gives way to a
    negative within 1e-6.
    """
    _check(embeddings, labels)
    unit, labels = _unit(embeddings), labels.to(embeddings.device)
    places = torch.arange(len(unit), device=unit.device)
    count = min(count or int(labels.unique(return_counts=True)[1].max()) - 1, len(unit) - 1)
    for queries in places.split(_rows(len(unit))):
        similarity = _cosines(unit[queries], unit)  # (n, N)
        same = labels[queries, None] == labels
        similarity = (similarity - TIE * same).scatter_(1, queries[:, None], -torch.inf)
        nearest = similarity.topk(count).indices
        yield same.gather(1, nearest), (same.sum(1) - 1).clamp(min=1)
