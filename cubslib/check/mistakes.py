"""The bank of wrong versions that are really made, each an edit of an oracle's text.

A group's first line names the oracle that is edited and where in the hand-out the right reading
stands; then a line a mistake: what it does (never what would be right) and the edits. An edit of
`attend`, `mine` or `Images` makes wrong versions of all that use them.
"""

import inspect
from functools import cache
from typing import NamedTuple

import torch

from cubslib.check import held, oracles

USES = {  # what else a documented name's oracle is made of
    "Block1": "attend", "Block2": "attend", "MultiSimilarityLoss": "mine",
    "TinyImageNet": "Images", "Cars196": "Images",
}  # fmt: skip

BANK = """
attend @ T3, "The similarity is the product"; block 1 steps 3 to 5, block 2 step 2
  the similarity of two scalars is their cosine, only ±1 :: similarity.s → similarity.sign().s
  the softmax runs over the queries, down each column :: softmax(2) → softmax(1)
  the similarities weigh the values without a softmax :: similarity.softmax(2) → similarity
  the similarities are divided by the root of their number :: y.s → y.div(q.shape[1] ** 0.5).s
  query and key are exchanged :: q[:, :, None] * k[:, None, :] → k[:, :, None] * q[:, None, :]
Block1 @ T3, block 1 step 1
  the maximum over positions is pooled, not the average :: mean → amax
Block1 @ T3, block 1 step 6
  the gate has no sigmoid :: torch.sigmoid → ∅
  the skip is left out :: ) + g) → ))
  the skip is added after the sigmoid :: ) + g) → )) + g
Block1 @ T3, block 1 step 7
  the gate is multiplied along the columns :: gate[:, :, None, None] → gate[:, None, None, :]
  x is added to the output :: x * gate → x + x * gate
Block2 @ T3, block 2 step 3
  the gate has no sigmoid :: torch.sigmoid(features) → features
  a skip is added, as in block 1 :: (features) → (features + x.mean(1).flatten(1))
  the gate's rows and columns are exchanged :: shape[2], x.shape[3] → shape[3], x.shape[2]
  x is added to the output :: x * gate → x + x * gate
parallel @ T3, "Where they go"
  the two outputs are averaged :: return block1(x) + → return 0.5 * block1(x) + 0.5 *
  the two outputs are multiplied :: + → *
  the second block sees the first one's output :: block2(x) → block2(block1(x))
serial_12 @ T3, "Where they go"
  the blocks come in the other order :: block2(block1(x)) → block1(block2(x))
serial_21 @ T3, "Where they go"
  the blocks come in the other order :: block1(block2(x)) → block2(block1(x))
mine @ T4, the loss: "for each sample i its positives and negatives; from these the hard ones"
  the anchor itself is counted as its own positive :: and j != i → ∅
  positives and negatives are exchanged :: return positive, negative → return negative, positive
  every pair is kept: nothing is mined :: hard_other + margin → 9 ;; hard_own - margin → -9
mine @ T4, the loss: "whose mining keeps a negative with ... and a positive with ..."
  pairs are held against the easiest of the other kind :: min([ → MAX([ ;; max([ → min([
    ;; MAX → max
  the margin has the other sign :: count, labels = → margin, count, labels = -margin,
  the margin is left out :: count, labels = → margin, count, labels = 0,
  only the hardest positive and negative are kept :: s[j] < hard_other + margin → s[j] == hard_own
    ;; s[j] > hard_own - margin → s[j] == hard_other
mine @ T4, the loss: "A row with no positive or no negative in the batch adds 0"
  a sample without a positive still has negatives :: not own or → ∅
    ;; in own] → in own] or [-1]
  a sample without a negative still has positives :: or not other → ∅
    ;; in other] → in other] or [1]
MultiSimilarityLoss @ T4, the loss: "similarities S (cosine) of all pairs"
  the similarities are of embeddings that are not normalised :: normalised(embeddings) → embeddings
MultiSimilarityLoss @ T4 step 4: "Train the whole network"
  no gradient reaches the embeddings: similarities are detached or rebuilt :: unit @ unit.T →
    (unit @ unit.T).detach()
  the gradient flows through one embedding of each pair only :: @ unit.T → @ unit.detach().T
MultiSimilarityLoss @ T4, the loss: the formula, "m is the batch size", "α in 1–10; β in 40–60"
  α and β are exchanged :: self.alpha, self.beta, self.lam → self.beta, self.alpha, self.lam
  λ is added :: similarity - self.lam → similarity + self.lam
  λ is left out :: similarity - self.lam → similarity
  the exponents have the other sign :: torch.exp(weight → torch.exp(-weight
  an anchor's exponentials are averaged in the log :: sum(1)) → sum(1) / kept.sum(1).clamp(min=1))
  each pair has a log of its own :: terms.sum(1)) → terms)
  one log is taken of the whole batch's sum :: terms.sum(1)) → terms.sum())
  the 1 inside the log is left out :: 1 + terms → terms
  the logs are not divided by α and β :: / abs(weight) → ∅
  the negatives' part is left out :: , (self.beta, negative)) → ,)
  the anchors' losses are added, not averaged :: total / len(labels) → total
  the mean is over the anchors that have pairs only :: len(labels) →
    (positive | negative).any(1).sum().clamp(min=1)
  the mean is over pairs :: len(labels) → (positive | negative).sum().clamp(min=1)
  the numbers are 2, 50, 0.5, 0.1 whatever was asked :: = alpha, beta, lam, margin →
    = 2.0, 50.0, 0.5, 0.1
recall_at_k @ T4 step 2: "the query itself excluded"
  the query is in its own gallery :: if j != i → ∅
recall_at_k @ T4 step 2: "the share of queries with at least one image of their own class"
  the share of right images among the K is taken: precision :: any(found) → sum(found) / k
  the share of the class that is found is taken :: any(found) →
    sum(found) / max(labels.count(labels[i]) - 1, 1)
  the mean is over classes, not over queries :: / count → / len(set(labels))
    ;; any(found) → any(found) / labels.count(labels[i])
  queries whose class has no other image are left out :: / count →
    / max(sum(labels.count(label) > 1 for label in labels), 1)
  it is a percentage, not a share :: hits[k] / → 100 * hits[k] /
recall_at_k @ T4 step 2: "among their K nearest others"
  K + 1 images are looked at :: near[:k] → near[: k + 1]
  K - 1 images are looked at :: near[:k] → near[: k - 1]
  the nearest other is dropped, as if it were the query :: near[:k] → near[1 : k + 1]
  the farthest images come first :: -round → round
  the classifier's accuracy is taken: embeddings read as logits :: labels[j] == labels[i] for →
    labels[i] in embeddings[i].argsort(descending=True)[:k].tolist() for
recall_at_k @ T4, the loss: "similarities S (cosine)"
  nearness is of embeddings that are not normalised :: normalised(embeddings) → embeddings
  nearness is the distance of embeddings not normalised :: (unit @ unit[i]) →
    (-(embeddings - embeddings[i]).norm(dim=1))
recall_at_k @ T4 step 2, and the page of `check`: ties count against the query
  among equally near images the query's own class comes first :: 5), labels[j] == → 5), labels[j] !=
  equally near images come in the order of the data :: , labels[j] == labels[i]) → )
class_balanced @ T4, the loss (a row needs positives), and the page of `check`
  batches are drawn without a look at the labels ::
    if labels[i] == label → if i not in batches[-1] ;; own * 4 → (own or [0]) * 4
  twice the classes come, 2 images each :: size // 4 → size // 2 ;; (4 * → (2 * ;; own, 4 → own, 2
  batch_size is taken for the number of classes :: batch_size // 4 → batch_size
  an image may come twice though its class has enough :: sample(own, 4) → choices(own, k=4)
  every batch holds the same classes :: draw.sample(classes, per_batch) → classes[:per_batch]
  what does not fill a batch makes one more :: len(labels) // → -(-len(labels) // ;; ), 1) → )), 1)
  labels are returned in place of positions :: draw.sample(own, 4) → [label] * 4
  every seed draws the same :: Random(seed) → Random(0)
  the same seed draws anew each time :: Random(seed) → Random()
Images @ Data (the numbers of images), T1 (augmentation), and the page of `check`
  labels run from 1 :: (2, 0, 1), label → (2, 0, 1), label + 1
  red and blue are exchanged (OpenCV's order) :: (pixels) → (pixels[:, :, ::-1].copy())
  images are varied at test too :: (pixels) → (pixels[:, :: random.choice((-1, 1))].copy())
  files of one channel are left out :: return len(self.items) →
    self.items = [x for x in self.items if Image.open(x[0]).mode == "RGB"]; return len(self.items)
TinyImageNet @ Data: "a held-back val of 10 %", "official val → test", "do not depend on seed"
  val is drawn from the official val, which is test :: train[9::10] → test[:12]
  val is the whole official val, which is test :: train[9::10] → test
  train still holds the images of val :: [item for item in train if item not in val] → train
  val depends on the state of a random generator :: train[9::10] → random.sample(train, 12)
Cars196 @ Data: "classes 1–98 train, those of classes 99–196 test; the official halves are merged"
  the official halves are the splits :: (label < 98) → (half == "cars_train")
  only one of the official halves is read :: halves.items() → list(halves.items())[:1]
  class 98 stands on the wrong side :: label < 98 → label < 97
"""


class Mistake(NamedTuple):
    """A wrong version: which oracle is edited, where the right reading stands, what it does."""

    oracle: str
    place: str
    what: str
    edits: tuple[tuple[str, str], ...]


def bank(name: str) -> list[Mistake]:
    """Return the mistakes of a documented name."""
    found, group = [], ()
    for line in BANK.replace("\n    ", " ").strip().splitlines():
        if not line.startswith("  "):
            group = line.split(" @ ")
        elif group[0] in (name, USES.get(name)):
            what, edits = line.strip().split(" ::", 1)
            pairs = (edit.replace("∅", "").split("→") for edit in edits.split(";;"))
            edits = tuple((old.strip(), new.strip()) for old, new in pairs)
            found.append(Mistake(*group, what, edits))
    return found


def version(name: str, mistake: Mistake | None = None):
    """Return the oracle of a documented name, or its wrong version."""
    space = dict(vars(oracles))
    for part in filter(None, (USES.get(name), name)):
        text = inspect.getsource(getattr(oracles, part))
        for old, new in mistake.edits if mistake and mistake.oracle == part else ():
            if old not in text:
                raise ValueError(f"{mistake.what}: {old!r} is not in {part}")
            text = text.replace(old, new)
        exec(text, space)
    return space[name]


@cache
def outcomes(name: str, mistake: Mistake | None = None) -> dict[str, dict]:
    """Return what each input leads to in float64 with the oracle, or with a wrong version."""
    return held.outcomes(name, version(name, mistake), torch.float64)
