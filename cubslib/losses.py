"""The Multi-Similarity loss with its hard mining (Wang et al., CVPR 2019, arXiv:1904.06627).

Shapes: m samples in the batch, D dimensions of an embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cubslib import CubsError

MININGS = ("paper", "all", "hardest")


class MultiSimilarityLoss(nn.Module):
    """Multi-Similarity loss of a batch (eq. 12) over the pairs that its mining keeps (eqs. 5, 6).

    L = 1/m Σ_i { 1/α log[1 + Σ_{j∈P_i} exp(-α(S_ij - λ))]
                + 1/β log[1 + Σ_{j∈N_i} exp(β(S_ij - λ))] }

    S are cosine similarities. The paper's mining keeps a negative with S_ij > (hardest positive)
    - ε and a positive with S_ij < (hardest negative) + ε. A sample that has no positive or no
    negative in the batch adds 0. All is computed in float32.

    Args:
        alpha: α > 0, the weight of positives; the assignment asks for 1–10.
        beta: β > 0, the weight of negatives; the assignment asks for 40–60.
        lam: λ in [0, 1], the similarity at which a pair weighs half.
        margin: ε ≥ 0 of the mining, a difference of similarities.
        mining: `paper`; `all` keeps every pair; `hardest` one positive and one negative a sample.

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
        for name, value, good in (
            ("alpha", alpha, alpha > 0),
            ("beta", beta, beta > 0),
            ("lam", lam, 0 <= lam <= 1),
            ("margin", margin, margin >= 0),
            ("mining", mining, mining in MININGS),
        ):
            if not good:
                raise CubsError(f"{name} is {value!r}, which is out of its range.")
        self.alpha, self.beta, self.lam, self.margin, self.mining = alpha, beta, lam, margin, mining

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar ≥ 0, finite with its gradient whatever the batch holds.

        Args:
            embeddings: (m, D), normalised here.
            labels: (m,) integers.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=1)
            similarity = unit @ unit.T  # (m, m)
            positive, negative = self.mine(similarity.detach(), labels)
            distance = similarity - self.lam
            pull = _log_one_plus_sum_exp(-self.alpha * distance, positive) / self.alpha
            push = _log_one_plus_sum_exp(self.beta * distance, negative) / self.beta
            # A NaN pairs with nothing and would end as a loss of 0: let it show.
            return (pull + push).mean() + 0 * similarity.detach().sum()

    def mine(self, similarity: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pairs count as positives P and negatives N, both boolean (m, m).

        Args:
            similarity: S (m, m), without gradient.
            labels: (m,) integers.
        """
        same = labels[:, None] == labels[None, :]
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive, negative = same & ~itself, ~same
        both = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
        positive, negative = positive & both, negative & both
        if self.mining == "all":
            return positive, negative
        hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        if self.mining == "hardest":
            return (
                positive & (similarity == hardest_positive),
                negative & (similarity == hardest_negative),
            )
        return (
            positive & (similarity < hardest_negative + self.margin),
            negative & (similarity > hardest_positive - self.margin),
        )


def _log_one_plus_sum_exp(exponents: Tensor, chosen: Tensor) -> Tensor:
    """Return log(1 + Σ_j exp(x_ij)) over the chosen j of each row: (m, m) → (m,), never inf."""
    kept = exponents.masked_fill(~chosen, -torch.inf)
    return torch.logsumexp(F.pad(kept, (1, 0)), dim=1)  # the padded zero is the 1 of the formula
