import pytest
import torch

from cubslib import metrics
from cubslib.metrics import confusion, recall_at_k, top_k_accuracy

KS = (1, 2, 4, 8)


def oracle(embeddings, labels, ks=KS):
    """Recall@K query by query: sort the others by cosine, negatives first among equals."""
    unit = [row / row.norm() for row in embeddings.double()]
    hits = dict.fromkeys(ks, 0)
    for i, query in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        others.sort(key=lambda j: (-round((query @ unit[j]).item(), 5), labels[j] == labels[i]))  # noqa: B023
        for k in ks:
            hits[k] += any(labels[j] == labels[i] for j in others[:k])
    return {k: count / len(unit) for k, count in hits.items()}


def clusters(count=60, classes=7, noise=1.2, seed=0):
    """Labels and embeddings in loose clusters: recalls neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator) * 3 + 2
    centres = torch.randn(100, 8, generator=generator)
    return centres[labels] + noise * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("block_elements", [2**24, 60 * 7, 1])
@pytest.mark.parametrize("seed", range(3))
def test_recall_is_that_of_a_loop_in_blocks_of_any_size(monkeypatch, block_elements, seed):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", block_elements)
    embeddings, labels = clusters(seed=seed)
    expected = oracle(embeddings, labels)
    assert 0.1 < expected[1] < expected[2] < expected[4] < 1
    assert recall_at_k(embeddings, labels) == expected


def test_no_more_similarities_are_held_than_a_block(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_ELEMENTS", 130)
    sizes = []
    count = metrics._nearer_negatives
    monkeypatch.setattr(
        metrics, "_nearer_negatives", lambda *a: sizes.append(len(found := count(*a))) or found
    )
    recall_at_k(*clusters())
    assert sizes == [2] * 30  # 130 // 60 queries at a time


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_cannot_be_scored_are_refused(value):
    embeddings, labels = clusters()
    embeddings[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        recall_at_k(embeddings, labels)
    for score in (recall_at_k, top_k_accuracy):
        with pytest.raises(ValueError, match="no image"):
            score(embeddings[:0], labels[:0])


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
