"""Recall@1, 2, 4, 8 against a search for the nearest by faiss (exact, flat) and scikit-learn.

Run: python tests/benchmarks/recall.py [numbers of images, each with an optional =repeats]
"""

import sys

import faiss
import timing
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from cubslib.metrics import recall_at_k

KS = (1, 2, 4, 8)


def score(nearest: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """Return the recalls of the nearest (N, 9), the query among them or not."""
    itself = nearest == torch.arange(len(labels))[:, None]
    hits = (labels[nearest] == labels[:, None]) & ~itself
    rank = (~itself).cumsum(1)
    return {k: (hits & (rank <= k)).any(1).float().mean().item() for k in KS}


def compare(size: int, dim: int = 512, per_class: int = 83, repeats: int = 5) -> dict:
    """Compare on loose classes; scikit-learn only where it does not take minutes."""
    generator = torch.manual_seed(0)
    labels = torch.randint(-(-size // per_class), (size,), generator=generator)
    centres = torch.randn(int(labels.max()) + 1, dim, generator=generator)
    unit = F.normalize(0.3 * centres[labels] + torch.randn(size, dim, generator=generator))
    faiss.omp_set_num_threads(torch.get_num_threads())

    def by_faiss():
        index = faiss.IndexFlatIP(dim)
        index.add(unit.numpy())
        return score(torch.from_numpy(index.search(unit.numpy(), max(KS) + 1)[1]), labels)

    def by_sklearn():
        model = NearestNeighbors(n_neighbors=max(KS) + 1, algorithm="brute").fit(unit.numpy())
        return score(torch.from_numpy(model.kneighbors(unit.numpy())[1]), labels)

    contenders = {"faiss": by_faiss, "cubslib": lambda: recall_at_k(unit, labels, KS)}
    if size <= 10_000:
        contenders["sklearn"] = by_sklearn
    memory = timing.peak_mib(contenders["cubslib"])
    found, expected = contenders["cubslib"](), contenders["faiss"]()
    times = timing.seconds(contenders, repeats)
    return {
        "N": size,
        "repeats": repeats,
        "faiss s": times["faiss"],
        "sklearn s": times.get("sklearn", float("nan")),
        "ours s": times["cubslib"],
        "faiss / ours": times["faiss"] / times["cubslib"],
        "ours MiB": memory,
        "Recall@1": found[1],
        "recall differs": max(abs(found[k] - expected[k]) for k in KS),
    }


if __name__ == "__main__":
    rows = []
    for argument in sys.argv[1:] or ["8131", "60000"]:
        size, _, repeats = argument.partition("=")
        rows.append(compare(int(size), repeats=int(repeats or 5)))
    timing.report("Recall@1, 2, 4, 8 of embeddings of 512 dimensions", rows)
