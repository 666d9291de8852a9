"""Recall@1, 2, 4, 8 of N embeddings, against exact searches by faiss (flat) and scikit-learn."""

import prepared
import timing
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors

from cubslib.metrics import recall_at_k

KS = (1, 2, 4, 8)
DIM, PER_CLASS = 512, 83


def embeddings(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loose classes: unit vectors (N, 512) and labels (N,)."""
    generator = torch.manual_seed(0)
    labels = torch.randint(-(-size // PER_CLASS), (size,), generator=generator)
    centres = torch.randn(int(labels.max()) + 1, DIM, generator=generator)
    noise = torch.randn(size, DIM, generator=generator)
    return F.normalize(0.3 * centres[labels] + noise), labels


def score(nearest: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """Return the recalls of the nearest (N, 9), the query among them or not."""
    itself = nearest == torch.arange(len(labels))[:, None]
    hits = (labels[nearest] == labels[:, None]) & ~itself
    rank = (~itself).cumsum(1)
    return {k: (hits & (rank <= k)).any(1).float().mean().item() for k in KS}


def contenders(size: int) -> dict:
    """Return who computes the recalls; scikit-learn only where it does not take minutes."""
    unit, labels = embeddings(size)
    faiss = prepared.peer("faiss")

    def by_faiss():
        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(DIM)
        index.add(unit.numpy())
        return score(torch.from_numpy(index.search(unit.numpy(), max(KS) + 1)[1]), labels)

    def by_sklearn():
        model = NearestNeighbors(n_neighbors=max(KS) + 1, algorithm="brute").fit(unit.numpy())
        return score(torch.from_numpy(model.kneighbors(unit.numpy())[1]), labels)

    found = {"ours": lambda: recall_at_k(unit, labels, KS)}
    found |= {"faiss": by_faiss} if faiss else {}
    return found | ({"sklearn": by_sklearn} if size <= 10_000 else {})


def compare(size: int, repeats: int) -> dict:
    """Compare at N images; what they find is kept from the runs that are timed."""
    results, own = {}, contenders(size)
    memory = {"ours MiB": timing.peak_mib(own["ours"])} if size <= 10_000 else {}  # by one thread
    times = timing.seconds(
        {name: lambda n=name: results.update({n: own[n]()}) for name in own}, repeats
    )
    row = {"N": size, "ours s": times["ours"], "Recall@1": results["ours"][1]} | memory
    for name in sorted(own.keys() - {"ours"}):
        differs = max(abs(results["ours"][k] - results[name][k]) for k in KS)
        row |= {
            f"{name} s": times[name],
            f"{name} / ours": times[name] / times["ours"],
            f"differs from {name}": differs,
        }
    return row


def rows(quick: bool) -> list[dict]:
    """Return a row a number of images."""
    return [compare(64, 1)] if quick else [compare(8_131, 5), compare(60_000, 5)]
