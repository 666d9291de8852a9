"""Wrong solutions as students hand them in, written before the bank of `cubslib.check`.

`PUBLIC` are the mistakes of three public solutions; `UNKNOWN` are five that the bank does not aim
at: the check must call them unknown, or name them rightly.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor


class CosineBlock1(nn.Module):
    """Compares scalars by their cosine, which is ±1."""

    def __init__(self, channels, features=512):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, features) for _ in range(3))
        self.project = nn.Linear(features, channels)

    def forward(self, x):
        g = F.adaptive_avg_pool2d(x, 1).flatten(1).unsqueeze(1)  # (B, 1, C)
        q, k, v = self.query(g), self.key(g), self.value(g)
        similarity = F.cosine_similarity(q.transpose(1, 2)[:, :, None], k.transpose(1, 2)[:, None],
                                         dim=-1)  # fmt: skip
        weights = F.softmax(similarity, dim=-1)
        out = torch.bmm(weights, v.transpose(1, 2)).transpose(1, 2)
        return x * torch.sigmoid(self.project(out) + g).transpose(1, 2).unsqueeze(-1)


def recall_of_the_classifier(embeddings, labels, ks):
    """Takes recall as the classifier's accuracy, though it never saw these classes."""
    return {
        k: (embeddings.topk(min(k, embeddings.shape[1])).indices == labels[:, None])
        .any(1).float().mean().item()
        for k in ks
    }  # fmt: skip


class RebuiltLoss(nn.Module):
    """Right in value, but the similarities are rebuilt as new tensors: no gradient flows."""

    def __init__(self, alpha, beta, lam, margin):
        super().__init__()
        self.alpha, self.beta, self.lam, self.margin = alpha, beta, lam, margin

    def forward(self, embeddings, labels):
        normal = F.normalize(embeddings)
        losses = []
        for i in range(len(labels)):
            row = [float(normal[i] @ normal[j]) for j in range(len(labels))]
            own = [s for j, s in enumerate(row) if labels[j] == labels[i] and j != i]
            rest = [s for j, s in enumerate(row) if labels[j] != labels[i]]
            if not own or not rest:
                continue
            hard_own = torch.tensor([s for s in own if s < max(rest) + self.margin])
            hard_rest = torch.tensor([s for s in rest if s > min(own) - self.margin])
            pull = torch.log(1 + torch.exp(-self.alpha * (hard_own - self.lam)).sum())
            push = torch.log(1 + torch.exp(self.beta * (hard_rest - self.lam)).sum())
            losses.append(pull / self.alpha + push / self.beta)
        return torch.tensor(sum(losses) / len(labels), requires_grad=True)


class SharedBlock1(CosineBlock1):
    """The keys are the queries: one layer serves for both."""

    def forward(self, x):
        g = x.mean((2, 3))
        q, v = self.query(g), self.value(g)
        weights = (q[:, :, None] * q[:, None, :]).softmax(2)
        gate = torch.sigmoid(self.project((weights @ v[:, :, None])[:, :, 0]) + g)
        return x * gate[:, :, None, None]


class TanhBlock2(nn.Module):
    """The gate is squashed by the wrong function."""

    def __init__(self, channels):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, 1, 1) for _ in range(3))

    def forward(self, x):
        q, k, v = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return x * torch.tanh(v @ weights.transpose(1, 2)).view(len(x), 1, *x.shape[2:])


class OwnKindLoss(RebuiltLoss):
    """Mines each kind against the extreme of its own kind."""

    def forward(self, embeddings, labels):
        normal = F.normalize(embeddings)
        s = normal @ normal.T
        same = labels[:, None] == labels
        own, rest = same & ~torch.eye(len(s), dtype=torch.bool), ~same
        both = (own.any(1) & rest.any(1))[:, None]
        own, rest = own & both, rest & both
        own = own & (s < s.masked_fill(~own, 9).amin(1, keepdim=True) + self.margin)
        rest = rest & (s > s.masked_fill(~rest, -9).amax(1, keepdim=True) - self.margin)
        pull = torch.log(1 + (torch.exp(-self.alpha * (s - self.lam)) * own).sum(1)) / self.alpha
        push = torch.log(1 + (torch.exp(self.beta * (s - self.lam)) * rest).sum(1)) / self.beta
        return (pull + push).mean()


def manhattan_recall(embeddings, labels, ks):
    """Nearest by the sum of absolute differences."""
    distance = torch.cdist(embeddings, embeddings, p=1).fill_diagonal_(torch.inf)
    order = distance.argsort(1)[:, :-1]
    return {k: (labels[order[:, :k]] == labels[:, None]).any(1).float().mean().item() for k in ks}


class LastClassesTinyImageNet:
    """`val` is the last tenth of the whole list of training images: a few classes only."""

    def __init__(self, root, split):
        root = Path(root)
        wnids = sorted((root / "wnids.txt").read_text().split())
        if split == "test":
            rows = (root / "val" / "val_annotations.txt").read_text().splitlines()
            items = [row.split("\t")[:2] for row in rows]
            self.items = [(root / "val" / "images" / name, wnid) for name, wnid in items]
        else:
            items = [
                (p, w) for w in wnids for p in sorted((root / "train" / w / "images").iterdir())
            ]
            cut = len(items) * 9 // 10
            self.items = items[:cut] if split == "train" else items[cut:]
        self.wnids = wnids

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        path, wnid = self.items[position]
        return pil_to_tensor(Image.open(path).convert("RGB")), self.wnids.index(wnid)


PUBLIC = [  # the documented name, the wrong solution, a word of what the check must say
    ("Block1", CosineBlock1, "cosine"),
    ("recall_at_k", recall_of_the_classifier, "classifier"),
    ("MultiSimilarityLoss", RebuiltLoss, "gradient"),
]
UNKNOWN = [
    ("Block1", SharedBlock1),
    ("Block2", TanhBlock2),
    ("MultiSimilarityLoss", OwnKindLoss),
    ("recall_at_k", manhattan_recall),
    ("TinyImageNet", LastClassesTinyImageNet),
]
