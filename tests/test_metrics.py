import itertools
from collections import Counter

import pytest
import torch
from test_attention import NoMatrix

from cubslib import CubsError, metrics
from cubslib.check import oracles
from cubslib.metrics import (
    chance,
    confusion,
    map_at_r,
    nearer_negatives,
    neighbours,
    r_precision,
    recall_at_k,
    share_found,
    top_k_accuracy,
)

KS = (1, 2, 4, 8)


def ranked(embeddings, labels):
    """Each query's label and the others' by cosine, negatives first among equals."""
    unit = [row / row.norm() for row in embeddings.double()]
    for i, query in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        others.sort(key=lambda j: (-round((query @ unit[j]).item(), 5), labels[j] == labels[i]))  # noqa: B023
        yield labels[i].item(), labels[others].tolist()


def oracle(embeddings, labels, ks=KS):
    return oracles.recall_at_k(embeddings.double(), labels, ks)


def clusters(count=60, classes=7, noise=1.2, seed=0):
    """Labels and embeddings in loose clusters: recalls neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator) * 3 + 2
    centres = torch.randn(max(100, 3 * classes), 8, generator=generator)
    return centres[labels] + noise * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("tile", [512, 60, 7, 4])
@pytest.mark.parametrize("seed", range(3))
def test_recall_is_that_of_a_loop_in_tiles_of_any_size(monkeypatch, tile, seed):
    monkeypatch.setattr(metrics, "TILE", tile)
    embeddings, labels = clusters(seed=seed)
    expected = oracle(embeddings, labels)
    assert 0.1 < expected[1] < expected[2] < expected[4] < 1
    assert recall_at_k(embeddings, labels) == expected


@pytest.mark.parametrize("classes", [1, 7, 60])
def test_no_more_similarities_are_held_than_a_tile_or_block(monkeypatch, classes):
    monkeypatch.setattr(metrics, "TILE", 16)
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", 500)  # 4 rows of 120
    embeddings, labels = torch.randn(120, 2), torch.arange(120) % classes
    with NoMatrix(501):
        recall_at_k(embeddings, labels)
        map_at_r(embeddings, labels)
        neighbours(embeddings, embeddings, 3)


def test_many_embeddings_are_counted_as_in_one_product():
    """More than a tile, with classes across tiles' borders, duplicates and near ties."""
    embeddings, labels = clusters(1300, 40, 2.0)
    embeddings[600:900] = embeddings[:300]  # equal images, most of other classes
    embeddings[900:1000] = embeddings[:100] + 1e-4 * torch.randn(100, 8)
    unit = torch.nn.functional.normalize(embeddings.double())
    similarity, same = unit @ unit.T, labels[:, None] == labels
    positive = similarity.masked_fill(~same | torch.eye(1300).bool(), -torch.inf).amax(1)
    low, high = (
        (similarity >= (positive + shift)[:, None]).logical_and(~same).sum(1)
        for shift in (-7e-7, -1.3e-6)  # float32 moves a cosine by up to 3e-7
    )
    found = nearer_negatives(embeddings, labels)
    assert ((low <= found) & (found <= high)).all()
    assert (low == high).float().mean() > 0.95
    assert len(found.unique()) > 100


def test_autocast_changes_no_score(device):
    embeddings, labels = (x.to(device) for x in clusters(300, 40, 1.2))
    scores = recall_at_k, map_at_r, r_precision, lambda x, _: neighbours(x, x, 5)[0].tolist()
    for score in scores:
        with torch.autocast(device, torch.bfloat16):
            inside = score(embeddings, labels)
        assert inside == score(embeddings, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_and_length_are_scored_alike(dtype, device):
    embeddings, labels = clusters()
    embeddings = embeddings.to(device, dtype)
    lengths = torch.linspace(0.1, 30, 60, dtype=torch.float64, device=device)[:, None]
    expected = oracle(embeddings, labels)
    assert recall_at_k(embeddings, labels) == expected
    assert recall_at_k(embeddings.double() * lengths, labels) == expected
    order = torch.randperm(60)
    assert recall_at_k(embeddings[order], labels[order]) == expected


@pytest.mark.parametrize("constant", [0.0, 1.0, -3e4])
def test_collapsed_embeddings_score_0(constant):
    labels = torch.arange(40) % 4  # 30 negatives for each query
    assert recall_at_k(torch.full((40, 5), constant), labels) == dict.fromkeys(KS, 0.0)
    nearly = constant * torch.ones(40, 5) + 1e-5 * constant * torch.rand(40, 5)
    assert recall_at_k(nearly, labels)[1] == 0.0


def test_a_negative_as_near_as_the_best_positive_counts_as_nearer():
    same = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 2, 3])
    # The first query's positive ties with two negatives; the second's own class is farther.
    assert recall_at_k(same, labels, ks=(1, 2, 3)) == {1: 0.0, 2: 0.0, 3: 0.4}
    same[2:4] = torch.tensor([0.8 - 1e-4, 0.6])  # beyond a tie, on the far side of the first
    assert recall_at_k(same, labels, ks=(1, 2, 3)) == {1: 0.2, 2: 0.2, 3: 0.4}


def test_a_class_with_one_image_is_a_miss_at_every_k():
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = recall_at_k(embeddings, torch.tensor([0, 0, 1]), ks=(1, 3, 100))
    assert found == dict.fromkeys((1, 3, 100), 2 / 3)
    assert recall_at_k(embeddings[:1], torch.tensor([0]), ks=(1, 9)) == {1: 0.0, 9: 0.0}


def test_the_query_does_not_find_itself_and_k_may_exceed_the_images():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [-0.6, -0.8]])
    labels = torch.tensor([0, 0, 1, 1])
    assert recall_at_k(opposite, labels, ks=(1, 2, 3, 50)) == {1: 0.0, 2: 0.0, 3: 1.0, 50: 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_embeddings_that_are_not_finite_or_whose_length_is_not_are_refused(value):
    embeddings, labels = clusters()
    embeddings[3, 2] = value
    for score in (recall_at_k, map_at_r, lambda x, _: neighbours(x, x, 1)):
        with pytest.raises(CubsError, match="not finite, or longer than float32 holds"):
            score(embeddings, labels)


@pytest.mark.parametrize("score", [recall_at_k, top_k_accuracy, map_at_r, r_precision])
def test_shapes_that_do_not_fit_are_refused(score):
    embeddings, labels = clusters()
    for found, of in ((embeddings, labels[:, None]), (embeddings, labels[1:]), (labels, labels)):
        with pytest.raises(CubsError, match=r"labels are \(.*; they must be \(N,\)"):
            score(found, of)
    with pytest.raises(CubsError, match="no image"):
        score(embeddings[:0], labels[:0])


@pytest.mark.parametrize("ks", [(0,), (1, -2), (1.0,), (True,), ("1",), ()])
def test_ks_that_are_no_positive_whole_numbers_are_refused(ks):
    embeddings, labels = clusters()
    for score in (recall_at_k, top_k_accuracy, lambda _, of, ks: chance(of, ks)):
        with pytest.raises(CubsError, match="ks are .*; they must be whole numbers above 0"):
            score(embeddings, labels, ks=ks)


@pytest.mark.parametrize("block_elements", [2**24, 130])
def test_map_at_r_and_r_precision_are_those_of_a_loop(monkeypatch, block_elements):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    embeddings, labels = clusters()
    labels[7] = 1  # a class of its own scores 0
    shares, means = [], []
    for label, others in ranked(embeddings, labels):
        r = others.count(label)
        hits = [other == label for other in others[:r]]
        shares.append(sum(hits) / max(r, 1))
        means.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / max(r, 1))
    assert 0.1 < sum(means) / 60 < sum(shares) / 60 - 0.05
    assert r_precision(embeddings, labels) == pytest.approx(sum(shares) / 60)
    assert map_at_r(embeddings, labels) == pytest.approx(sum(means) / 60)


@pytest.mark.parametrize("score", [map_at_r, r_precision])
def test_collapsed_and_perfect_embeddings_score_0_and_1(score):
    labels = torch.arange(40) % 4
    assert score(torch.ones(40, 5), labels) == 0
    assert score(torch.eye(4)[labels] + 0.01 * torch.rand(40, 4), labels) == 1
    assert score(torch.randn(5, 4), torch.arange(5)) == 0  # no image has another of its class


@pytest.mark.parametrize(
    "labels", [[0, 0, 1, 1, 1, 2], [0, 0, 0], [0, 1, 2, 3], [4, 4, 0, 0, 0], [7]]
)
def test_chance_is_the_mean_recall_of_all_orders(labels):
    hits, orders = Counter(), 0
    for query, label in enumerate(labels):
        others = labels[:query] + labels[query + 1 :]
        for order in itertools.permutations(others):
            orders += 1
            hits.update(k for k in KS if label in order[:k])
    expected = {k: hits[k] / orders for k in KS}
    assert chance(torch.tensor(labels)) == pytest.approx(expected)
    assert chance(torch.tensor(labels), ks=(3,)).keys() == {3}


@pytest.mark.parametrize("block_elements", [2**24, 20])
def test_neighbours_are_the_nearest_in_the_gallery(monkeypatch, block_elements, device):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    gallery = 3 * torch.randn(9, 4, generator=torch.manual_seed(0)).to(device)
    gallery[8] = gallery[0] / 7  # a twin is a neighbour, the query itself is not
    cosine = torch.nn.functional.cosine_similarity(gallery[:, None], gallery, dim=2)
    own = torch.tensor([0, 3, 5], device=device)
    cosines, positions = neighbours(gallery[own], gallery, 5, itself=own)
    for query, row, values in zip(own, positions, cosines, strict=True):
        others = [i for i in range(9) if i != query]
        others.sort(key=lambda i: -cosine[query, i].item())  # noqa: B023
        assert row.tolist() == others[:5]
        torch.testing.assert_close(values, cosine[query, row])
    assert positions[0, 0] == 8
    assert neighbours(gallery[own], gallery, 99, itself=own)[1].shape == (3, 8)
    assert neighbours(gallery[own], gallery, 99)[1].shape == (3, 9)
    assert set(neighbours(gallery[:1], gallery, 2)[1][0].tolist()) == {0, 8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_accuracy_and_confusion_are_those_of_a_loop(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(50, 8, generator=generator).argsort(1).to(dtype)  # no ties
    labels = torch.randint(8, (50,), generator=generator)
    found = top_k_accuracy(logits, labels, ks=(1, 3, 8, 20))
    counts = [[0] * 8 for _ in range(8)]
    for k in found:
        ranked = [sorted(range(8), key=row.__getitem__, reverse=True) for row in logits.tolist()]
        hits = [label in row[:k] for row, label in zip(ranked, labels.tolist(), strict=True)]
        assert found[k] == sum(hits) / 50
    assert 0 < found[1] < found[3] < found[8] == found[20] == 1
    for row, label in zip(ranked, labels.tolist(), strict=True):
        counts[label][row[0]] += 1
    assert confusion(logits.argmax(1), labels, 8).tolist() == counts


def test_share_found_is_that_of_a_loop_and_bounded_by_k():
    embeddings, labels = clusters()
    labels[7] = 1  # a class of its own finds nothing
    wanted = dict.fromkeys((1, 3, 70), 0.0)
    for label, others in ranked(embeddings, labels):
        for k in wanted:
            wanted[k] += others[:k].count(label) / max(others.count(label), 1) / 60
    assert share_found(embeddings, labels, tuple(wanted)) == pytest.approx(wanted)
    assert wanted[70] == pytest.approx(59 / 60)
    perfect = torch.eye(4)[torch.arange(40) % 4] + 0.01 * torch.rand(40, 4)
    assert share_found(perfect, torch.arange(40) % 4, (3,))[3] == pytest.approx(3 / 9)
    assert share_found(torch.ones(1, 2), torch.zeros(1)) == {1: 0, 2: 0, 4: 0, 8: 0}
