"""What is held against the oracles: for each documented name its inputs and what they lead to.

An outcome is a dict of named tensors in float64, or {"raises": a sentence}. Inputs go from small
to large, so that the first at which two versions differ is the smallest of them. For what is
drawn at random, or free in its form, an outcome is a list of facts, 1 for yes and 0 for no.

Shapes: see `oracles`.
"""

import copy
import inspect
import itertools
import random
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path

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
    """Set a block's parameters to known numbers; return the block.

    Raises:
        TypeError: its parameters are not those of the documented layers.
    """
    layers = LAYERS[: 4 if hasattr(block, "project") else 3]
    wanted = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    parameters = dict(block.named_parameters())
    for name in sorted(wanted ^ set(parameters)):
        lacks = "lacks" if name in wanted else "has besides those of the hand-out"
        raise TypeError(f"the block {lacks} a parameter {name}")
    for number, (_, parameter) in enumerate(sorted(parameters.items())):
        size = 2 * scale / (parameter.shape[1] if parameter.ndim > 1 else 4) ** 0.5
        parameter.data.copy_(size * waves(*parameter.shape, offset=number, digits=3))
    return block


def _with_gradients(function, x, leaves=()):
    """Return function(x), and the gradients of a weighted sum of it at x and `leaves`."""
    leaves = {"gradient": x.requires_grad_()} | dict(leaves)
    out = function(x)
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"it returns {type(out).__name__}, not a tensor")
    found = [None] * len(leaves)
    if out.requires_grad:
        weighted = (out * (1 + waves(*out.shape, offset=9)).to(out)).sum()
        found = torch.autograd.grad(weighted, list(leaves.values()), allow_unused=True)
    result = {"output": out, "the type of x is kept": out.dtype == x.dtype}
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        result[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return result


def _block(make, kind, x, features=None, scale=1.0):
    block = known(make(x.shape[1], features) if features else make(x.shape[1]), scale).to(kind)
    weights = [(f"gradient at {n}", p) for n, p in block.named_parameters() if "weight" in n]
    return _with_gradients(block, x.to(kind), weights)


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


def _seeded(state, function, *arguments):
    """Call a function with every generator that it may draw from begun anew."""
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)
    return function(*arguments)


def _sampler(sample, kind, labels, batch_size):
    first, again, other = (
        [[int(i) for i in batch] for batch in _seeded(state, sample, labels, batch_size, seed)]
        for state, seed in ((1, 3), (2, 3), (1, 4))
    )
    tally = [labels[batch].unique(return_counts=True) for batch in first]
    own = labels.unique(return_counts=True)[1]
    classes = min(batch_size // 4, len(own))
    count, many = max(len(labels) // (4 * classes), 1), len(labels) >= 40
    return {
        f"there are {count} batches": len(first) == count,
        f"each has {classes} classes": all(len(has) == classes for has, _ in tally),
        "each has 4 images of each class": all((sizes == 4).all() for _, sizes in tally),
        "each has as many of one class as of another": all(len(n.unique()) < 2 for _, n in tally),
        "no image comes twice in one": own.min() < 4 or all(len({*b}) == len(b) for b in first),
        "the same seed draws the same": first == again,
        "another seed draws others": first != other or not many,
        "classes change": len({tuple(has.tolist()) for has, _ in tally}) > 1 or not many,
    }


@cache
def drawn(name):
    """Draw a small data set, a colour a file, every 20th grayscale, in the official layout.

    Returns:
        its root; the mean colours of its files (files, 3); a row a file: its split (`val` counts
        as `train`), its label, and whether it is grayscale; what removes the root at the end.
    """
    folder, numbers = tempfile.TemporaryDirectory(), itertools.count()
    root, side = Path(folder.name), 64 if name == "TinyImageNet" else 24

    def picture(path):
        n = next(numbers)
        colour = [130 + 12 * (n % 10), 25 * (n // 10 % 10), 22 * (n // 100)]
        pixels = np.add.outer(*[np.linspace(-4, 4, side)] * 2)[..., None]  # so that a flip shows
        pixels = (pixels + (colour if n % 20 else [12 * (n // 20)] * 3)).clip(0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (image if n % 20 else image.convert("L")).save(root / path)

    if name == "TinyImageNet":
        for n in range(120):
            picture(f"train/n{n // 30}/images/n{n // 30}_{n % 30}.JPEG")
        for n in range(16):
            picture(f"val/images/val_{n}.JPEG")
        rows = "".join(f"val_{n}.JPEG\tn{n % 4}\t0\t0\t63\t63\n" for n in range(16))
        (root / "val/val_annotations.txt").write_text(rows)
        (root / "wnids.txt").write_text("n2\nn0\nn1\nn3\n")
        (root / "words.txt").write_text("n0\ta thing\n")
    else:
        fields = "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"
        rows = np.zeros((2, 1, 196), [(field, object) for field in fields])
        for half, n in itertools.product((0, 1), range(196)):
            rows[half, 0, n] = 2, 2, side - 1, side - 1, n + 1, f"{n + 1:05}.jpg"
            picture(f"{('cars_train', 'cars_test')[half]}/{n + 1:05}.jpg")
        (root / "devkit").mkdir()
        names = np.array([[f"car {n}" for n in range(196)]], object)
        for file, content in (("devkit/cars_train_annos", {"annotations": rows[0]}),
                              ("cars_test_annos_withlabels", {"annotations": rows[1]}),
                              ("devkit/cars_meta", {"class_names": names})):  # fmt: skip
            savemat(root / f"{file}.mat", content)
    means, rows = [], []
    for split in _splits(name):
        for image, label in getattr(oracles, name)(root, split):
            means.append(image.double().mean((1, 2)))
            grey = means[-1].amax() - means[-1].amin() < 3
            rows.append((split.replace("val", "train"), label, bool(grey)))
    return root, torch.stack(means), rows, folder


def _splits(name):
    return ("train", "val", "test") if name == "TinyImageNet" else ("train", "test")


def _read(make, name, split):
    """Return which files a data set gives (by their colour), how sure that is, labels, images."""
    items = make(drawn(name)[0], split)
    items = [items[i] for i in range(len(items))]
    images = [torch.as_tensor(np.asarray(image)) for image, _ in items]
    if wrong := [image for image in images if image.ndim != 3 or len(image) != 3]:
        raise TypeError(f"an image is {tuple(wrong[0].shape)}, not (3, H, W)")
    images = [i * 255.0 if i.is_floating_point() else i.double() for i in images]
    colours = torch.stack([image.double().mean((1, 2)) for image in images])
    away, files = torch.cdist(colours, drawn(name)[1], p=1).min(1)
    return files.tolist(), away.max() < 12, [int(label) for _, label in items], images


def _data(make, kind, name):
    truth, sets, facts = drawn(name)[2], {}, {}
    for split in _splits(name):
        # What varies `train` is the student's affair, and a seed that moves it moves `val` too.
        states = (1,) if split == "train" else (1, 2)
        read = [_seeded(state, _read, make, name, split) for state in states]
        (files, sure, labels, images), again = read[0], read[-1]
        pairs = {(truth[file][1], label) for file, label in zip(files, labels, strict=True)}
        first = 98 if (name, split) == ("Cars196", "test") else 0
        sets[split] = set(files)
        facts |= {
            f"{split} has the files' colours": sure,
            f"{split} has images of most classes": len(pairs) > 2,
            f"{split} has labels from {first}": min(labels) == first,
            f"{split} has one label a class": len({*dict(pairs)}) == len(pairs) == len({*labels}),
            f"{split} has the same files after another seed": sets[split] == set(again[0]),
            f"{split} reads the same twice": all(map(torch.equal, images, again[3])),
        }
    test = {n for n, (split, *_) in enumerate(truth) if split == "test"}
    learn, found = sets["train"] | sets.get("val", set()), sets["test"]
    return facts | {
        "grayscale files are there": all(any(truth[n][2] for n in x) for x in (learn, found)),
        "test has only its own images": found <= test,
        "test has all of its own images": found >= test,
        "no image of test is in another split": not learn & test,
        "all other images are in another split": len(learn - test) == len(truth) - len(test),
        "no image is in two splits": sum(map(len, sets.values())) == len(learn | found),
        "val is a tenth of the train images": "val" not in sets or len(sets["val"]) == 12,
    }


def _labels(text):
    return torch.tensor([int(digit) for digit in text])


def _points(text, *more, width=2, offset=0):
    """One embedding a digit of `text`, not normalised; the digits as labels; and `more`."""
    points = (0.6 * waves(len(text), width, offset=offset) + 0.1).round(decimals=2)
    return points, _labels(text), *more


def _similarities(text, margin=0.25):
    """A symmetric matrix of exact binary fractions: a margin's border is met exactly."""
    s = waves(len(text), len(text), digits=3).mul(8).round() / 8
    return s.triu(1) + s.triu(1).T + torch.eye(len(text), dtype=s.dtype), _labels(text), margin


# fmt: off
_PAPER, _SAME = (2.0, 50.0, 0.5, 0.1), torch.tensor([[0.6, 0.8]], dtype=torch.float64).repeat(6, 1)
_FOUR, _ORDER = _points("0110", offset=2), [3, 1, 0, 2]
_X = {"one image": (waves(1, 2, 1, 2),), "a square": (2 * waves(2, 4, 4, 4),),
      "a batch": (2 * waves(3, 5, 4, 3, offset=1),), "an even image": (torch.ones(2, 3, 4, 5),)}
_WIDE = {"large logits": (*_X["a batch"], 6, 4.0)}
INPUTS = {  # documented name → how it is observed, and by what they test its inputs
    "Block1": (_block, {name: (*x, 2 + len(name) % 5) for name, x in _X.items()} | _WIDE),
    "Block2": (_block, _X | {"large logits": (*_X["a batch"], None, 4.0)}),
    "parallel": (_joined, _X), "serial_12": (_joined, _X), "serial_21": (_joined, _X),
    "mine": (_mine, {
        "one class": _similarities("00"), "no positives": _similarities("01"),
        "three samples": _similarities("001"), "four samples": _similarities("0110"),
        "a margin of 0": _similarities("00112", 0.0), "ten samples": _similarities("0120012343"),
        "equal rows": (torch.ones(6, 6).double(), _labels("001122"), 0.125)}),
    "MultiSimilarityLoss": (_loss, {
        "one class": _points("00", *_PAPER), "one image a class": _points("01", *_PAPER),
        "three samples": _points("001", *_PAPER), "four samples": (*_FOUR, *_PAPER),
        "the same four in another order": (_FOUR[0][_ORDER], _FOUR[1][_ORDER], *_PAPER),
        "equal rows": (_SAME, _labels("001122"), *_PAPER),
        "ten samples": _points("0120012343", *_PAPER, width=5),
        "other numbers": _points("0120012343", 7.0, 40.0, 0.8, 0.3, width=5)}),
    "recall_at_k": (_recall, {
        "two points": _points("00", (1,)), "no positives": _points("012", (1, 2)),
        "three points": _points("001", (1, 2)), "four points": _points("0110", (1, 2)),
        "six points": _points("011002", (1, 2, 4), offset=3), "one class": _points("000", (1, 2)),
        "30 points": _points("012345" * 4 + "001127", (1, 2, 4, 8), width=3),
        "equal rows": (_SAME, _labels("010112"), (1, 2, 4))}),
    "class_balanced": (_sampler, {
        "8 images of 2 classes": (_labels("00110101"), 8),
        "one image a class": (_labels("0123"), 8),
        "a batch larger than the classes": (_labels("012" * 6), 32),
        "a number not divisible": (_labels("0123456789" * 4 + "357"), 8),
        "100 images": (_labels("01234" * 20) + 7, 12)}),
    "TinyImageNet": (_data, {"a small drawn set": ("TinyImageNet",)}),
    "Cars196": (_data, {"a small drawn set": ("Cars196",)}),
}
# fmt: on


def outcomes(name, thing, kind=torch.float32):
    """Return what each input of a documented name leads to with `thing`: input → outcome."""
    (observe, inputs), found = INPUTS[name], {}
    wanted = list(inspect.signature(getattr(oracles, name)).parameters)
    try:
        inspect.signature(thing).bind(*wanted)
    except (TypeError, ValueError) as error:
        said = f"cannot be called as {name}({', '.join(wanted)}): {error}"
        return dict.fromkeys(inputs, {"raises": said})
    for case, given in inputs.items():
        try:
            result = observe(thing, kind, *copy.deepcopy(given)).items()
            found[case] = {entry: torch.as_tensor(x).detach().double() for entry, x in result}
        except (Exception, SystemExit) as error:
            found[case] = {"raises": sentence(error)}
    return found


def sentence(error):
    """Say what was raised, and in which line of the student's file."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "MemoryError: it needs more memory than is allowed"
    not_theirs = str(Path(__file__).parent), str(Path(torch.__file__).parent), "<frozen"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if not frame.filename.startswith(not_theirs)]
    place = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{place}: {(str(error).splitlines() or [''])[0]}"[:300]


class _Largest(TorchDispatchMode):
    """Remembers the most numbers that one tensor held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, getattr(out, "numel", int)())
        return out


def remarks(name, thing, found):
    """Return what is said of speed and memory, which nobody is failed for."""
    x, (points, labels) = torch.rand(2, 16, 48, 48), _points("01234567" * 8, width=64)
    calls = {  # the library's, how it is made, what it is called with, the side of its matrix
        "Block1": (blocks.CubsBlock1, (16, 512), (x,), 512),
        "Block2": (blocks.CubsBlock2, (16,), (x,), 48 * 48),
        "MultiSimilarityLoss": (losses.MultiSimilarityLoss, _PAPER, (points.float(), labels), 0),
        "recall_at_k": (metrics.recall_at_k, (), (points.float(), labels, (1, 8)), 0),
    }
    if name not in calls or any("raises" in outcome for outcome in found.values()):
        return []
    library, made, called, side = calls[name]
    seconds, largest = [], _Largest()
    with torch.no_grad(), largest:
        thing(*made)(*called) if made else thing(*called)
    with torch.no_grad():
        for function in [make(*made) if made else make for make in (library, thing)]:
            times = [time.perf_counter() for _ in range(4) if function(*called) is not None]
            seconds.append(min(b - a for a, b in itertools.pairwise(times)))
    said = [f"takes {seconds[1] / seconds[0]:.1f} × the library's time"]
    if side and largest.numbers >= side**2:
        said.append(f"holds a {side:,} × {side:,} matrix, which need not be held")
    return said
