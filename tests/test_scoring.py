import contextlib
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from small import Small

from cubslib import CubsError, controls, galleries, metrics, models, scoring, training
from cubslib.augment import prepare
from cubslib.datasets import TinyImageNet
from cubslib.runs import finished, history


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


@pytest.fixture
def data(tiny_root):
    """15 images, which neither 2 processes nor batches of 4 divide."""
    return TinyImageNet(tiny_root, "test")


def by_hand(model, data, size):
    """Every image by itself."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(prepare(data.read([i]), size)) for i in range(len(data))])


@pytest.mark.parametrize("batch", [4, 15, 256])
@pytest.mark.parametrize("training_mode", [True, False])
def test_outputs_leaves_none_out(batch, training_mode, data, fabric, monkeypatch):
    monkeypatch.setattr(scoring, "EVAL_BATCH", batch)
    model = Small(3).train(training_mode)
    found = scoring.outputs(fabric, model, data, 32)
    features = scoring.outputs(fabric, model, data, 32, head=False)
    assert model.training == training_mode
    assert not found.requires_grad
    torch.testing.assert_close(found, by_hand(model, data, 32))
    torch.testing.assert_close(model.fc(features), found)
    assert len(found.unique(dim=0)) == 15


def test_mirrored_outputs_are_the_mean_of_both_sides(data, fabric):
    model = Small(3)
    images = torch.cat([prepare(data.read([i]), 32) for i in range(len(data))])
    found = scoring.outputs(fabric, model.eval(), data, 32, mirrored=True)
    with torch.no_grad():
        torch.testing.assert_close(found, (model(images) + model(images.flip(3))) / 2)
    assert (found - by_hand(model, data, 32)).abs().max() > 1e-3


@pytest.mark.parametrize("world", [2, 4, 7])
def test_outputs_keeps_the_order_over_processes(world, data, monkeypatch):
    monkeypatch.setattr(scoring, "EVAL_BATCH", 3)
    model, shares = Small(3), {}

    def process(rank):
        def all_gather(own):
            shares[rank] = own
            return torch.stack([shares.get(other, own) for other in range(world)])

        return SimpleNamespace(
            world_size=world, global_rank=rank, device=torch.device("cpu"), all_gather=all_gather,
            to_device=lambda x: x, autocast=contextlib.nullcontext,
        )  # fmt: skip

    for _ in range(2):  # the second time every process's share is there to be gathered
        found = [scoring.outputs(process(rank), model, data, 32) for rank in range(world)]
    for one in found:
        torch.testing.assert_close(one, by_hand(model, data, 32))


def test_accuracy_and_recall_agree_with_counting(data, fabric):
    torch.manual_seed(0)
    model = Small(3)
    hits = by_hand(model, data, 32).argmax(1) == data.targets
    assert 0 < hits.sum() < 15
    found = scoring.accuracy(fabric, model, data, 32)
    assert found == {"top1": pytest.approx(hits.double().mean().item()), "top5": 1.0}
    features = scoring.recall(fabric, model, data, 32)
    model.config["embedding_dim"] = 3
    embeddings = scoring.recall(fabric, model, data, 32)
    for found, function in ((features, model.features), (embeddings, model)):
        with torch.no_grad():
            unit = torch.nn.functional.normalize(function(prepare(data.read(range(15)), 32)))
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
        share = (data.labels[nearest] == data.labels).double().mean().item()
        assert found == {"recall_at_1": pytest.approx(share)}


# --- records ---


def test_the_mirrored_score_is_of_mean_logits(t1):
    model = training.load(t1.folder)
    images = prepare(t1.test.read(range(len(t1.test))), t1["image_size"])
    with torch.no_grad():
        logits = (model(images) + model(images.flip(3))) / 2
    found = metrics.top_k_accuracy(logits, t1.test.targets)
    assert t1.record["test_mirrored"] == {f"top{k}": value for k, value in found.items()}


def test_a_classifier_is_scored_on_test_once_and_then_read(t1, monkeypatch):
    record = t1.record
    assert record["val"].keys() == record["test"].keys() == {"top1", "top5"}
    assert record["val"]["top1"] == t1.best("classification")["val_top1"]
    hits = torch.from_numpy(t1.arrays["logits"]).argmax(1) == torch.from_numpy(t1.arrays["labels"])
    assert record["test"]["top1"] == pytest.approx(hits.double().mean().item())
    monkeypatch.setattr(scoring, "outputs", lambda *_: pytest.fail("scored again"))
    assert scoring.record_classifier(t1, "classification", None) == record


def test_a_finished_run_holds_what_others_look_for(t1, t4):
    for run in (t1, t4):
        names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*")}
        assert names >= {"settings.json", "history.csv", "metrics.json", "arrays.npz"}
        assert names >= {"checkpoints/best.ckpt", "checkpoints/classification/last.ckpt"}
        assert not [name for name in names if name.endswith(".part")]
        assert finished.find(run.folder.parent) == [(run.folder, run.record)]
        assert history.best_row(run.history()[-1:]) == run.history()[-1]


def test_a_finished_run_is_the_gallery_of_the_unseen_classes(t4, monkeypatch):
    arrays = t4.arrays
    assert arrays["names"].tolist() == t4.test.names
    assert arrays["labels"].tolist() == t4.test.labels.tolist()
    assert arrays["embeddings_classification"].shape == (16, 768)
    assert arrays["embeddings_embedding"].shape == (16, 8)
    monkeypatch.setattr(scoring, "outputs", lambda *_: pytest.fail("computed again"))
    for stage in ("classification", "embedding"):
        found = scoring.gallery(t4, stage, None)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(16))
        recalls = metrics.recall_at_k(found, t4.test.labels)
        assert t4.record["recall"][stage] == {str(k): value for k, value in recalls.items()}
    assert scoring.record_retrieval(t4, None, {}, {}) == t4.record
    first, *rows = (t4.folder / "recall.csv").read_text().splitlines()
    assert first == "stage,k,recall"
    found = {stage: {} for stage in ("classification", "embedding")}
    for stage, k, value in (row.split(",") for row in rows):
        found[stage][k] = float(value)
    assert found == t4.record["recall"]


def test_the_record_of_t4_holds_controls_that_its_arrays_give_again(t4):
    rows = {name: row for name, *row in controls.rows(t4.arrays)}
    assert t4.record["measures"] == {name: controls.measures(*row) for name, row in rows.items()}
    assert t4.record["differences"].keys() == rows.keys() - {"embedding"}
    last, labels = rows["embedding"]
    for name, found in t4.record["differences"].items():
        assert found == controls.compare(last, rows[name][0], labels)
    assert t4.record["recall"]["embedding"] == t4.record["measures"]["embedding"]["recall"]
    features = scoring.outputs(t4.fabric, training.load(t4.checkpoint("classification")), t4.train,
                               t4["image_size"], head=False)  # fmt: skip
    mean, _ = controls.statistics(features)
    torch.testing.assert_close(torch.from_numpy(t4.arrays["mean"]), mean, atol=1e-3, rtol=1e-2)
    assert scoring.untrained_rows(t4, "embedding", None) == {}


def test_a_gallery_of_a_classifier_holds_its_features(begin):
    run = begin("T4", image_size=32)
    model = models.CustomCNN(4)
    found = scoring.gallery(run, "classification", model)
    features = scoring.outputs(run.fabric, model, run.test, 32, head=False)
    torch.testing.assert_close(found, torch.nn.functional.normalize(features))


# --- one photograph ---


def test_classify_names_the_likeliest_classes_of_a_photograph(t1, tiny_root):
    model = training.load(t1.folder)
    assert (model.training, model.image_size, model.classes) == (False, 64, list(t1.test.classes))
    assert models.num_parameters(model) == t1.record["num_parameters"]
    name = t1.test.names[4]
    found = scoring.classify(model, tiny_root / name)
    logits = torch.from_numpy(t1.arrays["logits"])[4]
    order = logits.argsort(descending=True)
    assert [cls for cls, _ in found] == [t1.test.classes[i] for i in order]
    expected = logits.softmax(0).sort(descending=True).values.tolist()
    assert [p for _, p in found] == pytest.approx(expected, abs=0.02)  # bfloat16, where it is fast
    assert scoring.classify(model, tiny_root / name, count=1) == found[:1]


def test_a_photograph_or_a_run_that_does_not_serve_is_refused(t1, t4, tmp_path, cars_root):
    words, car = tmp_path / "words.jpg", cars_root / t4.test.names[0]
    words.write_text("no image")
    for run_dir, photo, sentence in (
        (t4.folder, words, r"words\.jpg is no image that can be read"),
        (t1.folder, car, "T1 is no run of T4 and has no gallery, or its control"),
        (tmp_path, car, "is missing: name a finished run"),
        (t4.folder / "checkpoints/best.ckpt", car, "has no gallery"),
    ):
        with pytest.raises(CubsError, match=sentence):
            galleries.search(run_dir, photo)
    with pytest.raises(CubsError, match=r"words\.jpg is no image"):
        scoring.classify(training.load(t1.folder), words)
    with pytest.raises(CubsError, match="embeds and has no classes: name a run of T1, T2 or T3"):
        scoring.classify(training.load(t4.folder), words)


def test_a_finished_run_serves_without_its_fits_checkpoints(t1, t4, tmp_path, cars_root):
    for run in (t1, t4):
        copy = shutil.copytree(run.folder, tmp_path / run.task)
        shutil.rmtree(copy / "checkpoints/classification")
    photo = t1.test.root / t1.test.names[0]
    found = [scoring.classify(training.load(f), photo) for f in (t1.folder, tmp_path / "T1")]
    assert found[0] == found[1]
    car = cars_root / t4.test.names[0]
    assert galleries.search(tmp_path / "T4", car) == galleries.search(t4.folder, car)
