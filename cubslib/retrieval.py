"""A gallery of embeddings: build, score, save, search with one's own photograph.

Shapes: N images in the gallery, D dimensions of an embedding, Q queries, K neighbours.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cubslib import CubsError, metrics, models, records, resolve
from cubslib.augment import prepare
from cubslib.disk import fingerprint
from cubslib.packed import decode
from cubslib.runs import Run
from cubslib.scoring import outputs
from cubslib.training import launch, load, load_state

KS = (1, 2, 4, 8)


def initialise(run: Run, model: nn.Module) -> None:
    """Give `model` the weights that T4 begins from; its last layer keeps its own.

    Nothing is done where the run begins from random weights. A run that has a checkpoint of its
    own goes on without these.

    Raises:
        CubsError: the checkpoint is gone or another than the run began from, or does not fit.
    """
    path = resolve.first_weights(run.folder, run.asked, run.resolved)
    begun = (run.folder / "checkpoints" / "classification" / "last.ckpt").exists()
    if path is None or (begun and not path.exists()):
        return
    saved = records.checkpoint(path)["state_dict"]
    if not begun and fingerprint(path.read_bytes()) not in run.resolved["origin"]:
        raise CubsError(
            f"{path} is not what {run.folder.name} began from: restore it, or ask for restart=True."
        )
    saved = {key: value for key, value in saved.items() if not key.startswith("fc.")}
    own = {
        key for key in model.state_dict() if not key.startswith("fc.") and "attention" not in key
    }
    if own - saved.keys():
        raise CubsError(f"{path} is a checkpoint of another network: give one of ResNet-18.")
    load_state(model, saved, path, strict=False)


def gallery(run: Run, stage: str, model: nn.Module) -> Tensor:
    """Return the unseen classes' embeddings (N, D) after a stage, each of length 1.

    After `classification` they are the features below the classification layer. A finished run's
    are read from its files.
    """
    if run.finished:
        return torch.from_numpy(run.arrays[f"embeddings_{stage}"])
    head = "embedding_dim" in model.config
    found = outputs(launch(run), model, run.test, run.resolved["image_size"], head)
    return F.normalize(found, dim=1)


def record_retrieval(run: Run, model: nn.Module, stages: dict[str, Tensor]) -> dict:
    """Score each stage's gallery by Recall@1, 2, 4, 8, finish the run and return its record.

    Args:
        run: the run; where it is finished its record is read and nothing is scored.
        model: the network after the last stage.
        stages: stage → embeddings (N, D) of `run.test`, in order.
    """
    if run.finished:
        return run.record
    labels = run.test.labels
    recalls = {stage: metrics.recall_at_k(found, labels, KS) for stage, found in stages.items()}
    rows = [f"{stage},{k},{value}" for stage, row in recalls.items() for k, value in row.items()]
    run.write("recall.csv", "\n".join(["stage,k,recall", *rows]) + "\n")
    arrays = {f"embeddings_{stage}": found.numpy() for stage, found in stages.items()}
    arrays |= {"labels": labels.numpy(), "names": np.array(run.test.names)}
    arrays["classes"] = np.array([run.test.classes[target] for target in run.test.targets])
    recalls = {stage: {str(k): value for k, value in row.items()} for stage, row in recalls.items()}
    last = list(stages)[-1]
    return run.finish(last, arrays, models.num_parameters(model), recall=recalls)


def chance(labels: Tensor) -> dict[int, float]:
    """Return the Recall@K (K = 1, 2, 4, 8) of a random order, exactly.

    A query with p of its N - 1 others positive is missed at K with probability
    ∏_{i<K} (N - 1 - p - i) / (N - 1 - i).
    """
    others = len(labels) - 1
    positives = labels.bincount()[labels].double() - 1
    missed = torch.ones(len(labels), dtype=torch.double)
    found = {}
    for i in range(max(KS)):
        missed *= ((others - positives - i) / max(others - i, 1)).clamp(min=0)
        found[i + 1] = 1 - missed.where(positives > 0, 1.0).mean().item()
    return {k: found[k] for k in KS}


def nearest(queries: Tensor, embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` nearest of the gallery to each query: cosines and positions, both (Q, K).

    Args:
        queries: (Q, D), of length 1.
        embeddings: the gallery (N, D), of length 1.
        count: K; N where there are fewer.
    """
    found = (queries @ embeddings.T).topk(min(count, len(embeddings)))
    return found.values, found.indices


def neighbours(embeddings: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return for some positions (Q,) of the gallery their nearest others, as positions (Q, K)."""
    similarity = embeddings[queries] @ embeddings.T
    similarity[torch.arange(len(queries)), queries] = -torch.inf
    return similarity.topk(count).indices


@torch.no_grad()
def search(run_dir: str | Path, photo: str | Path, count: int = 8) -> list[tuple[str, str, float]]:
    """Return the gallery's nearest images to one photograph: (file, class, cosine), best first.

    Args:
        run_dir: a finished T4 run.
        photo: an image file; it is squeezed to the square that the network reads.
        count: how many.

    Raises:
        CubsError: the photograph cannot be read, or the run has no gallery.
    """
    model = load(run_dir)
    arrays = Path(run_dir) / "arrays.npz"
    if "embedding_dim" not in model.config or not arrays.is_file():
        raise CubsError(
            f"{Path(run_dir).name} is no run of T4 and has no gallery: name one that is."
        )
    image = torch.from_numpy(decode(Path(photo), model.image_size))[None]  # (1, 3, S, S)
    query = F.normalize(model(prepare(image, model.image_size)), dim=1)
    with np.load(arrays) as file:
        names, classes = file["names"], file["classes"]
        cosines, found = nearest(query, torch.from_numpy(file["embeddings_embedding"]), count)
    return [
        (str(names[i]), str(classes[i]), cosine)
        for cosine, i in zip(cosines[0].tolist(), found[0].tolist(), strict=True)
    ]
