"""The bank of wrong versions that are really made, each an edit of an oracle's text.

A group's first line names the oracle that is edited, what else is made of it, and where in the
hand-out the right reading stands; then a line a mistake: what it does (never what would be right)
and the edits, old → new.
"""

import inspect
import re
from collections import namedtuple
from functools import cache

import torch

from cubslib.check import held, oracles

BANK = """
attend Block1 Block2 @ T3, "The similarity is the product"; block 1 steps 3 to 5, block 2 step 2
  the similarity of two scalars is their cosine, only ±1 :: similarity.s → similarity.sign().s
  the softmax runs over the queries, down each column :: softmax(2) → softmax(1)
  the similarities weigh the values without a softmax :: similarity.softmax(2) → similarity
Block1 @ T3, block 1 steps 1, 6 and 7
  the maximum over positions is pooled, not the average :: mean → amax
  the gate has no sigmoid :: torch.sigmoid →
  the skip is left out :: ) + g) → ))
  the skip is added after the sigmoid :: ) + g) → )) + g
  the gate is multiplied along the columns :: gate[:, :, None, None] → gate[:, None, None, :]
Block2 @ T3, block 2 step 3
  the gate has no sigmoid :: torch.sigmoid(features) → features
  a skip is added, as in block 1 :: (features) → (features + x.mean(1).flatten(1))
parallel @ T3, "Where they go"
  the second block sees the first one's output :: block2(x) → block2(block1(x))
serial_12 @ T3, "Where they go"
  the blocks come in the other order :: block2(block1(x)) → block1(block2(x))
serial_21 @ T3, "Where they go"
  the blocks come in the other order :: block1(block2(x)) → block2(block1(x))
mine MultiSimilarityLoss @ T4, the loss: "from these the hard ones", "whose mining keeps ..."
  the anchor itself is counted as its own positive :: and j != i →
  every pair is kept: nothing is mined :: hard_other + margin → 9 :: hard_own - margin → -9
  pairs are mined against the easiest :: min( → MAX( :: max( → min( :: MAX( → max(
  the margin has the other sign :: other + margin → other - margin :: own - margin → own + margin
MultiSimilarityLoss @ T4 step 4, the loss: "similarities S (cosine)", the formula, "m is the batch"
  the similarities are of embeddings that are not normalised :: normalised(embeddings) → embeddings
  no gradient flows: detached or rebuilt as new :: unit @ unit.T → (unit @ unit.T).detach()
  α and β are exchanged :: self.alpha, self.beta, self.lam → self.beta, self.alpha, self.lam
  λ is left out :: similarity - self.lam → similarity
  the log is inside the sum: each pair has one of its own :: terms.sum(1)) → terms)
  the logs are not divided by α and β :: / abs(weight) →
  the anchors' losses are added, not averaged :: total / len(labels) → total
  the mean is over pairs :: len(labels) → (positive | negative).sum().clamp(min=1)
recall_at_k @ T4 step 2: "the share of queries", "among their K nearest others", "itself excluded"
  the query is in its own gallery :: if j != i →
  the share of right images among the K is taken: precision :: any(found) → sum(found) / k
  K + 1 images are looked at :: near[:k] → near[: k + 1]
  the nearest other is dropped, as if it were the query :: near[:k] → near[1 : k + 1]
  it is a classifier's accuracy :: labels[j] == → j == :: near[: → (-embeddings[i]).argsort()[:
  ties are counted for the query :: labels[j] == labels[i])) → labels[j] != labels[i]))
class_balanced @ T4, the loss (a row needs positives), and the page of `check`
  batches are drawn without a look at the labels :: if labels[i] == label →
  every batch holds the same classes :: draw.sample(classes, per_batch) → classes[:per_batch]
  every seed draws the same :: Random(seed) → Random(0)
read TinyImageNet Cars196 @ Data (the numbers of images), T1 (augmentation), the page of `check`
  labels run from 1 :: (2, 0, 1), label → (2, 0, 1), label + 1
  red and blue are exchanged (OpenCV's order) :: (pixels) → (pixels[:, :, ::-1].copy())
  images are varied at test, as in train :: pixels) → pixels[:, ::random.choice((-1, 1))].copy())
  grayscale files are left out :: items: → [x for x in items if Image.open(x[0]).mode == "RGB"]:
TinyImageNet @ Data: "a held-back val of 10 %", "official val → test", "do not depend on seed"
  val is drawn from the official val, which is test :: train[9::10] → test[:12]
  train still holds the images of val :: [item for item in train if item not in val] → train
  val depends on the state of a random generator :: train[9::10] → random.sample(train, 12)
Cars196 @ Data: "classes 1–98 train, those of classes 99–196 test; the official halves are merged"
  the official halves are the splits :: (label < 98) → (half == "cars_train")
  only one of the official halves is read :: halves.items() → list(halves.items())[:1]
  class 98 stands on the wrong side :: label < 98 → label < 97
"""


# Which oracle is edited, where the right reading stands, what the wrong version does, its edits.
Mistake = namedtuple("Mistake", "oracle place what edits")


def bank(name: str) -> list[Mistake]:
    """Return the mistakes of a documented name."""
    found = []
    for group in re.split(r"\n(?=\w)", BANK.strip()):
        head, *lines = group.split("\n  ")
        users, place = head.split(" @ ")
        for line in lines if name in users.split() else ():
            what, *edits = re.split(r" *(?:::|→) | →$", line)
            found.append(Mistake(users.split()[0], place, what, tuple(edits)))
    return found


def version(name: str, mistake: Mistake | None = None):
    """Return the oracle of a documented name, or its wrong version."""
    space, text = {}, inspect.getsource(oracles)
    if mistake:
        part = wrong = inspect.getsource(getattr(oracles, mistake.oracle))
        for old, new in zip(mistake.edits[::2], mistake.edits[1::2], strict=True):
            wrong = wrong.replace(old, new)
        text = text.replace(part, wrong)
    exec(text, space)
    return space[name]


@cache
def outcomes(name: str, mistake: Mistake | None = None) -> dict[str, dict]:
    """Return what each input leads to in float64 with the oracle, or with a wrong version."""
    thing = version(name, mistake)
    return {case: held.outcome(name, case, thing, torch.float64) for case in held.INPUTS[name][1]}
