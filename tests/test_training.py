from types import SimpleNamespace

import pytest
import small
import torch
from small import Small, assert_same, checkpoints, fit, shorten
from torch import nn

from cubslib import CubsError, scoring, settings, training

begin, data_root, short = small.begin, small.data_root, small.short


def test_fit_learns_and_leaves_history_and_checkpoints(begin):
    shorten(epochs=6, lr=0.02, patience=9)
    run = begin("T1")
    fit(run)
    history, saved = run.history(), checkpoints(run.folder)
    assert list(history[0]) == [
        "fit", "epoch", "lr", "size", "loss", "seconds", "images_per_second", "val_top1", "val_top5"
    ]  # fmt: skip
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["size"] for row in history] == [32, 32, 32, 48, 48, 48]
    rates = [row["lr"] for row in history]
    assert rates[0] < max(rates) < 0.02
    assert rates[-1] < max(rates) / 20
    assert history[-1]["loss"] < history[0]["loss"]
    assert set(saved) == {"classification/best.ckpt", "classification/last.ckpt"}
    rows = saved["classification/last.ckpt"]["history"]
    assert_same([{"fit": "classification"} | row for row in rows], history)
    best = saved["classification/best.ckpt"]
    assert best["epoch"] == run.best("classification")["epoch"]
    assert (best["classes"], best["image_size"]) == (list(run.train.classes), 64)


def test_what_is_reported_is_the_best_on_val_and_without_val_the_last(begin, monkeypatch):
    scores, seen = iter([0.5, 0.75, 0.75]), []

    def score(fabric, model, data, size):
        seen.append({key: x.clone() for key, x in model.state_dict().items()})
        return {"top1": next(scores)}

    monkeypatch.setattr(scoring, "accuracy", score)
    assert_same(fit(begin("T1")).state_dict(), seen[1])
    run = begin("T4")
    model = training.fit(run, "embedding", small.small(run), nn.CrossEntropyLoss(), score)
    assert_same(model.state_dict(), checkpoints(run.folder)["embedding/last.ckpt"]["model"])


def test_averaged_weights_are_judged_and_reported(begin):
    shorten(ema_decay=0.9)
    run, judged = begin("T1"), []

    def score(fabric, model, data, size):
        judged.append(model)
        return scoring.accuracy(fabric, model, data, size)

    model = training.fit(run, "classification", small.small(run), nn.CrossEntropyLoss(), score)
    saved = checkpoints(run.folder)
    last = saved["classification/last.ckpt"]
    assert judged[0] is not model
    assert not torch.equal(last["averaged"]["module.fc.weight"], last["model"]["fc.weight"])
    assert_same(model.state_dict(), saved["classification/best.ckpt"]["state_dict"])
    if saved["classification/best.ckpt"]["epoch"] == 3:
        assert torch.equal(last["averaged"]["module.fc.weight"], model.fc.weight)


@pytest.mark.parametrize(
    ("scores", "is_over"),
    [
        ([], False),
        ([0.9, 0.1, 0.1, 0.1, 0.1], False),  # never in the first two thirds
        ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], True),
        ([0.1, 0.1, 0.1, 0.9, 0.1, 0.1], False),
        ([0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1], True),
        ([0.1 * i for i in range(8)], False),
        ([0.1 * i for i in range(9)], True),
        ([None] * 8, False),  # without val
        ([None] * 9, True),
    ],
)
def test_early_stopping_waits_for_the_last_third(scores, is_over):
    recipe = SimpleNamespace(epochs=9, patience=3)
    history = [
        {"epoch": i} | ({} if x is None else {"val_top1": x}) for i, x in enumerate(scores, 1)
    ]
    assert training.over(history, recipe) == is_over


def test_a_loss_that_is_no_number_stops_with_one_sentence(begin):
    shorten(lr=1e30)
    wild = begin("T1")
    with pytest.raises(
        CubsError, match=r"loss of classification is (nan|inf) in epoch 1: lower lr"
    ):
        fit(wild)
    assert wild.history() == []


def test_a_checkpoint_of_another_network_is_refused(begin, tmp_path):
    run = begin("T1")
    fit(run)
    other = Small(5)
    with pytest.raises(CubsError, match=r"last\.ckpt of classification .* another network"):
        training.fit(run, "classification", other, nn.CrossEntropyLoss(), scoring.accuracy)
    path = run.folder / "checkpoints/classification/best.ckpt"
    with pytest.raises(CubsError, match="network is 'small'"):
        training.load(path)
    saved = torch.load(path) | {"config": {"network": "custom_cnn", "num_classes": 3}}
    torch.save(saved, path)
    with pytest.raises(CubsError, match="another network"):
        training.load(path)
    with pytest.raises(CubsError, match="missing: name a finished run"):
        training.load(tmp_path / "nowhere")


def test_a_run_goes_on_only_where_its_device_is(begin, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: "cuda")
    monkeypatch.setattr(settings, "precision", lambda device: "32-true")
    run = begin("T1")
    monkeypatch.setattr(settings, "device", lambda: "cpu")
    with pytest.raises(CubsError, match="began on cuda: go on where there is one"):
        training.launch(run)
    run.write("metrics.json", "{}")
    assert training.launch(run).device.type == "cpu"
