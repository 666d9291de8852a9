"""What T4's second stage is held against, and how sure a difference is.

Some rows beside its two stages need no training: stage 1's features centred, or centred and
whitened, by what is known of the training classes; each stage averaged with the mirror images; each
without the photographs that stand under two labels. One is another run: the control, whose second
stage goes on with cross-entropy from the same stage 1.

Shapes: N images, D dimensions of an embedding, C classes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cubslib import CubsError, metrics
from cubslib.losses import CONTROL
from cubslib.packed import PackedImages
from cubslib.runs import Run, finished
from cubslib.runs.parameters import TASKS

KS = (1, 2, 4, 8)
DRAWS = 10_000  # of the bootstrap: the ends of its interval then vary little
STAGES = tuple(fit for fit, *_ in TASKS["T4"].fits)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) of features (N, D) and the matrix (D, D) that whitens them.

    Each is brought to length 1 first. W = U Λ^(-1/2) Uᵀ, where U Λ Uᵀ is their covariance S shrunk
    towards its mean variance m: a m I + (1 - a) S, as some directions hardly vary (a of Ledoit,
    Wolf: A well-conditioned estimator for large-dimensional covariance matrices, 2004, section 3).
    """
    unit = F.normalize(features.double(), dim=1)
    centred = unit - unit.mean(0)
    covariance = centred.T @ centred / len(unit)
    level = covariance.trace() / len(covariance) * torch.eye(len(covariance)).double()
    spread = (centred.square().sum(1).square().mean() - covariance.square().sum()) / len(unit)
    share = (spread / (covariance - level).square().sum()).nan_to_num(1.0).clamp(0, 1)
    variances, axes = torch.linalg.eigh(share * level + (1 - share) * covariance)
    scale = variances.clamp(min=1e-12).rsqrt()
    return unit.mean(0).float(), (axes * scale @ axes.T).float()


def duplicates(test: PackedImages, *others: PackedImages | None) -> NDArray[np.bool_]:
    """Return which test images (N,) stand, byte for byte, under a second label too.

    Args:
        test: the images asked about.
        *others: where the second label may be, beside test itself.

    Raises:
        CubsError: a file is gone.
    """
    labels: dict[bytes, set[int]] = {}
    digests = []
    for data in (test, *filter(None, others)):
        try:
            found = [hashlib.sha256((data.root / x).read_bytes()).digest() for x in data.names]
        except OSError as error:
            raise CubsError(f"{error.filename} cannot be read ({error.strerror}): restore it, then "
                            "run again.") from error  # fmt: skip
        digests.append(found)
        for digest, label in zip(found, data.labels.tolist(), strict=True):
            labels.setdefault(digest, set()).add(label)
    return np.array([len(labels[digest]) > 1 for digest in digests[0]])


def rows(arrays: Mapping[str, NDArray]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield what is scored of a run's arrays: a name, embeddings (N, D), labels (N,).

    The two stages come first; a row whose arrays are not there, or that no duplicate makes another
    than its stage's, is left out.
    """
    found = {stage: torch.from_numpy(arrays[f"embeddings_{stage}"]) for stage in STAGES}
    labels = torch.from_numpy(arrays["labels"])
    stages = dict(found)
    if "mean" in arrays:
        centred = stages["classification"] - torch.from_numpy(arrays["mean"])
        found["centred"] = centred
        found["whitened"] = centred @ torch.from_numpy(arrays["whitening"])
    found |= {f"{stage}, with mirror images": torch.from_numpy(arrays[f"mirrored_{stage}"])
              for stage in STAGES if f"mirrored_{stage}" in arrays}  # fmt: skip
    yield from ((name, embeddings, labels) for name, embeddings in found.items())
    once = ~torch.from_numpy(arrays.get("duplicates", np.ones(0, bool)))
    if 0 < once.sum() < len(once):
        for stage, embeddings in stages.items():
            yield f"{stage}, without duplicates", embeddings[once], labels[once]


def measures(embeddings: Tensor, labels: Tensor) -> dict[str, object]:
    """Return what a record holds of embeddings (N, D) with labels (N,), all in [0, 1].

    `recall` is Recall@K by K, `share_found` the hand-out's other reading of it.
    """
    read = {"recall": metrics.recall_at_k, "share_found": metrics.share_found}
    found = {name: function(embeddings, labels, KS) for name, function in read.items()}
    precision, average = metrics.precisions_at_r(embeddings, labels)
    return {name: {str(k): value for k, value in row.items()} for name, row in found.items()} | {
        "map_at_r": average.mean().item(), "r_precision": precision.mean().item(),
    }  # fmt: skip


def compare(one: Tensor, other: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Return by how much `one` is better than `other`, on the same queries.

    Args:
        one: embeddings (N, D).
        other: of the same images, of any length.
        labels: (N,).

    Returns:
        `recall_at_1` and `map_at_r`: the difference, and the ends of its 95 % interval.
    """
    hits = [(metrics.nearer_negatives(x, labels) < 1).double() for x in (one, other)]
    average = [metrics.precisions_at_r(x, labels)[1] for x in (one, other)]
    scores = {"recall_at_1": hits, "map_at_r": average}
    return {name: list(bootstrap(x - y, labels)) for name, (x, y) in scores.items()}


def control(run: Run) -> Path | None:
    """Return the finished run that shares stage 1 and went on with cross-entropy as long, if any.

    The control itself has none.
    """
    for folder, record in finished.sharing(run.folder, run.resolved):
        theirs = record["settings"]
        both = [its["recipes"].get("embedding") for its in (theirs, run.resolved)]
        one, other = ({k: v for k, v in (x or {}).items() if k != "label_smoothing"} for x in both)
        if one == other and theirs.get("mining") == CONTROL != run["mining"]:
            return folder
    return None


def against_control(run: Run, last: Tensor) -> dict[str, dict]:
    """Return by how much a run's embeddings (N, D) are better than the control's; {} without one.

    As of `compare`, with the control's name as `run`.
    """
    folder = control(run)
    if folder is None:
        return {}
    with suppress(CubsError):  # its arrays are gone: no reason to lose this run's record
        its = torch.from_numpy(finished.arrays(folder)["embeddings_embedding"])
        return {CONTROL: compare(last, its, run.test.labels) | {"run": folder.name}}
    return {}


def bootstrap(differences: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Return the mean of paired differences and its 95 % interval over classes: mean, low, high.

    C classes are drawn with replacement, each with all its queries: the interval speaks of other
    unseen classes, not of other images of these (Efron, Tibshirani: An introduction to the
    bootstrap, 1993, chapter 13). The draws are the same at every call.

    Args:
        differences: (N,) of two scores of the same queries.
        labels: (N,) their classes.
    """
    _, of_class, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.double)
    sums.index_add_(0, of_class, differences.double())
    chance = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(counts), (DRAWS, len(counts)), generator=chance)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = means.quantile(means.new_tensor([0.025, 0.975])).tolist()
    return (sums.sum() / counts.sum()).item(), low, high
