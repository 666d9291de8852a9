"""The loop and its state: what a fit leaves, and what a kill, Ctrl-C or a bad step leaves of it."""

import contextlib
import itertools
import os
import shutil
import signal
from types import SimpleNamespace

import harm
import pytest
import small
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from small import Small, apart, assert_same, checkpoints, fit, leaves, shorten
from torch import nn

from cubslib import CubsError, machine, models, scoring, training
from cubslib.runs.history import best_row


def given(*values):
    """A score that gives `values` epoch by epoch, from the first on in every process."""
    scores = iter(values)
    return lambda *_: {"top1": next(scores)}


# --- one fit ---


def test_fit_learns_and_leaves_history_and_checkpoints(begin):
    shorten(epochs=6, lr=0.02, patience=9)
    run = begin("T1")
    fit(run)
    history, saved = run.history(), checkpoints(run.folder)
    assert list(history[0]) == [
        "fit", "epoch", "lr", "size", "loss", "seconds", "cpu_seconds", "images_per_second",
        "val_top1", "val_top5",
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


def test_crops_are_native_from_the_recipes_share_of_the_steps_on(begin, monkeypatch):
    shorten(epochs=4, native_from=0.5)
    seen, augment = [], training.augment

    def watched(images, numbers, how, size):
        seen.append((how.native, how.min_area))
        return augment(images, numbers, how, size)

    monkeypatch.setattr(training, "augment", watched)
    run = begin("T1")
    fit(run)
    area = run.recipe("classification").augmentation["min_area"]
    half = len(seen) // 2
    assert half >= 2
    assert seen == [(False, area)] * half + [(True, area)] * half


def test_what_is_reported_is_the_best_on_val_and_without_val_the_last(begin):
    scores, seen = iter([0.5, 0.75, 0.75]), []

    def score(fabric, model, data, size):
        seen.append({key: x.clone() for key, x in model.state_dict().items()})
        return {"top1": next(scores)}

    assert_same(fit(begin("T1"), score).state_dict(), seen[1])
    run = begin("T4")
    model = training.fit(run, "embedding", small.small(run), nn.CrossEntropyLoss(), score)
    assert_same(model.state_dict(), checkpoints(run.folder)["embedding/last.ckpt"]["model"])


def test_averaged_weights_are_judged_and_reported(begin):
    shorten(ema_decay=0.9)
    run, judged = begin("T1"), []

    def score(fabric, model, data, size):
        judged.append(model)
        return {"top1": len(judged)}

    model = fit(run, score)
    saved = checkpoints(run.folder)
    last = saved["classification/last.ckpt"]
    assert judged[0] is not model
    assert not torch.equal(last["averaged"]["module.fc.weight"], last["model"]["fc.weight"])
    assert_same(model.state_dict(), saved["classification/best.ckpt"]["state_dict"])
    assert torch.equal(last["averaged"]["module.fc.weight"], model.fc.weight)


@pytest.mark.parametrize(("scores", "is_over"), [
    ([], False),
    ([0.9, 0.1, 0.1, 0.1, 0.1], False),  # never in the first two thirds
    ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], True),
    ([0.1, 0.1, 0.1, 0.9, 0.1, 0.1], False),
    ([0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1], True),
    ([0.1 * i for i in range(8)], False),
    ([0.1 * i for i in range(9)], True),
    ([None] * 8, False),  # without val
    ([None] * 9, True),
])  # fmt: skip
def test_early_stopping_waits_for_the_last_third(scores, is_over):
    recipe = SimpleNamespace(epochs=9, patience=3)
    rows = enumerate(scores, 1)
    history = [{"epoch": i} | ({} if x is None else {"val_top1": x}) for i, x in rows]
    assert training.over(history, recipe) == is_over


def test_a_checkpoint_of_another_network_is_refused(begin, tmp_path):
    run, other = begin("T1"), Small(3, plain=True)
    fit(run)
    with pytest.raises(CubsError, match=r"last\.ckpt of classification .* another network"):
        training.fit(run, "classification", other, nn.CrossEntropyLoss(), scoring.accuracy)
    path = run.checkpoint("classification")
    with pytest.raises(CubsError, match="network is 'small'"):
        training.load(path)
    saved = torch.load(path) | {"config": {"network": "custom_cnn", "num_classes": 3}}
    torch.save(saved, path)
    with pytest.raises(CubsError, match="another network"):
        training.load(path)
    with pytest.raises(CubsError, match="missing: name a finished run"):
        training.load(tmp_path / "nowhere")
    run.checkpoint("classification", "last").write_bytes(b"half")
    with pytest.raises(CubsError, match=r"last\.ckpt cannot be read: ask for restart=True"):
        fit(run)


def test_t4_begins_from_all_weights_but_the_last_layer(begin, tmp_path):
    plain, path = models.resnet18(7), tmp_path / "other.ckpt"
    torch.save({"state_dict": plain.state_dict(), "config": plain.config}, path)
    run = begin("T4", init_from="other.ckpt")
    model = models.cubs_resnet18(len(run.train.classes), run["fashion"])
    before = {key: x.clone() for key, x in model.state_dict().items()}
    training.initialise(run, model)
    for key, x in model.state_dict().items():
        kept = key.startswith("fc.") or "attention" in key
        assert torch.equal(x, (before if kept else plain.state_dict())[key]), key
    with pytest.raises(CubsError, match="another network"):
        training.initialise(run, models.CustomCNN(7))
    torch.save({"state_dict": {}, "config": {}}, path)
    with pytest.raises(CubsError, match="is not what .* began from"):
        training.initialise(run, model)
    path.unlink()
    with pytest.raises(CubsError, match="other.ckpt is missing"):
        training.initialise(run, model)
    last = run.checkpoint("classification", "last")
    last.parent.mkdir(parents=True)
    last.touch()
    training.initialise(run, model)  # it goes on from its own
    training.initialise(begin("T4"), model)  # random weights


# --- finished and complete ---


def test_a_complete_fit_is_read_from_its_files(begin, monkeypatch, capsys):
    run = begin("T1")
    expected = fit(run).state_dict()
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert_same(fit(run).state_dict(), expected)
    assert "classification: 3 epochs in" in capsys.readouterr().out


def test_a_finished_run_needs_no_checkpoint_of_a_fit_and_never_trains(begin, monkeypatch, capsys):
    run = begin("T1")
    expected = fit(run).state_dict()
    record = scoring.record_classifier(run, "classification", fit(run))
    shutil.rmtree(run.checkpoint("classification").parent)
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained again"))
    run.release()
    run, files = begin("T1"), sorted(run.folder.rglob("*"))
    capsys.readouterr()
    model = fit(run)
    said = capsys.readouterr().out
    assert "classification: 3 epochs in" in said
    assert "Read from T1_custom_cnn; nothing is trained." in said
    assert_same(model.state_dict(), expected)  # the run's own checkpoint holds them
    assert scoring.record_classifier(run, "classification", model) == record
    assert sorted(run.folder.rglob("*")) == files


# --- kills ---


def test_a_run_killed_at_every_write_and_begun_again_ends_as_an_unbroken_one(data_root, tmp_path):
    projects = [tmp_path / name for name in ("unbroken", "killed")]
    for project in projects:
        project.mkdir()
    assert apart(harm.apart, "T1", projects[0], data_root) == 0
    attempts = [1, 2, 3, 4] * 3 + [0]  # a start writes one file, an epoch three, the end three
    statuses = [apart(harm.apart, "T1", projects[1], data_root, write) for write in attempts]
    assert statuses == [-signal.SIGKILL] * 12 + [0]
    one, other = map(harm.result, projects)
    assert_same(one, other)
    assert [row["epoch"] for row in one["history"]] == [1, 2, 3]
    best = one["checkpoints"]["checkpoints/best.ckpt"]
    assert best["epoch"] == best_row(one["history"])["epoch"]
    assert "averaged" in one["checkpoints"]["classification/last.ckpt"]
    files = [next(project.glob("runs/*/checkpoints/best.ckpt")) for project in projects]
    assert files[0].read_bytes() == files[1].read_bytes()  # written by other processes


class Stopped(BaseException):
    """A kill, as far as the files can tell."""


@contextlib.contextmanager
def stopped(write, before, error):
    """Let the `write`-th replacing of a file raise `error`, `before` it is done or after."""

    def stop():
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", os.replace)  # is put back at the end
        harm.at_write(write, stop, after=not before)
        yield


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("write", range(1, 10))
def test_best_weights_and_the_history_s_best_belong_together_whatever_is_repeated(
    write, before, begin
):
    """The score changes between the attempts, as with another number of threads."""
    run = begin("T1")
    with contextlib.suppress(Stopped), stopped(write, before, Stopped):
        fit(run, given(0.2, 0.9, 0.3))
    saved = run.checkpoint("classification", "last")
    done = torch.load(saved)["history"] if saved.exists() else []
    model = fit(run, given(*(0.6, 0.4, 0.5)[len(done) :]))
    last, best = (torch.load(run.checkpoint("classification", n)) for n in ("last", "best"))
    assert last["history"][: len(done)] == done
    epochs = [row["epoch"] for row in (run.best("classification"), best_row(last["history"]))]
    assert epochs == [best["epoch"]] * 2
    assert_same([{"fit": "classification"} | row for row in last["history"]], run.history())
    assert_same(model.state_dict(), best["state_dict"])
    if best["epoch"] == 3:
        assert_same(best["state_dict"], last["model"])


# --- Ctrl-C ---


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
@pytest.mark.parametrize("where", ["augment", "score"])
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
    assert said in capsys.readouterr().out
    found = fit(run)
    assert_same(found.state_dict(), expected.state_dict())
    assert_same(checkpoints(run.folder), checkpoints(unbroken.folder))
    assert_same(run.history(), unbroken.history())


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("write", range(1, 8))
def test_what_is_said_at_ctrl_c_is_what_a_resume_finds(write, before, begin, monkeypatch, capsys):
    run = begin("T1")
    with pytest.raises(KeyboardInterrupt), stopped(write, before, KeyboardInterrupt):
        fit(run, given(0.2, 0.9, 0.3))
    saved = run.checkpoint("classification", "last")
    done = len(torch.load(saved)["history"]) if saved.exists() else 0
    assert f"classification is saved to epoch {done}: run again" in capsys.readouterr().out
    calls = []
    monkeypatch.setattr(training, "train_epoch", lambda *_: calls.append(_) or 1 / 0)
    with pytest.raises(ZeroDivisionError) if done < 3 else pytest.MonkeyPatch.context():
        fit(run)
    assert len(run.history()) == done


def test_after_ctrl_c_in_the_first_epoch_the_same_cell_begins_anew(begin, monkeypatch):
    expected = fit(begin("T1", run_dir="unbroken")).state_dict()
    run = begin("T1", run_dir="broken")
    model = small.small(run)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "accuracy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.fit(run, "classification", model, nn.CrossEntropyLoss(), scoring.accuracy)
    assert_same(model.state_dict(), before)
    training.fit(run, "classification", model, nn.CrossEntropyLoss(), scoring.accuracy)
    assert_same(model.state_dict(), expected)


# --- what is not finite ---


class Wild(nn.Module):
    """A loss that is not finite, or whose gradient is not, from one step on."""

    def __init__(self, step, what):
        super().__init__()
        self.left, self.what = step, what

    def forward(self, outputs, targets):
        self.left -= 1
        loss = nn.functional.cross_entropy(outputs, targets)
        if self.left >= 0:
            return loss
        return loss * torch.nan if self.what == "loss" else loss + outputs.sub(outputs).sqrt().sum()


@pytest.mark.parametrize(("what", "step", "where"), [
    ("loss", 0, "step 1 of epoch 1"),
    ("loss", 4, "step 2 of epoch 2"),
    ("loss", 5, "step 3 of epoch 2"),  # the last
    ("weights", 5, "step 3 of epoch 2"),
])  # fmt: skip
def test_what_is_not_finite_stops_and_keeps_the_last_good_checkpoint(what, step, where, begin):
    run = begin("T1")
    with pytest.raises(CubsError) as caught:
        training.fit(run, "classification", small.small(run), Wild(step, what), scoring.accuracy)
    kept = 0 if "epoch 1" in where else 1
    rate = run.recipe("classification").lr / 10
    assert str(caught.value) == (
        f"the loss of classification is not finite at {where}; epochs up to {kept} are kept: begin "
        "a new run with a lower rate, `python -m cubslib run T1 "
        f"-p data_root {run.asked['data_root']} -p lr {rate:g}`."
    )
    assert len(run.history()) == kept
    if kept:
        for values in leaves(checkpoints(run.folder)).values():
            assert not torch.is_tensor(values) or values.isfinite().all()
        assert len(fit(run).state_dict()) > 0  # and a good loss goes on from there
        assert len(run.history()) == 3


# --- precision and processes ---


def test_the_scale_of_16_bit_losses_is_saved_and_restored(begin):
    def half(name):
        run = begin("T1", run_dir=name)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        run.__dict__["fabric"] = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
        run.fabric.launch()
        return run

    unbroken, broken = half("unbroken"), half("broken")
    fit(unbroken)
    with pytest.raises(Stopped), stopped(5, True, Stopped):
        fit(broken)
    saved = torch.load(broken.checkpoint("classification", "last"))
    assert saved["scale"]["scale"] != 2.0**20
    fit(half("broken"))
    assert_same(checkpoints(broken.folder), checkpoints(unbroken.folder))


@pytest.mark.parametrize("metric", [True, False], ids=["multi_similarity", "cross_entropy"])
def test_two_processes_train_as_one_does(metric, begin, monkeypatch):
    monkeypatch.setattr(machine, "precision", lambda device: "32-true")
    shorten(lr=0.01)
    found, histories = [], []
    for world in (1, 2):
        run = begin("T1", run_dir=f"world{world}")
        run.release()
        assert small.together(small.share, world, run, metric) == [0] * world
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
