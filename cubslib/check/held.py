"""What is held against the oracles: for each documented name its inputs and what they lead to.

An outcome is a dict of named tensors in float64, or {"raises": a sentence}. Inputs go from small
to large, so that the first at which two versions differ is the smallest of them. For what is
drawn at random, or free in its form, an outcome is a list of facts, 1 for yes and 0 for no.

Shapes: see `oracles`.
"""

import atexit
import copy
import inspect
import itertools
import random
import shutil
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils._python_dispatch import TorchDispatchMode

from cubslib import blocks, losses, metrics
from cubslib.check import oracles

LAYERS = ("query", "key", "value", "project")


def waves(*shape, offset=0, digits=1):
    """Return numbers in [-1, 1] of few digits, always the same, without a pattern to the eye."""
    count = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(1.7 * count**1.6 + offset).round(decimals=digits).view(shape)


def known(block, scale=1.0):
    """Set the parameters of a block's documented layers to known numbers; return the block."""
    for number, name in enumerate(LAYERS):
        for kind in ("weight", "bias"):
            if (p := getattr(getattr(block, name, None), kind, None)) is not None:
                size = scale * 2 * (p.shape[1] if kind == "weight" else 4) ** -0.5
                p.data.copy_(size * waves(*p.shape, offset=number + len(kind), digits=3))
    return block


def _block(make, kind, x, features=None, scale=1.0):
    names = LAYERS if features else LAYERS[:3]
    block = make(*[x.shape[1], features][: 2 if features else 1])
    if lacks := [name for name in names if not hasattr(block, name)]:
        raise TypeError(f"it has no layer named {', '.join(lacks)}")
    mine = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if extra := [name for name, _ in block.named_parameters() if name not in mine]:
        raise TypeError(f"{extra[0]} is a parameter that the hand-out's block has not")
    weights = {f"gradient at {name}.weight": getattr(block, name).weight for name in names}
    return _with_gradients(known(block, scale).to(kind), x.to(kind), weights)


def _with_gradients(function, x, leaves=None):
    """Return function(x), and the gradients of a weighted sum of it at x and `leaves`."""
    leaves = {"gradient": x.requires_grad_()} | (leaves or {})
    out = function(x)
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"it returns {type(out).__name__}, not a tensor")
    found = [None] * len(leaves)
    if out.requires_grad:
        weighted = (out * (1 + waves(*out.shape, offset=9)).to(out)).sum()
        found = torch.autograd.grad(weighted, list(leaves.values()), allow_unused=True)
    result = {"output": out, "the type of x is kept": torch.tensor(out.dtype == x.dtype)}
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        result[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return result


def _joined(join, kind, x):
    one, two = (known(make(x.shape[1])).to(kind) for make in (oracles.Block1, oracles.Block2))
    return _with_gradients(lambda x: join(one, two, x), x.to(kind))


def _loss(make, kind, embeddings, labels, alpha, beta, lam, margin):
    loss = make(alpha, beta, lam, margin)
    return _with_gradients(lambda x: loss(x, labels), embeddings.to(kind))


def _mine(mine, kind, similarity, labels, margin):
    positives, negatives = mine(similarity.to(kind), labels, margin)
    return {"positives": positives, "negatives": negatives}


def _recall(recall_at_k, kind, embeddings, labels, ks):
    found = recall_at_k(embeddings.to(kind), labels, ks)
    return {"recall": torch.tensor([float(found[k]) for k in ks])}


def _seeded(state):
    """Whatever generator a student's code draws from, let it begin anew."""
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def _sampler(sample, kind, labels, batch_size):
    draws = []
    for seed, state in ((3, 1), (3, 2), (4, 1)):
        _seeded(state)
        draws.append([[int(i) for i in batch] for batch in sample(labels, batch_size, seed)])
    tally = [labels[batch].unique(return_counts=True) for batch in draws[0]]
    own = labels.unique(return_counts=True)[1]
    per_batch = min(batch_size // 4, len(own))
    count = max(len(labels) // (4 * per_batch), 1)
    chosen = {tuple(classes.tolist()) for classes, _ in tally}
    return {
        f"there are {count} batches": len(tally) == count,
        f"each has {per_batch} classes": all(len(classes) == per_batch for classes, _ in tally),
        "each has 4 images of each class": all((sizes == 4).all() for _, sizes in tally),
        "each has as many of one class as of another": all(len(n.unique()) < 2 for _, n in tally),
        "no image twice in a batch": own.min() < 4 or all(len(set(b)) == len(b) for b in draws[0]),
        "the same seed draws the same": draws[0] == draws[1],
        "another seed draws others": len(labels) < 40 or draws[0] != draws[2],
        "classes change from batch to batch": len(labels) < 40 or len(chosen) > 1,
    }


@cache
def drawn(data):
    """Draw a small data set in the official layout; return its root and a row a file.

    A row is the image's mean colour, the official part, the class, and whether it is grayscale.
    """
    root, rows = Path(tempfile.mkdtemp()), []
    atexit.register(shutil.rmtree, root, ignore_errors=True)

    def picture(path, part, label):
        n, grey = len(rows), len(rows) % 20 == 0
        colour = (
            [12 * (n // 20)] * 3
            if grey
            else [130 + 12 * (n % 10), n // 10 % 10 * 25, n // 100 * 22]
        )
        ramp = np.add.outer(*[np.linspace(-4, 4, 64)] * 2)[..., None]  # so that a flip shows
        pixels = (np.full((64, 64, 3), colour) + ramp).clip(0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L" if grey else "RGB").save(path, quality=95)
        rows.append((pixels.mean((0, 1)), part, label, grey))

    if data == "tiny":
        wnids = ["n03", "n01", "n04", "n02"]
        for n in range(120):
            wnid = wnids[n // 30]
            picture(root / f"train/{wnid}/images/{wnid}_{n % 30}.JPEG", "train", wnid)
        for n in range(16):
            picture(root / f"val/images/val_{n}.JPEG", "test", wnids[n % 4])
        annotations = [f"val_{n}.JPEG\t{wnids[n % 4]}\t0\t0\t63\t63\n" for n in range(16)]
        (root / "val/val_annotations.txt").write_text("".join(annotations))
        (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
        (root / "words.txt").write_text("".join(f"{wnid}\ta thing\n" for wnid in wnids))
        return root, rows
    corners = [f"bbox_{side}" for side in ("x1", "y1", "x2", "y2")]
    annos = np.zeros((2, 1, 196), [(name, object) for name in (*corners, "class", "fname")])
    for n in range(392):
        half, label = n % 2, n // 2
        name = f"{label + 1:05}.jpg"
        annos[half, 0, label] = (2, 2, 63, 63, label + 1, name)
        picture(
            root / ("cars_train", "cars_test")[half] / name, ("train", "test")[label > 97], label
        )
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": annos[0]})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": annos[1]})
    names = np.array([[f"car {n}" for n in range(196)]], object)
    savemat(root / "devkit/cars_meta.mat", {"class_names": names})
    return root, rows


def _read(make, split, data, state):
    """Return the files (by their colour), labels and images that a data set gives."""
    _seeded(state)
    root, rows = drawn(data)
    items = make(root, split)
    items = [items[i] for i in range(len(items))]
    images = [torch.as_tensor(np.asarray(image)) for image, _ in items]
    images = [i * 255.0 if i.is_floating_point() else i.double() for i in images]
    if wrong := [i for i in images if i.ndim != 3 or len(i) != 3]:
        raise TypeError(f"an image is {tuple(wrong[0].shape)}, not (3, H, W)")
    means = torch.tensor(np.array([row[0] for row in rows]))
    colours = torch.stack([image.double().mean((1, 2)) for image in images])
    away, files = torch.cdist(colours, means, p=1).min(1)
    return files.tolist(), [int(label) for _, label in items], images, away.max().item()


def _data(make, kind, data):
    rows, facts, sets = drawn(data)[1], {}, {}
    for split in ("train", "val", "test") if data == "tiny" else ("train", "test"):
        (files, labels, images, away), again = (_read(make, split, data, n) for n in (1, 2))
        pairs = {(rows[file][2], label) for file, label in zip(files, labels, strict=True)}
        each = {len(set(side)) for side in zip(*pairs, strict=True)}
        sets[split], first = set(files), 98 if (data, split) == ("cars", "test") else 0
        facts[f"{split} has the files' colours"] = away < 12
        facts[f"{split} has one label a class"] = each == {len(pairs)}
        facts[f"{split} has images of most classes"] = len(pairs) > 2
        facts[f"{split} has labels from {first}"] = min(labels) == first
        facts[f"{split} has the same files after another seed"] = sets[split] == set(again[0])
        if split != "train":
            facts[f"{split} reads the same twice"] = all(map(torch.equal, images, again[2]))
    test = {n for n, row in enumerate(rows) if row[1] == "test"}
    learn = sets["train"] | sets.get("val", set())
    grey = [any(rows[n][3] for n in files) for files in (learn, sets["test"])]
    return facts | {
        "grayscale files are there": all(grey),
        "test has only its own images": sets["test"] <= test,
        "test has all of its own images": sets["test"] >= test,
        "no image of test is in another split": not learn & test,
        "all other images are in another split": len(learn - test) == len(rows) - len(test),
        "no image is in two splits": sum(map(len, sets.values())) == len(learn | sets["test"]),
        "val is a tenth of the train images": len(sets.get("val", range(12))) == 12,
    }


class Subject(NamedTuple):
    """A documented name: its arguments, how it is observed, and its inputs by what they test."""

    arguments: tuple[str, ...]
    observe: object
    inputs: dict[str, tuple]


def _labels(text):
    return torch.tensor([int(digit) for digit in text])


def _points(text, width=2, offset=0):
    """One embedding a digit of `text`, of any length (not normalised), and the digits as labels."""
    return (3 * waves(len(text), width, offset=offset) + 0.5).round(decimals=1), _labels(text)


def _similarities(text):
    """A symmetric matrix of exact binary fractions: a margin's border can be met exactly."""
    s = waves(len(text), len(text), digits=3).mul(8).round() / 8
    return s.triu(1) + s.triu(1).T + torch.eye(len(text), dtype=s.dtype), _labels(text)


_X = {"one image": (waves(1, 2, 1, 2),), "a square": (2 * waves(2, 4, 4, 4),),
      "a batch": (2 * waves(3, 5, 4, 3, offset=1),), "an even image": (torch.ones(2, 3, 4, 5).double(),)}  # fmt: skip
_EQUAL = torch.tensor([[0.6, 0.8]]).double().repeat(6, 1)
_FOUR, _TEN, _ORDER = (
    _points("0110", offset=2),
    _points("0120012343", 5),
    torch.tensor([3, 1, 0, 2]),
)
SUBJECTS = {
    "Block1": Subject(("channels", "features"), _block, {
        name: (x, features) for (name, (x,)), features in zip(_X.items(), (2, 3, 7, 4), strict=True)}
        | {"large logits": (_X["a batch"][0], 6, 4.0)}),
    "Block2": Subject(("channels",), _block, _X | {"large logits": (_X["a batch"][0], None, 4.0)}),
    **{name: Subject(("block1", "block2", "x"), _joined, _X)
       for name in ("parallel", "serial_12", "serial_21")},
    "mine": Subject(("similarity", "labels", "margin"), _mine, {
        "one class": (*_similarities("00"), 0.25), "no positives": (*_similarities("01"), 0.25),
        "three samples": (*_similarities("001"), 0.25), "four samples": (*_similarities("0110"), 0.25),
        "a margin of 0": (*_similarities("00112"), 0.0), "ten samples": (*_similarities("0120012343"), 0.25),
        "equal rows": (torch.ones(6, 6).double(), _labels("001122"), 0.125)}),
    "MultiSimilarityLoss": Subject(("alpha", "beta", "lam", "margin"), _loss, {
        "one class": (*_points("00"), 2.0, 50.0, 0.5, 0.1),
        "one image a class": (*_points("01"), 2.0, 50.0, 0.5, 0.1),
        "three samples": (*_points("001"), 2.0, 50.0, 0.5, 0.1),
        "four samples": (*_FOUR, 2.0, 50.0, 0.5, 0.1),
        "the same four in another order": (_FOUR[0][_ORDER], _FOUR[1][_ORDER], 2.0, 50.0, 0.5, 0.1),
        "equal rows": (_EQUAL, _labels("001122"), 2.0, 50.0, 0.5, 0.1),
        "ten samples": (*_TEN, 2.0, 50.0, 0.5, 0.1),
        "other α, β, λ and margin": (*_TEN, 7.0, 40.0, 0.8, 0.3)}),
    "recall_at_k": Subject(("embeddings", "labels", "ks"), _recall, {
        "two points": (*_points("00"), (1,)), "no positives": (*_points("012"), (1, 2)),
        "three points": (*_points("001"), (1, 2)), "four points": (*_points("0110"), (1, 2)),
        "six points": (*_points("011002", offset=3), (1, 2, 4)), "one class": (*_points("0000"), (1, 2)),
        "30 points": (*_points("012345" * 4 + "001127", 3), (1, 2, 4, 8)),
        "equal rows": (_EQUAL, _labels("010112"), (1, 2, 4))}),
    "class_balanced": Subject(("labels", "batch_size", "seed"), _sampler, {
        "8 images of 2 classes": (_labels("00110101"), 8), "one image a class": (_labels("0123"), 8),
        "more batch than classes": (_labels("012" * 6), 32),
        "43 images, not divisible": (_labels("0123456789" * 4 + "357"), 8),
        "100 images": (_labels("01234" * 20) + 7, 12)}),
    "TinyImageNet": Subject(("root", "split"), _data, {"a small drawn set": ("tiny",)}),
    "Cars196": Subject(("root", "split"), _data, {"a small drawn set": ("cars",)}),
}  # fmt: skip


def outcomes(name, thing, kind=torch.float32):
    """Return what each input of a documented name leads to with `thing`: input → outcome."""
    subject = SUBJECTS[name]
    try:
        inspect.signature(thing).bind(*subject.arguments)
    except (TypeError, ValueError) as error:
        asked = f"{name}({', '.join(subject.arguments)})"
        sentence = f"cannot be called as {asked}: {error}"
        return dict.fromkeys(subject.inputs, {"raises": sentence})
    return {
        case: _outcome(subject, thing, kind, arguments)
        for case, arguments in subject.inputs.items()
    }


def _outcome(subject, thing, kind, arguments):
    try:
        found = subject.observe(thing, kind, *copy.deepcopy(arguments))
        return {key: torch.as_tensor(value).detach().double() for key, value in found.items()}
    except (Exception, SystemExit) as error:
        return {"raises": sentence(error)}


def sentence(error: BaseException) -> str:
    """Say what was raised, and in which line of the student's file."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "MemoryError: it needs more memory than is allowed"
    not_theirs = str(Path(__file__).parent), str(Path(torch.__file__).parent), "<frozen"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith(not_theirs)]  # fmt: skip
    place = f" in line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {(str(error).splitlines() or [''])[0]}"[:300]


class _Largest(TorchDispatchMode):
    """Remembers the most numbers that one tensor held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        held = [
            t.numel() for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t)
        ]
        self.numbers = max(self.numbers, *held, 0)
        return out


def remarks(name, thing, found):
    """Return what is said of memory and speed, which nobody is failed for."""
    x, (embeddings, labels) = torch.rand(2, 16, 48, 48), _points("01234567" * 8, 64)
    calls = {  # the library's, how it is made, what it is called with, a side of its matrix
        "Block1": (blocks.CubsBlock1, (16, 512), (x,), 512),
        "Block2": (blocks.CubsBlock2, (16,), (x,), 48 * 48),
        "MultiSimilarityLoss": (losses.MultiSimilarityLoss, (2.0, 50.0, 0.5, 0.1),
                                (embeddings.float(), labels), torch.inf),
        "recall_at_k": (metrics.recall_at_k, (), (embeddings.float(), labels, (1, 8)), torch.inf),
    }  # fmt: skip
    if name not in calls or any("raises" in outcome for outcome in found.values()):
        return []
    library, made, called, side = calls[name]
    seconds, largest = [], _Largest()
    with torch.no_grad():
        for make in (library, thing):
            function = make(*made) if made else make
            times = [time.perf_counter() for _ in range(4) if function(*called) is not None]
            seconds.append(min(b - a for a, b in itertools.pairwise(times)))
        with largest:
            function(*called)
    said = [f"takes {seconds[1] / seconds[0]:.1f} × the library's time"]
    if largest.numbers >= side**2:
        said.append(f"holds a {side:,} × {side:,} matrix, which need not be held")
    return said
