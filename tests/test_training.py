import itertools
import os
import re
import signal
import socket
from types import SimpleNamespace

import pytest
import torch
from small import Small, apart, fit, share, shorten, small, whole_run
from torch import nn

from cubslib import CubsError, models, records, runs, scoring, settings, training

pytest_plugins = "small"
TIMES = "seconds", "images_per_second"


def untimed(history):
    return [{key: row[key] for key in row if key not in TIMES} for row in history]


def leaves(tree, name=""):
    """Everything in nested dicts and lists, by where it is."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, sub in items for k, v in leaves(sub, f"{name}.{key}").items()}
    return {name: tree}


def assert_same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if torch.is_tensor(value):
            assert torch.equal(value, other[name]), name
        elif not name.endswith(TIMES):
            assert value == other[name], name


def checkpoints(run):
    files = sorted(run.folder.rglob("*.ckpt"))
    return {f"{file.parent.name}/{file.name}": torch.load(file) for file in files}


def test_fit_learns_and_leaves_history_and_checkpoints(begin):
    shorten(epochs=6)
    run = begin("T1")
    fit(run)
    history, saved = run.history(), checkpoints(run)
    assert list(history[0]) == [
        "fit", "epoch", "lr", "size", "loss", "seconds", "images_per_second", "val_top1", "val_top5"
    ]  # fmt: skip
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["size"] for row in history] == [32, 32, 32, 32, 48, 48]
    assert history[-1]["lr"] < history[2]["lr"] == max(row["lr"] for row in history)
    assert history[-1]["loss"] < history[0]["loss"]
    assert set(saved) == {"classification/best.ckpt", "classification/last.ckpt"}
    assert untimed(saved["classification/last.ckpt"]["history"]) == [
        {key: value for key, value in row.items() if key != "fit"} for row in untimed(history)
    ]
    best = saved["classification/best.ckpt"]
    assert best["epoch"] == run.best("classification")["epoch"]
    assert (best["classes"], best["image_size"]) == (list(run.train.classes), 64)


def test_a_run_killed_at_every_write_and_begun_again_ends_as_an_unbroken_one(data_root, tmp_path):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    unbroken.mkdir()
    killed.mkdir()
    assert apart(whole_run, unbroken, data_root, 99) == 0
    for deaths, writes in enumerate(itertools.cycle((1, 2, 3, 4, 5, 6))):
        status = apart(whole_run, killed, data_root, writes)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert deaths >= 6
    one, other = (
        SimpleNamespace(folder=folder / "runs" / "T1_custom_cnn") for folder in (unbroken, killed)
    )
    assert len(checkpoints(one)["classification/last.ckpt"]["history"]) == 3
    assert "averaged" in checkpoints(one)["classification/last.ckpt"]
    assert_same(checkpoints(one), checkpoints(other))
    histories = [runs.Run.history(run) for run in (one, other)]
    assert len(histories[0]) == 3
    assert_same(*histories)
    assert runs.Run.record.fget(one)["test"] == runs.Run.record.fget(other)["test"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
@pytest.mark.parametrize("where", ["augment", "score", "_save"])
def test_an_interrupted_run_says_what_is_saved_and_goes_on_from_there(
    where, ema_decay, begin, monkeypatch, capsys
):
    shorten(ema_decay=ema_decay)
    unbroken = begin("T1", run_dir="unbroken")
    expected = fit(unbroken)
    run, calls = begin("T1", run_dir="broken"), itertools.count(1)

    def interrupted(*arguments, **options):
        if next(calls) == (5 if where == "augment" else 2):  # in the second epoch
            raise KeyboardInterrupt
        return usual(*arguments, **options)

    place, name = (scoring, "accuracy") if where == "score" else (training, where)
    usual = getattr(place, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(run)
    said = "Interrupted; classification is saved to epoch 1: run again to go on."
    assert (said in capsys.readouterr().out) == (where != "_save")
    found = fit(run)
    assert_same(found.state_dict(), expected.state_dict())
    assert_same(checkpoints(run), checkpoints(unbroken))
    assert_same(run.history(), unbroken.history())


def test_a_complete_fit_is_read_from_its_files(begin, monkeypatch, capsys):
    run = begin("T1")
    expected = fit(run).state_dict()
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert_same(fit(run).state_dict(), expected)
    assert "3 epochs read from T1_custom_cnn; nothing is trained" in capsys.readouterr().out


def test_what_is_reported_is_the_best_on_val_and_without_val_the_last(begin, monkeypatch):
    scores, seen = iter([0.5, 0.75, 0.75]), []

    def score(fabric, model, data, size):
        seen.append({key: x.clone() for key, x in model.state_dict().items()})
        return {"top1": next(scores)}

    monkeypatch.setattr(scoring, "accuracy", score)
    assert_same(fit(begin("T1")).state_dict(), seen[1])
    run = begin("T4")
    model = training.fit(run, "embedding", small(run), nn.CrossEntropyLoss(), score)
    assert_same(model.state_dict(), checkpoints(run)["embedding/last.ckpt"]["model"])


def test_averaged_weights_are_judged_and_reported(begin):
    shorten(ema_decay=0.9)
    run, judged = begin("T1"), []

    def score(fabric, model, data, size):
        judged.append(model)
        return scoring.accuracy(fabric, model, data, size)

    model = training.fit(run, "classification", small(run), nn.CrossEntropyLoss(), score)
    saved = checkpoints(run)
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
    history = [{"epoch": i} | ({} if x is None else {"val_top1": x}) for i, x in enumerate(scores, 1)]
    assert training.over(history, recipe) == is_over


def test_a_loss_that_is_no_number_stops_with_one_sentence(begin):
    run = begin("T1")
    fit(run)
    shorten(lr=1e30)
    wild = begin("T1", run_dir="wild")
    with pytest.raises(CubsError, match=r"loss of classification is (nan|inf) in epoch 1: lower lr"):
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


@pytest.mark.parametrize("metric", [True, False], ids=["multi_similarity", "cross_entropy"])
def test_two_processes_train_as_one_does(metric, begin, monkeypatch):
    monkeypatch.setattr(settings, "precision", lambda device: "32-true")
    shorten(lr=0.01)
    found, histories = [], []
    for world in (1, 2):
        run = begin("T1", run_dir=f"world{world}")
        run.release()
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        arguments = [(rank, world, port, run, metric) for rank in range(world)]
        from small import FORKS

        processes = [FORKS.Process(target=share, args=own) for own in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        found.append([torch.load(run.folder / f"rank{rank}.pt") for rank in range(world)])
        histories.append(run.history())
    (one,), (first, second) = found
    assert (one["world"], first["world"]) == (1, 2)
    together = [torch.cat(pair) for pair in zip(first["images"], second["images"], strict=True)]
    assert_same(together, one["images"])
    assert all(a.abs().max() > 0 for a in leaves(one["gradients"]).values())
    for rank in (first, second):
        torch.testing.assert_close(rank["gradients"], one["gradients"], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(rank["outputs"], one["outputs"], rtol=1e-3, atol=1e-5)
        assert rank["recall"] == one["recall"]
    for a, b in zip(*histories, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert [v for k, v in a.items() if "val" in k] == [v for k, v in b.items() if "val" in k]
