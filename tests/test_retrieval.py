import itertools
from collections import Counter

import pytest
import small
import torch

from cubslib import CubsError, metrics, models, retrieval, scoring, training

begin, data_root, short, t1, t4 = small.begin, small.data_root, small.short, small.t1, small.t4


def test_t4_begins_from_all_weights_but_the_last_layer(begin, tmp_path):
    plain, path = models.resnet18(7), tmp_path / "other.ckpt"
    torch.save({"state_dict": plain.state_dict(), "config": plain.config}, path)
    run = begin("T4", init_from="other.ckpt")
    model = models.cubs_resnet18(len(run.train.classes), run.resolved["fashion"])
    before = {key: x.clone() for key, x in model.state_dict().items()}
    retrieval.initialise(run, model)
    for key, x in model.state_dict().items():
        kept = key.startswith("fc.") or "attention" in key
        assert torch.equal(x, (before if kept else plain.state_dict())[key]), key
    torch.save({"state_dict": {}, "config": {}}, path)
    with pytest.raises(CubsError, match="is not what .* began from"):
        retrieval.initialise(run, model)
    path.unlink()
    with pytest.raises(CubsError, match="other.ckpt is missing"):
        retrieval.initialise(run, model)
    last = run.folder / "checkpoints/classification/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    retrieval.initialise(run, model)  # it goes on from its own
    retrieval.initialise(begin("T4"), model)  # random weights


def test_a_finished_run_is_the_gallery_of_the_unseen_classes(t4, monkeypatch):
    arrays = t4.arrays
    assert arrays["names"].tolist() == t4.test.names
    assert arrays["labels"].tolist() == t4.test.labels.tolist()
    assert arrays["embeddings_classification"].shape == (16, 640)
    assert arrays["embeddings_embedding"].shape == (16, 8)
    monkeypatch.setattr(retrieval, "outputs", lambda *_: pytest.fail("computed again"))
    for stage in ("classification", "embedding"):
        found = retrieval.gallery(t4, stage, None)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(16))
        recalls = metrics.recall_at_k(found, t4.test.labels)
        assert t4.record["recall"][stage] == {str(k): value for k, value in recalls.items()}
    assert retrieval.record_retrieval(t4, None, {}) == t4.record


def test_recall_csv_holds_the_record_s_recalls(t4):
    first, *rows = (t4.folder / "recall.csv").read_text().splitlines()
    assert first == "stage,k,recall"
    found = {stage: {} for stage in ("classification", "embedding")}
    for stage, k, value in (row.split(",") for row in rows):
        found[stage][k] = float(value)
    assert found == t4.record["recall"]


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 1, 2], [0, 0, 0], [0, 1, 2, 3], [4, 4, 0, 0, 0]])
def test_chance_is_the_mean_recall_of_all_orders(labels):
    hits, orders = Counter(), 0
    for query, label in enumerate(labels):
        others = labels[:query] + labels[query + 1 :]
        for order in itertools.permutations(others):
            orders += 1
            hits.update(k for k in retrieval.KS if label in order[:k])
    expected = {k: hits[k] / orders for k in retrieval.KS}
    assert retrieval.chance(torch.tensor(labels)) == pytest.approx(expected)


def test_neighbours_are_the_nearest_others():
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(9, 4))
    embeddings[8] = embeddings[0]  # a twin is a neighbour, the query itself is not
    queries = torch.tensor([0, 3])
    found = retrieval.neighbours(embeddings, queries, 5)
    for query, row in zip(queries.tolist(), found.tolist(), strict=True):
        others = [i for i in range(9) if i != query]
        others.sort(key=lambda i: -(embeddings[i] @ embeddings[query]).item())
        assert row == others[:5]
    assert found[0, 0] == 8


def test_search_finds_a_picture_of_the_gallery_itself_first(t4, cars_root):
    for position in (0, 7, 15):
        name = t4.test.names[position]
        found = retrieval.search(t4.folder, cars_root / name, count=99)
        assert len(found) == 16
        best, of_class, cosine = found[0]
        twins = [file for file, _, c in found if c > cosine - 1e-3]
        assert name in twins
        assert cosine == pytest.approx(1, abs=0.02)
        classes = dict(zip(t4.test.names, t4.arrays["classes"], strict=True))
        assert {file: cls for file, cls, _ in found} == classes
        cosines = [cosine for *_, cosine in found]
        assert cosines == sorted(cosines, reverse=True)
        assert retrieval.search(t4.folder, cars_root / name, count=2) == found[:2]


def test_search_refuses_what_it_cannot_do(t1, t4, tmp_path, cars_root):
    words, car = tmp_path / "words.jpg", cars_root / t4.test.names[0]
    words.write_text("no image")
    for run_dir, photo, sentence in (
        (t4.folder, words, r"words\.jpg is no image that can be read"),
        (t1.folder, car, "T1 is no run of T4 and has no gallery"),
        (tmp_path, car, "is missing: name a finished run"),
        (t4.folder / "checkpoints/best.ckpt", car, "has no gallery"),
    ):
        with pytest.raises(CubsError, match=sentence):
            retrieval.search(run_dir, photo)


def test_a_gallery_of_a_classifier_holds_its_features(begin):
    run = begin("T4", image_size=32)
    model = models.CustomCNN(4)
    found = retrieval.gallery(run, "classification", model)
    features = scoring.outputs(training.launch(run), model, run.test, 32, head=False)
    torch.testing.assert_close(found, torch.nn.functional.normalize(features))
