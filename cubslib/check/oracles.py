"""The assignment's words as slow, obvious code: what a student's code, and the tests, compare with.

They compute in the type they are given; the check gives them float64. `mistakes` edits their text
to make wrong versions, so each step stands on a line of its own.

Shapes: B batch, C channels, H × W positions, N features or images, m samples, D dimensions.
"""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from torch import nn


def normalised(embeddings):
    """Return the embeddings (m, D) at length 1; a zero stays zero."""
    return embeddings / embeddings.norm(dim=1, keepdim=True).clamp(min=1e-12)


def attend(q, k, v):
    """Return softmax_j(q_i·k_j)·v_j (B, N) from q, k, v (B, N), holding the matrix."""
    similarity = q[:, :, None] * k[:, None, :]  # (B, N, N)
    rows = similarity.softmax(2)
    return (rows * v[:, None, :]).sum(2)


class Block1(nn.Module):
    """Channel attention by self-similarity (T3, block 1)."""

    def __init__(self, channels, features=512):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, features) for _ in range(3))
        self.project = nn.Linear(features, channels)

    def forward(self, x):
        """Return x (B, C, H, W) times a gate for each channel."""
        g = x.mean((2, 3))  # (B, C)
        features = attend(self.query(g), self.key(g), self.value(g))
        gate = torch.sigmoid(self.project(features) + g)
        return x * gate[:, :, None, None]


class Block2(nn.Module):
    """Spatial attention by self-similarity (T3, block 2)."""

    def __init__(self, channels):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, 1, 1) for _ in range(3))

    def forward(self, x):
        """Return x (B, C, H, W) times a gate for each position."""
        features = attend(*(f(x).flatten(1) for f in (self.query, self.key, self.value)))
        gate = torch.sigmoid(features).view(-1, 1, x.shape[2], x.shape[3])
        return x * gate


def parallel(block1, block2, x):
    """Return both blocks of x, added."""
    return block1(x) + block2(x)


def serial_12(block1, block2, x):
    """Return block 2 of block 1 of x."""
    return block2(block1(x))


def serial_21(block1, block2, x):
    """Return block 1 of block 2 of x."""
    return block1(block2(x))


def mine(similarity, labels, margin):
    """Return the hard positives P and hard negatives N of each sample, boolean (m, m)."""
    count, labels = len(labels), labels.tolist()
    positive, negative = torch.zeros(2, count, count, dtype=torch.bool)
    for i, s in enumerate(similarity.tolist()):
        own = [j for j in range(count) if labels[j] == labels[i] and j != i]
        other = [j for j in range(count) if labels[j] != labels[i]]
        if not own or not other:
            continue
        hard_own, hard_other = min(s[j] for j in own), max(s[j] for j in other)
        positive[i, [j for j in own if s[j] < hard_other + margin]] = True
        negative[i, [j for j in other if s[j] > hard_own - margin]] = True
    return positive, negative


class MultiSimilarityLoss(nn.Module):
    """The Multi-Similarity loss over hard pairs (T4; Wang et al. 2019, eq. 12)."""

    def __init__(self, alpha, beta, lam, margin):
        super().__init__()
        self.alpha, self.beta, self.lam, self.margin = alpha, beta, lam, margin

    def forward(self, embeddings, labels):
        """Return the loss, a scalar, of embeddings (m, D) and labels (m,)."""
        unit = normalised(embeddings)
        similarity = unit @ unit.T  # (m, m)
        positive, negative = mine(similarity, labels, self.margin)
        total = 0
        for weight, kept in ((-self.alpha, positive), (self.beta, negative)):
            terms = torch.exp(weight * (similarity - self.lam)) * kept  # (m, m)
            total = total + torch.log(1 + terms.sum(1)).sum() / abs(weight)
        return total / len(labels)


def recall_at_k(embeddings, labels, ks):
    """Return for each K the share of queries with one of their class among the K nearest."""
    unit, count = normalised(embeddings), len(labels)
    labels, hits = labels.tolist(), dict.fromkeys(ks, 0)
    for i in range(count):
        s = (unit @ unit[i]).tolist()
        others = [j for j in range(count) if j != i]
        # Among equals those of another class come first: ties count against the query.
        near = sorted(others, key=lambda j: (-round(s[j], 5), labels[j] == labels[i]))  # noqa: B023
        for k in ks:
            found = [labels[j] == labels[i] for j in near[:k]]
            hits[k] += any(found)
    return {k: hits[k] / count for k in ks}


def class_balanced(labels, batch_size, seed):
    """Return an epoch's batches of positions: min(batch_size / 4, classes) classes, 4 images each.

    What does not fill a batch is dropped; a class of fewer than 4 images repeats some.
    """
    draw, labels, batches = random.Random(seed), labels.tolist(), []
    classes = sorted(set(labels))
    per_batch = min(batch_size // 4, len(classes))
    for _ in range(max(len(labels) // (4 * per_batch), 1)):
        batches.append([])
        for label in draw.sample(classes, per_batch):
            own = [i for i in range(len(labels)) if labels[i] == label]
            own = own * 4 if len(own) < 4 else own
            batches[-1] += draw.sample(own, 4)
    return batches


def read(items):
    """Return items (path, label) with the images read: uint8 (3, H, W)."""
    found = []
    for path, label in items:
        pixels = np.array(Image.open(path).convert("RGB"))
        found.append((torch.from_numpy(pixels).permute(2, 0, 1), label))
    return found


def TinyImageNet(root, split):
    """Return the items: of the official train images every tenth is `val`; `test` is their val."""
    root = Path(root)
    wnids = sorted((root / "wnids.txt").read_text().split())
    rows = [row.split() for row in (root / "val/val_annotations.txt").read_text().splitlines()]
    test = [(root / "val/images" / name, wnid) for name, wnid, *_ in rows]
    train = [(p, w) for w in wnids for p in sorted((root / "train" / w / "images").iterdir())]
    val = train[9::10]
    train = [item for item in train if item not in val]
    items = {"train": train, "val": val, "test": test}[split]
    return read([(path, wnids.index(wnid)) for path, wnid in items])


def Cars196(root, split):
    """Return the items of both official halves: of classes 1–98 `train`, 99–196 `test`."""
    halves = {"cars_train": "devkit/cars_train_annos.mat",
              "cars_test": "cars_test_annos_withlabels.mat"}  # fmt: skip
    items = []
    for half, name in halves.items():
        for row in loadmat(Path(root) / name, squeeze_me=True)["annotations"]:
            label = int(row["class"]) - 1
            if (label < 98) == (split == "train"):
                items.append((Path(root) / half / str(row["fname"]), label))
    return read(items)
