"""Networks judged: outputs for a data set, scores and records, one photograph.

Shapes: N images in a data set, W processes, S pixels a side, F outputs of a network, C classes,
D dimensions of an embedding.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from cubslib import CubsError, controls, metrics, models
from cubslib.augment import prepare
from cubslib.packed import PackedImages, decode
from cubslib.runs import Run
from cubslib.training import load

FIRST = 8  # images of a class that seen and unseen classes are compared on
EVAL_BATCH = 256  # images at a time: nothing is kept for a backward pass


@torch.no_grad()
def outputs(
    fabric: Fabric, model: nn.Module, data: PackedImages, size: int,
    head=True, rows=None, mirrored=False,
) -> Tensor:  # fmt: skip
    """Return the network's outputs for all images (N, F), float32 on the CPU.

    Args:
        fabric: its processes share the images.
        model: judged in eval mode, left in the mode it was in.
        data: N images.
        size: S that they are resized to.
        head: logits or embeddings; False for the features before the last layer.
        rows: positions of the N images in `data`, where not all of them are meant.
        mirrored: average the outputs of each image and of its mirror image.
    """
    training, function = model.training, model if head else model.features
    model.to(fabric.device).eval()
    world, rows = fabric.world_size, np.arange(len(data)) if rows is None else np.asarray(rows)
    padded = np.resize(rows, -(-len(rows) // world) * world)  # an equal number for each
    own, found = padded[fabric.global_rank :: world], []
    for start in range(0, len(own), EVAL_BATCH):
        images = prepare(fabric.to_device(data.read(own[start : start + EVAL_BATCH])), size)
        sides = (images, images.flip(-1)) if mirrored else (images,)
        with fabric.autocast():
            given = [function(x.contiguous(memory_format=torch.channels_last)) for x in sides]
        found.append(sum(x.float() for x in given) / len(given))
    model.train(training)
    gathered = fabric.all_gather(torch.cat(found)).view(world, len(own), -1)
    return gathered.transpose(0, 1).flatten(0, 1)[: len(rows)].cpu()


def accuracy(fabric: Fabric, model: nn.Module, data: PackedImages, size: int) -> dict[str, float]:
    """Return `top1` and `top5` of a classifier on data of its own classes."""
    found = metrics.top_k_accuracy(outputs(fabric, model, data, size), data.targets)
    return {f"top{k}": value for k, value in found.items()}


def recall(fabric: Fabric, model: nn.Module, data: PackedImages, size: int) -> dict[str, float]:
    """Return `recall_at_1` of the embeddings, or of a classifier's features."""
    head = "embedding_dim" in model.config
    found = metrics.recall_at_k(outputs(fabric, model, data, size, head), data.labels, ks=(1,))
    return {"recall_at_1": found[1]}


def record_classifier(run: Run, fit: str, model: nn.Module, **more) -> dict:
    """Score a chosen classifier on val and, once, on test; finish the run and return its record.

    Its `test_mirrored` is of logits averaged over each image and its mirror image.

    Args:
        run: the run; where it is finished its record is read and nothing is scored.
        fit: the chosen fit, whose weights `model` has.
        model: the network.
        **more: what else the record holds, by name.
    """
    if run.finished:
        return run.record
    fabric, size = run.fabric, run["image_size"]
    val = accuracy(fabric, model, run.val, size)
    both = [outputs(fabric, model, run.test, size, mirrored=x) for x in (False, True)]
    shares = [metrics.top_k_accuracy(logits, run.test.targets) for logits in both]
    test, mirrored = ({f"top{k}": value for k, value in found.items()} for found in shares)
    arrays = {"logits": both[0].numpy(), "labels": run.test.targets.numpy()}
    more |= {"val": val, "test": test, "test_mirrored": mirrored}
    return run.finish(fit, arrays, models.num_parameters(model), **more)


def record_fashions(run: Run) -> dict:
    """Choose T3's fashion on val, score it alone on test, finish the run and return its record.

    The record's `fashions` has val's `top1` and `top5` of every fashion that was trained.
    """
    if run.finished:
        return run.record
    chosen = run.best_fit()
    on_val = {
        fit: {f"top{k}": run.best(fit)[f"val_top{k}"] for k in (1, 5)} for fit in run["recipes"]
    }
    return record_classifier(run, chosen, load(run.checkpoint(chosen)), fashions=on_val)


def gallery(run: Run, stage: str, model: nn.Module, seen: bool = False) -> Tensor:
    """Return the unseen classes' embeddings (N, D) after a stage, each of length 1.

    After `classification` they are the features below the classification layer. A finished run's
    are read from its files.

    Args:
        run: its test images are embedded.
        stage: `classification` or `embedding`.
        model: the network after that stage.
        seen: instead, embed the first images of every training class.
    """
    if run.finished:
        return torch.from_numpy(run.arrays[f"{'seen' if seen else 'embeddings'}_{stage}"])
    data, head = run.train if seen else run.test, "embedding_dim" in model.config
    rows = first_of_each(data.labels, FIRST) if seen else None
    return F.normalize(outputs(run.fabric, model, data, run["image_size"], head, rows), dim=1)


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """Return the positions of the first `count` images of each class, in order.

    >>> first_of_each(torch.tensor([5, 5, 7, 5, 7]), 2).tolist()
    [0, 1, 2, 4]
    """
    places = [torch.nonzero(labels == label)[:count, 0] for label in labels.unique()]
    return torch.cat(places).sort().values


def untrained_rows(run: Run, stage: str, model: nn.Module) -> dict[str, NDArray]:
    """Return what the rows of `controls` that need no training are made from, by name.

    `mirrored_<stage>` (N, D): the gallery, averaged with that of the mirror images. After
    `classification` also `mean` and `whitening`: see `controls.statistics`, here of all training
    images. A finished run's are in its files: nothing is returned.

    Args:
        run: its images are embedded.
        stage: `classification` or `embedding`.
        model: the network after that stage.
    """
    if run.finished:
        return {}
    how = run["image_size"], "embedding_dim" in model.config
    both = outputs(run.fabric, model, run.test, *how, mirrored=True)
    found = {f"mirrored_{stage}": F.normalize(both, dim=1).numpy()}
    if stage == "classification":
        known = controls.statistics(outputs(run.fabric, model, run.train, *how))
        found |= {name: x.numpy() for name, x in zip(("mean", "whitening"), known, strict=True)}
    return found


def record_retrieval(
    run: Run,
    model: nn.Module,
    stages: dict[str, Tensor],
    seen: dict[str, Tensor],
    **more: NDArray,
) -> dict:
    """Score each stage's gallery, finish the run and return its record.

    `recall` has Recall@1, 2, 4, 8 of both stages; `measures` all of `controls.measures` for each of
    `controls.rows`; `differences` by how much the last stage is better than each row of the same
    images, and than `cross_entropy`, a finished run that went on with it from the same stage 1.

    Args:
        run: the run; where it is finished its record is read and nothing is scored.
        model: the network after the last stage.
        stages: stage → embeddings (N, D) of `run.test`, in order.
        seen: stage → embeddings of the training classes' first images, kept for comparison.
        **more: what `untrained_rows` returned after each stage.
    """
    if run.finished:
        return run.record
    labels = run.test.labels
    arrays = {f"embeddings_{stage}": found.numpy() for stage, found in stages.items()} | more
    arrays |= {f"seen_{stage}": found.numpy() for stage, found in seen.items()}
    arrays |= {"labels": labels.numpy(), "names": np.array(run.test.names)}
    arrays["duplicates"] = controls.duplicates(run.test, run.train, run.val)
    arrays["seen_labels"] = run.train.labels[first_of_each(run.train.labels, FIRST)].numpy()
    arrays["classes"] = np.array([run.test.classes[target] for target in run.test.targets])
    found = {name: controls.measures(*row) for name, *row in controls.rows(arrays)}
    last = stages["embedding"]
    differences = {name: controls.compare(last, row, labels)
                   for name, row, own in controls.rows(arrays)
                   if name != "embedding" and len(own) == len(labels)}  # fmt: skip
    differences |= controls.against_control(run, last)
    recalls = {stage: found[stage]["recall"] for stage in stages}
    rows = [f"{stage},{k},{value}" for stage, row in recalls.items() for k, value in row.items()]
    run.write("recall.csv", "\n".join(["stage,k,recall", *rows]) + "\n")
    scores = {"recall": recalls, "measures": found, "differences": differences}
    return run.finish(list(stages)[-1], arrays, models.num_parameters(model), **scores)


@torch.no_grad()
def classify(model: nn.Module, photo: str | Path, count: int = 5) -> list[tuple[str, float]]:
    """Return the likeliest classes of one photograph with their probabilities, best first.

    Args:
        model: a classifier as `load` gives it.
        photo: an image file; it is squeezed to the square that the network reads.
        count: how many classes.

    Raises:
        CubsError: the photograph cannot be read, or the network has no classification layer.
    """
    if "embedding_dim" in model.config:
        raise CubsError("this run's network embeds and has no classes: name a run of T1, T2 or T3.")
    image = torch.from_numpy(decode(Path(photo), model.image_size))[None]  # (1, 3, S, S)
    logits = model(prepare(image, model.image_size))
    best = logits.softmax(1)[0].topk(min(count, len(model.classes)))
    return [
        (model.classes[i], p)
        for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
