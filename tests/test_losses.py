import math

import pytest
import torch

from cubslib import CubsError, losses
from cubslib.check import oracles
from cubslib.losses import MININGS, MultiSimilarityLoss

MINING = pytest.mark.parametrize("mining", MININGS)
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])  # the last has no positive


def mined(similarity, labels, i, mining, margin):
    """P_i and N_i of the rules that are not the paper's."""
    m = len(labels)
    positives = [j for j in range(m) if j != i and labels[j] == labels[i]]
    negatives = [j for j in range(m) if labels[j] != labels[i]]
    if not positives or not negatives:
        return [], []
    s = [x.item() for x in similarity[i]]
    lowest, highest = min(s[j] for j in positives), max(s[j] for j in negatives)
    if mining == "hardest":
        return [s.index(lowest)], [s.index(highest)]  # the first of ties
    if mining == "typical":
        mean = sum(s[j] for j in positives) / len(positives)
        return positives, [j for j in negatives if s[j] > mean - margin]
    return positives, negatives


def oracle(embeddings, labels, alpha=2.0, beta=50.0, lam=0.5, margin=0.1, mining="paper"):
    """The assignment's formula, term by term, in float64."""
    if mining == "paper":
        return oracles.MultiSimilarityLoss(alpha, beta, lam, margin)(embeddings.double(), labels)
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


@MINING
def test_the_two_terms_and_the_pairs_kept_are_told(mining):
    criterion, embeddings = MultiSimilarityLoss(mining=mining), batch().requires_grad_()
    loss = criterion(embeddings, LABELS)
    terms = criterion.terms
    assert not any(value.requires_grad for value in terms.values())
    assert (terms["pull"] + terms["push"]).item() == pytest.approx(loss.item())
    unit = torch.nn.functional.normalize(embeddings.detach())
    kept = [pairs.sum().item() / len(unit) for pairs in criterion.mine(unit @ unit.T, LABELS)]
    found = [terms[name].item() for name in ("positives_kept", "negatives_kept")]
    assert found == pytest.approx(kept)
    flat = torch.ones(4, 2)  # all cosines are 1: each term by hand
    MultiSimilarityLoss.forward(criterion, flat, torch.tensor([0, 0, 1, 1]))
    count = 1 if mining == "hardest" else 2
    push = torch.tensor(25.0).exp().mul(count).log1p().item() / 50
    assert criterion.terms["pull"].item() == pytest.approx(math.log1p(math.exp(-1)) / 2)
    assert criterion.terms["push"].item() == pytest.approx(push)


def test_minings_keep_different_pairs():
    unit = torch.nn.functional.normalize(batch(9.0))
    minings = [MultiSimilarityLoss(mining=mining) for mining in MININGS]
    kept = {str(torch.cat(loss.mine(unit @ unit.T, LABELS)).tolist()) for loss in minings}
    assert len(kept) == len(MININGS) == 4


@MINING
def test_only_hardest_keeps_one_pair_a_side_and_no_rule_a_row_that_lacks_a_side(mining):
    """Rows 0 to 3 tie in everything; row 4 has no positive."""
    labels = torch.tensor([0, 0, 0, 0, 3])
    kept = MultiSimilarityLoss(mining=mining).mine(torch.ones(5, 5), labels)
    positives, negatives = (pairs.sum(1).tolist() for pairs in kept)
    assert positives == ([1, 1, 1, 1, 0] if mining == "hardest" else [3, 3, 3, 3, 0])
    assert negatives == [1, 1, 1, 1, 0]
    if mining == "hardest":
        assert kept[0].int().argmax(1).tolist()[:4] == [1, 0, 0, 0]  # the first
    for pairs in MultiSimilarityLoss(mining=mining).mine(torch.ones(3, 3), torch.ones(3)):
        assert not pairs.any()  # no row has a negative


def test_a_new_rule_is_a_choice_of_mining(monkeypatch):
    monkeypatch.setitem(losses.RULES, "none", lambda s, y, margin: (s != s, s != s))
    assert MultiSimilarityLoss(mining="none")(batch(), LABELS) == 0


def test_one_odd_view_moves_the_typical_positive_less_than_the_hardest():
    """The fourth image of class 0 is seen from behind; of class 1, one is near and one is not."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    similarity = torch.tensor([[1, 0.9, 0.9, 0.0, 0.55, 0.2]]).expand(6, 6)
    _, hard = MultiSimilarityLoss(margin=0.1).mine(similarity, labels)
    _, typical = MultiSimilarityLoss(margin=0.1, mining="typical").mine(similarity, labels)
    assert hard[0].tolist() == [False, False, False, False, True, True]  # > 0 - 0.1
    assert typical[0].tolist() == [False, False, False, False, True, False]  # > 0.6 - 0.1


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
        (batch(count=4) * torch.tensor([[1], [0], [1], [1]]), [0, 0, 1, 1], False),
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
    assert leaf.grad.abs().max() < 1e4  # of a row without length too; NaN is not less
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
     ("mining", "hard"), ("alpha", math.nan), ("margin", math.nan), ("beta", math.nan),
     ("alpha", math.inf), ("beta", math.inf)],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(CubsError, match=f"{name} is .*{value}.*; it must be "):
        MultiSimilarityLoss(**{name: value})


def test_embeddings_that_are_not_finite_give_a_loss_that_is_not():
    embeddings = torch.tensor([[1.0, 0], [torch.nan, 1], [0, 1], [1, 1]])
    assert MultiSimilarityLoss()(embeddings, torch.tensor([0, 0, 1, 1])).isnan()


@pytest.mark.parametrize(
    ("embeddings", "labels", "sentence"),
    [
        (torch.ones(4, 3), torch.zeros(4, 1), r"embeddings are \(4, 3\) and labels \(4, 1\)"),
        (torch.ones(4, 3), torch.zeros(3), r"labels \(3,\); they must be \(m, D\) and \(m,\)"),
        (torch.ones(4), torch.zeros(4), r"embeddings are \(4,\)"),
        (torch.ones(4, 3, 1), torch.zeros(4), r"embeddings are \(4, 3, 1\)"),
        (torch.full((4, 3), 1e20), torch.zeros(4), "length is more than float32 holds"),
        (torch.full((4, 3), torch.inf), torch.zeros(4), "length is more than float32 holds"),
    ],
)
def test_batches_of_another_shape_or_past_float32_are_refused(embeddings, labels, sentence):
    with pytest.raises(CubsError, match=sentence):
        MultiSimilarityLoss()(embeddings, labels)


@MINING
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_exponents_that_overflow_float32_are_summed_all_the_same(mining, scale):
    values = {"alpha": scale, "beta": scale, "mining": mining}
    found = MultiSimilarityLoss(**values)(batch(3.0), LABELS)
    unit = torch.nn.functional.normalize(batch(3.0).double())
    kept = MultiSimilarityLoss(**values).mine(unit @ unit.T, LABELS)
    expected = 0
    for pairs, sign in zip(kept, (-1, 1), strict=True):
        x = (sign * scale * (unit @ unit.T - 0.5)).masked_fill(~pairs, -torch.inf)
        expected += torch.cat([x, torch.zeros(10, 1)], 1).logsumexp(1).mean() / scale
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-5)


def test_a_batch_on_a_device_gives_what_it_gives_on_the_cpu(device):
    leaf = batch().to(device).requires_grad_()
    (2 * MultiSimilarityLoss()(leaf, LABELS.to(device))).backward()  # a factor passes through
    alone = batch().requires_grad_()
    MultiSimilarityLoss()(alone, LABELS).backward()
    torch.testing.assert_close(leaf.grad.cpu(), 2 * alone.grad)
