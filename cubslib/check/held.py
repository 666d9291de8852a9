"""What is held against the oracles: for each documented name its inputs and what they lead to.

An outcome is a dict of named tensors, or {"raises": a sentence}. Inputs go from small to large, so
that the first at which two versions differ is the smallest of them. For what is drawn at random,
or free in its form, an outcome is a list of facts that hold or do not.

Shapes: see `oracles`.
"""

import copy
import random
import tempfile
import timeit
import traceback
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import adaptive_avg_pool2d

from cubslib import blocks, losses, metrics
from cubslib.check import oracles
from cubslib.sample import layouts


def waves(*shape, offset=0, digits=1):
    """Return numbers in [-1, 1] of few digits, always the same, without a pattern to the eye."""
    count = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(1.7 * count**1.6 + offset).round(decimals=digits).view(shape)


def known(block):
    """Set a block's parameters to known numbers; return the block.

    Raises:
        TypeError: its parameters are not those of the documented layers.
    """
    layers = ("query", "key", "value", "project")[: 4 if hasattr(block, "project") else 3]
    wanted = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    found = dict(block.named_parameters())
    if wanted != set(found):
        said = ", ".join(found) or "none"
        raise TypeError(f"the block's parameters are {said}, not those of {', '.join(layers)}")
    for number, name in enumerate(sorted(found)):
        size = 2 / (found[name].shape[1] if found[name].ndim > 1 else 4) ** 0.5
        found[name].data.copy_(size * waves(*found[name].shape, offset=number, digits=3))
    return block


def _with_gradient(function, x):
    """Return function(x), and the gradient of a weighted sum of it at x."""
    out = function(x.requires_grad_())
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"it returns {type(out).__name__}, not a tensor")
    if out.requires_grad:
        (out * (1 + waves(*out.shape, offset=9)).to(out)).sum().backward()
    gradient = torch.zeros_like(x) if x.grad is None else x.grad
    return {"output": out, "the type of x is kept": out.dtype == x.dtype, "gradient": gradient}


def _block(make, x, *features):
    return _with_gradient(known(make(x.shape[1], *features)).to(x), x)


def _joined(join, x):
    one, two = (known(make(x.shape[1])).to(x) for make in (oracles.Block1, oracles.Block2))
    return _with_gradient(partial(join, one, two), x)


def _mine(mine, similarity, labels, margin):
    return dict(zip(("positives", "negatives"), mine(similarity, labels, margin), strict=True))


def _loss(make, embeddings, labels, *numbers):
    loss = make(*numbers)
    return _with_gradient(lambda x: loss(x, labels), embeddings)


def _recall(recall_at_k, embeddings, labels, ks):
    found = recall_at_k(embeddings, labels, ks)
    return {f"recall at {k}": float(found[k]) for k in ks}


def _begun_anew(state):
    for begin in (random.seed, np.random.seed, torch.manual_seed):
        begin(state)


def _sampler(sample, labels, batch_size):
    epochs = []
    for state, seed in ((1, 3), (2, 3), (1, 4)):
        _begun_anew(state)
        epochs.append([[int(i) for i in batch] for batch in sample(labels, batch_size, seed)])
    tally = [labels[batch].unique(return_counts=True) for batch in epochs[0]]
    few = len(labels) < 40
    return {
        "number of batches": len(epochs[0]),
        "images of each class in each batch": torch.cat([sizes for _, sizes in tally]),
        "no image comes twice in one": few or all(len(set(b)) == len(b) for b in epochs[0]),
        "the same seed draws the same": epochs[0] == epochs[1],
        "another seed draws others": few or epochs[0] != epochs[2],
        "classes change": few or len({str(classes) for classes, _ in tally}) > 1,
    }


SPLITS = {"TinyImageNet": ("train", "val", "test"), "Cars196": ("train", "test")}


@cache
def _drawn(name):
    """Draw a small data set, every 20th file grayscale; return its root, and what removes it."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name, name)
    if name == "Cars196":
        layouts.draw_cars196(root, num_classes=196, per_class=2)
    else:
        layouts.draw_tiny_imagenet(root, num_classes=4, per_class=30)
    for path in sorted(root.rglob("*.[jJ]*"))[::20]:
        Image.open(path).convert("L").save(path)
    return root, folder


def _rows(make, name, split, state=1):
    """Return of each image the label and mean colours: of test by quarters, so that a flip shows.

    Colours run from 0 to 8: where labels run to 195, they may then differ by 6 of 255.
    """
    _begun_anew(state)
    items, rows = make(_drawn(name)[0], split), []
    for image, label in (items[i] for i in range(len(items))):
        image = torch.as_tensor(image)
        if image.ndim != 3 or len(image) != 3:
            raise TypeError(f"an image is {tuple(image.shape)}, not (3, H, W)")
        image = image * 255 if image.is_floating_point() else image.double()
        colours = adaptive_avg_pool2d(image, 2 if split == "test" else 1) / 32
        rows.append([int(label), *colours.flatten().tolist()])
    return sorted(rows)


def _data(make, name):
    rows = {"val": []} | {split: _rows(make, name, split) for split in SPLITS[name]}
    fixed = [split for split in SPLITS[name] if split != "train"]
    return {
        "test, a row an image: label and colours": rows["test"],
        "train and val, a row an image: label and colours": sorted(rows["train"] + rows["val"]),
        "size of val": len(rows["val"]),  # which images it has is free
        "classes of val": len({label for label, *_ in rows["val"]}),
        "no seed changes it": all(rows[split] == _rows(make, name, split, 2) for split in fixed),
    }


def _labels(text):
    return torch.tensor([int(digit) for digit in text])


_IMAGES = {"one position": waves(1, 2, 1, 1), "a square": 2 * waves(2, 4, 4, 4),
           "an even image": torch.ones(2, 3, 4, 5).double(), "a batch": waves(3, 5, 4, 3),
           "large numbers": 20 * waves(3, 5, 4, 3), "large": waves(1, 2, 16, 16)}  # fmt: skip
_IMAGES = {case: {"x": x} for case, x in _IMAGES.items()}
_NUMBERS = {"alpha": 3.0, "beta": 40.0, "lam": 0.6, "margin": 0.2}
_POINTS, _PAIRS, _EPOCHS = {}, {}, {}
for _text in ("000", "012", "001", "0110", "010112", "001122", "0120012343"):
    _case = "equal rows" if _text == "010112" else f"classes {_text}"
    _x = waves(len(_text), len(_text), offset=2) ** (_case != "equal rows")
    _POINTS[_case] = {"embeddings": 0.6 * _x[:, :3] + 0.1, "labels": _labels(_text)}
    # Exact binary fractions, so that a margin's border is met exactly.
    _PAIRS[_case] = {"similarity": ((_x + _x.T) * 4).round() / 8, "labels": _labels(_text)}
for _text, _size in (("00110101", 8), ("0123", 8), ("012" * 6, 32), ("0123456789" * 4 + "357", 8)):
    _case = f"{len(_text)} images of {len(set(_text))} classes, {_size} a batch"
    _EPOCHS[_case] = {"labels": _labels(_text) + 5, "batch_size": _size}
INPUTS = {  # documented name → how it is observed, and its inputs
    "Block1": (_block, {case: x | {"features": 128} for case, x in _IMAGES.items()}),
    "Block2": (_block, _IMAGES),
    **dict.fromkeys(("parallel", "serial_12", "serial_21"), (_joined, _IMAGES)),
    "mine": (_mine, {case: x | {"margin": 0.25} for case, x in _PAIRS.items()}),
    "MultiSimilarityLoss": (_loss, {case: x | _NUMBERS for case, x in _POINTS.items()}),
    "recall_at_k": (_recall, {case: x | {"ks": (1, 2, 4)} for case, x in _POINTS.items()}),
    "class_balanced": (_sampler, _EPOCHS),
    **{name: (_data, {"a small drawn set": {"name": name}}) for name in SPLITS},
}
LIBRARY = {  # whose speed and memory are compared
    "Block1": blocks.CubsBlock1, "Block2": blocks.CubsBlock2,
    "MultiSimilarityLoss": losses.MultiSimilarityLoss, "recall_at_k": metrics.recall_at_k,
}  # fmt: skip


def outcome(name, case, thing, kind=torch.float32):
    """Return what an input of a documented name leads to with `thing`."""
    observe, inputs = INPUTS[name]
    values = copy.deepcopy(list(inputs[case].values()))
    values = [x.to(kind) if getattr(x, "dtype", 0) == torch.float64 else x for x in values]
    try:
        found = observe(thing, *values).items()
        return {entry: torch.as_tensor(x).detach() for entry, x in found}
    except (Exception, SystemExit) as error:
        return {"raises": sentence(error)}


def sentence(error):
    """Say what was raised, and in which line of the student's file."""
    not_theirs = str(Path(__file__).parent), str(Path(torch.__file__).parent), "<frozen"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f" in line {f.lineno}" for f in frames if not f.filename.startswith(not_theirs)]
    return f"raises {type(error).__name__}{''.join(lines[-1:])}: {error}".splitlines()[0][:300]


def observed(name, thing):
    """Return input → outcome; and what is said of speed and memory, for which nobody is failed."""
    found = {case: outcome(name, case, thing) for case in INPUTS[name][1]}
    if name not in LIBRARY or any("raises" in entries for entries in found.values()):
        return found, []
    (time, kept), (least, own) = (_cost(name, make) for make in (thing, LIBRARY[name]))
    said = f"takes {time / least:.1f} × the library's time; the largest tensor that it keeps"
    return found, [f"{said} for the gradient holds {kept:,} numbers, the library's {own:,}"]


def _cost(name, make):
    """Return the seconds that the largest input takes, and the largest tensor kept for backward."""
    kept, call = [0], partial(outcome, name, list(INPUTS[name][1])[-1], make)
    with saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        call()
    return min(timeit.repeat(call, number=1, repeat=3)), max(kept)
