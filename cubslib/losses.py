"""The Multi-Similarity loss and the rules that mine its pairs (Wang et al., CVPR 2019).

A rule is a function of (similarity, labels, margin) → (positive, negative): which pairs (i, j)
count for row i. To add one, write it and name it in `RULES`.

Shapes: m samples in the batch, D dimensions of an embedding.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cubslib import CubsError

# A shorter embedding is divided by this and not by its length: it has no direction to speak of
# (in half precision it is rounding), and its gradient would grow as 1 / length.
MIN_LENGTH = 1e-4


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs (m, m) of two images of one class, and those of two classes."""
    same = labels[:, None] == labels[None, :]
    return same.clone().fill_diagonal_(False), ~same


def keep_hard(similarity: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Keep positives below (hardest negative) + ε, negatives above (hardest positive) - ε.

    The paper's rule (eqs. 5, 6).
    """
    positive, negative = pairs(labels)
    hardest_positive = similarity.where(positive, torch.inf).amin(1, keepdim=True)
    hardest_negative = similarity.where(negative, -torch.inf).amax(1, keepdim=True)
    return (
        positive & (similarity < hardest_negative + margin),
        negative & (similarity > hardest_positive - margin),
    )


def keep_all(similarity: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Keep every pair."""
    return pairs(labels)


def keep_hardest(similarity: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Keep one positive and one negative a row, the hardest; of equal ones the first."""
    positive, negative = pairs(labels)
    lowest = similarity.where(positive, torch.inf).argmin(1, keepdim=True)
    highest = similarity.where(negative, -torch.inf).argmax(1, keepdim=True)
    none = torch.zeros_like(positive)
    return positive & none.scatter(1, lowest, True), negative & none.scatter(1, highest, True)


def keep_typical(similarity: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Keep every positive, and negatives above (mean of the positives) - ε.

    Our own. One odd view, a car from behind among fronts, makes the hardest positive low, and by
    the paper's rule nearly every negative then counts as hard. The mean moves less for it.
    """
    positive, negative = pairs(labels)
    mean = (similarity * positive).sum(1, keepdim=True) / positive.sum(1, keepdim=True)
    return positive, negative & (similarity > mean - margin)


RULES: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "paper": keep_hard,
    "all": keep_all,
    "hardest": keep_hardest,
    "typical": keep_typical,
}
MININGS = tuple(RULES)
CONTROL = "cross_entropy"  # T4's `mining` where no pair is: stage 1's loss goes on, to compare with


class MultiSimilarityLoss(nn.Module):
    """Multi-Similarity loss of a batch (eq. 12) over the pairs that its mining keeps.

    L = 1/m Σ_i { 1/α log[1 + Σ_{j∈P_i} exp(-α(S_ij - λ))]
                + 1/β log[1 + Σ_{j∈N_i} exp(β(S_ij - λ))] }

    S are cosine similarities. A sample that has no positive or no negative in the batch adds 0.
    All is computed in float32.

    Args:
        alpha: α > 0, the weight of positives; the assignment asks for 1–10.
        beta: β > 0, the weight of negatives; the assignment asks for 40–60.
        lam: λ in [0, 1], the similarity at which a pair weighs half.
        margin: ε ≥ 0 of the mining, a difference of similarities.
        mining: the name of one of `RULES`.

    Attributes:
        terms: of the last batch, without gradient: `pull` and `push`, the means of the two terms,
            whose sum the loss is; `positives_kept` and `negatives_kept`, pairs an image.

    Raises:
        CubsError: an argument is out of range.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        lam: float = 0.5,
        margin: float = 0.1,
        mining: str = "paper",
    ):
        super().__init__()
        for name, value, good, wanted in (
            ("alpha", alpha, 0 < alpha < torch.inf, "a finite number above 0"),
            ("beta", beta, 0 < beta < torch.inf, "a finite number above 0"),
            ("lam", lam, 0 <= lam <= 1, "a number from 0 to 1"),
            ("margin", margin, margin >= 0, "0 or more"),
            ("mining", mining, mining in RULES, f"one of {', '.join(RULES)}"),
        ):
            if not good:
                raise CubsError(f"{name} is {value!r}; it must be {wanted}.")
        self.alpha, self.beta, self.lam, self.margin, self.mining = alpha, beta, lam, margin, mining
        self.terms: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar ≥ 0; NaN where an embedding holds one, else finite.

        The gradient is bounded too: of an embedding shorter than 1e-4, as if it were that long.

        Args:
            embeddings: (m, D) in any float type, normalised here.
            labels: (m,) integers.

        Raises:
            CubsError: the shapes are others, m is 0, or an embedding's length overflows float32.
        """
        if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
            raise CubsError(
                f"embeddings are {tuple(embeddings.shape)} and labels {tuple(labels.shape)}; "
                "they must be (m, D) and (m,), of 1 image or more."
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            length = embeddings.detach().norm(dim=1, keepdim=True)
            if length.isinf().any():
                raise CubsError(
                    "an embedding's length is more than float32 holds: lower the learning rate."
                )
            return LossAndGradient.apply(embeddings, length, labels, self)

    def mine(self, similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pairs count as positives P and negatives N, both boolean (m, m).

        Args:
            similarity: S (m, m), without gradient.
            labels: (m,) integers.
        """
        _, where, counts = labels.unique(return_inverse=True, return_counts=True)
        of_class = counts[where][:, None]  # (m, 1)
        both = (of_class > 1) & (of_class < len(labels))  # a positive, and a negative
        positive, negative = RULES[self.mining](similarity, labels, self.margin)
        return positive & both, negative & both


class LossAndGradient(torch.autograd.Function):
    """The loss and its gradient in one pass: both are made of the same exponentials."""

    @staticmethod
    def forward(
        ctx, embeddings: Tensor, length: Tensor, labels: Tensor, loss: MultiSimilarityLoss
    ) -> Tensor:
        """Return the loss of embeddings e (m, D) of length (m, 1); keep dL/de for `backward`."""
        divisor = length.clamp(min=MIN_LENGTH)
        unit = embeddings / divisor
        similarity = unit @ unit.T  # (m, m)
        positive, negative = loss.mine(similarity, labels)
        similarity -= loss.lam
        pull, pulled = _log_one_plus_sum_exp(-loss.alpha * similarity, positive)
        push, pushed = _log_one_plus_sum_exp(similarity.mul_(loss.beta), negative)
        kept = {
            "positives_kept": positive.count_nonzero() / len(unit),
            "negatives_kept": negative.count_nonzero() / len(unit),
        }
        gradient = pushed.sub_(pulled)  # m · dL/dS
        gradient = (gradient + gradient.T) @ unit / len(unit)  # dL/du, as S = u uᵀ
        along = torch.einsum("md,md->m", gradient, unit)[:, None]  # does not turn u = e/|e|
        along.masked_fill_(length < MIN_LENGTH, 0)
        ctx.save_for_backward(gradient.addcmul_(unit, along, value=-1).div_(divisor))
        pull, push = (pull / loss.alpha).mean(), (push / loss.beta).mean()
        loss.terms = {"pull": pull, "push": push} | kept
        # A NaN pairs with nothing and would end as a loss of 0: let it show.
        return pull + push + 0 * unit.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return `grad`, dF/dL of what follows, times the gradient that was kept."""
        (gradient,) = ctx.saved_tensors  # (m, D)
        return grad * gradient, None, None, None


def _log_one_plus_sum_exp(exponents: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(1 + Σ_j exp(x_ij)) over the chosen j of each row, (m,), and its gradient (m, m).

    The 1 stands where the pair (i, i) would; the sum is known from the share of its largest term.
    `exponents` are overwritten.
    """
    exponents.masked_fill_(~chosen, -torch.inf).fill_diagonal_(0)
    shares = exponents.softmax(1)
    return exponents.amax(1) - shares.amax(1).log(), shares.fill_diagonal_(0)
