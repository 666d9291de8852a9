import math

import pytest
import torch

from cubslib import CubsError
from cubslib.losses import MININGS, MultiSimilarityLoss

MINING = pytest.mark.parametrize("mining", MININGS)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])  # the last has no positive


def mined(similarity, labels, i, mining, margin):
    """P_i and N_i by the paper's words."""
    m = len(labels)
    positives = [j for j in range(m) if j != i and labels[j] == labels[i]]
    negatives = [j for j in range(m) if labels[j] != labels[i]]
    if not positives or not negatives:
        return [], []
    s = [x.item() for x in similarity[i]]
    lowest, highest = min(s[j] for j in positives), max(s[j] for j in negatives)
    if mining == "paper":
        return (
            [j for j in positives if s[j] < highest + margin],
            [j for j in negatives if s[j] > lowest - margin],
        )
    if mining == "hardest":
        return [j for j in positives if s[j] == lowest], [j for j in negatives if s[j] == highest]
    return positives, negatives


def oracle(embeddings, labels, alpha=2.0, beta=50.0, lam=0.5, margin=0.1, mining="paper"):
    """The assignment's formula, term by term, in float64."""
    unit = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    similarity = unit @ unit.T
    total = similarity.new_zeros(())
    for i in range(len(labels)):
        positives, negatives = mined(similarity, labels, i, mining, margin)
        pull = sum((torch.exp(-alpha * (similarity[i, j] - lam)) for j in positives), 0 * total)
        push = sum((torch.exp(beta * (similarity[i, j] - lam)) for j in negatives), 0 * total)
        total = total + torch.log(1 + pull) / alpha + torch.log(1 + push) / beta
    return total / len(labels)


def batch(spread=1.0, seed=0, count=10):
    generator = torch.Generator().manual_seed(seed)
    return 1 + spread * torch.randn(count, 6, generator=generator)


@MINING
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "values", [{}, {"alpha": 7.0, "beta": 40.0, "lam": 0.9, "margin": 0.3}, {"lam": 0, "margin": 0}]
)
def test_loss_and_gradient_are_the_formulas(mining, seed, values):
    embeddings = batch(seed=seed).requires_grad_()
    loss = MultiSimilarityLoss(**values, mining=mining)(embeddings, LABELS)
    exact = embeddings.detach().double().requires_grad_()
    expected = oracle(exact, LABELS, **values, mining=mining)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss > 0.05
    (found,), (gradient,) = (torch.autograd.grad(x, y) for x, y in
                             ((loss, embeddings), (expected, exact)))  # fmt: skip
    torch.testing.assert_close(found.double(), gradient, rtol=1e-3, atol=1e-6)


def test_minings_keep_different_pairs():
    losses = [MultiSimilarityLoss(mining=mining)(batch(9.0), LABELS) for mining in MININGS]
    assert len({round(loss.item(), 4) for loss in losses}) == 3


def test_the_margins_border_is_not_kept():
    """A row with two positives and three negatives; all numbers are exact in binary."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    similarity = torch.eye(6)
    similarity[0] = torch.tensor([1.0, 0.5, 0.875, 0.25, 0.375, 0.625])
    positive, negative = MultiSimilarityLoss(margin=0.25).mine(similarity, labels)
    assert positive[0].tolist() == [False, True, False, False, False, False]  # < 0.625 + 0.25
    assert negative[0].tolist() == [False, False, False, False, True, True]  # > 0.5 - 0.25


def test_points_at_known_angles():
    """Two classes at 0° and 60°, 30° and 90°: cosines 1/2, √3/2 and 0 by hand."""
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 30.0, 90.0]))
    points = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    far, near, none = math.cos(math.pi / 3), math.cos(math.pi / 6), 0.0
    pull = math.log(1 + math.exp(-2 * (far - 0.5))) / 2
    inner = math.log(1 + 2 * math.exp(50 * (near - 0.5))) / 50  # 60° and 30° have two near ones
    outer = math.log(1 + math.exp(50 * (near - 0.5))) / 50
    outer_all = math.log(1 + math.exp(50 * (near - 0.5)) + math.exp(50 * (none - 0.5))) / 50
    for mining, edge in (("paper", outer), ("all", outer_all)):
        loss = MultiSimilarityLoss(mining=mining)(points, torch.tensor([0, 0, 1, 1]))
        assert loss.item() == pytest.approx(pull + (inner + edge) / 2, rel=1e-5)


@MINING
@pytest.mark.parametrize(
    ("embeddings", "labels", "zero"),
    [
        (batch(count=4), [0, 1, 2, 3], True),  # no positives
        (batch(count=4), [5, 5, 5, 5], True),  # no negatives
        (batch(count=1), [0], True),
        (torch.ones(4, 6), [0, 0, 1, 1], False),  # collapsed
        (torch.zeros(4, 6), [0, 0, 1, 1], False),
        (batch(count=4) * 1e-20, [0, 0, 1, 1], False),
        (batch(count=4) * 1e15, [0, 0, 1, 1], False),
        (torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]]), [0, 0, 1, 1], False),
    ],
)
def test_the_loss_is_finite_with_its_gradient_whatever_the_batch_holds(
    mining, embeddings, labels, zero
):
    leaf = embeddings.clone().requires_grad_()
    loss = MultiSimilarityLoss(alpha=10.0, beta=60.0, mining=mining)(leaf, torch.tensor(labels))
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert (loss.item() == 0) is zero
    if zero:
        assert (leaf.grad == 0).all()


@MINING
def test_order_and_length_change_nothing(mining):
    loss = MultiSimilarityLoss(mining=mining)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    lengths = torch.linspace(0.1, 9, 10)[:, None]
    expected = loss(batch(), LABELS)
    torch.testing.assert_close(loss(batch()[order] * lengths, LABELS[order] + 7), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_computed_in_single_precision(dtype, device):
    embeddings = batch().to(dtype)
    with torch.autocast(device, torch.bfloat16):
        loss = MultiSimilarityLoss()(embeddings.to(device), LABELS.to(device))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.cpu(), MultiSimilarityLoss()(embeddings.float(), LABELS))


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", 0), ("alpha", -1.0), ("beta", 0.0), ("lam", 1.1), ("lam", -0.1), ("margin", -0.1),
     ("mining", "hard"), ("alpha", math.nan), ("margin", math.nan)],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(CubsError, match=f"{name} is .*{value}"):
        MultiSimilarityLoss(**{name: value})


def test_embeddings_that_are_not_finite_give_a_loss_that_is_not():
    embeddings = torch.tensor([[1.0, 0], [torch.nan, 1], [0, 1], [1, 1]])
    assert MultiSimilarityLoss()(embeddings, torch.tensor([0, 0, 1, 1])).isnan()
