"""What a machine or a hand can do to a run: one sentence each, and nothing lost."""

import errno
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import finished_runs
import harm
import nbclient.exceptions
import papermill
import pytest
import refusals
import small
import tally
import torch
from small import files
from test_runs import finish
from torch import nn

from cubslib import __main__, disk, galleries, models, runs, scoring, state, training
from cubslib.pages import views
from cubslib.runs import parameters

MINE = {"run_dir": "runs/mine"}
FAULTS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES")


def refused(action, *says) -> str:
    """Assert as `refusals.refused`, and count it."""
    with tally.case("a fault of a file, path or number: one sentence says it"):
        return refusals.refused(action, *says)


# --- disks that refuse ---


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("task", ["T1", "T4"])
def test_a_write_that_fails_is_said_and_the_run_goes_on_from_before(
    task, fault, data_root, tmp_path, monkeypatch
):
    """Whichever write it is, the sentence names the folder and the old files stay whole."""
    begun = {"count": 0}
    fsync, number = os.fsync, getattr(errno, fault)

    def failing(at):
        def sync(file):
            begun["count"] += 1
            if begun["count"] == at:
                raise OSError(number, os.strerror(number))
            fsync(file)

        return sync

    recipes = dict(harm.small.recipes.RECIPES)
    monkeypatch.setattr(harm.small.recipes, "RECIPES", recipes)
    small.shorten()
    expected = None
    for at in [10**6, *(range(1, 40) if tally.LONG else (2 + FAULTS.index(fault), 12))]:
        project = tmp_path / str(at)
        project.mkdir()
        monkeypatch.chdir(project)
        begun["count"] = 0
        if expected is None:
            monkeypatch.setattr(os, "fsync", failing(at))
            harm.whole(task, data_root).release()
            writes, expected = begun["count"], harm.result(project)
        elif at <= writes:
            with tally.case("a write fails (full, quota, read-only, denied): said, nothing lost"):
                monkeypatch.setattr(os, "fsync", failing(at))
                cure = "make room" if fault in ("ENOSPC", "EDQUOT") else "make it writable"
                refusals.refused(lambda: harm.whole(task, data_root), "cannot be written", cure)
                assert not list(project.rglob("*.part"))
                harm.whole(task, data_root).release()
                small.assert_same(harm.result(project), expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk always full")
def test_a_disk_that_fills_at_a_checkpoint_leaves_the_old_one(begin, monkeypatch):
    """Torch says "unexpected pos 576 vs 534" of it."""
    run = begin("T1")
    with monkeypatch.context() as patch:
        patch.setattr(training, "over", lambda history, _: len(history) == 1)
        small.fit(run)
    last = run.checkpoint("classification", "last")
    before = last.read_bytes()
    with monkeypatch.context() as patch:
        full = partial(open, "/dev/full")
        patch.setattr(state, "open", lambda _, mode: full(mode), raising=False)
        refused(lambda: small.fit(run), "classification cannot be written (No space left", "room")
    assert last.read_bytes() == before
    assert files(last.parent) == ["best.ckpt", "last.ckpt"]
    small.fit(run)
    assert len(run.history()) == 3


# --- folders and names ---


@pytest.mark.parametrize("linked", ["runs/link", "link/mine"])
def test_a_symlink_to_a_run_is_the_same_run(linked, begin, tmp_path):
    run = begin("T1", **MINE)
    target = run.folder if linked == "runs/link" else run.folder.parent
    (tmp_path / linked.removesuffix("/mine")).symlink_to(target)
    assert begin("T1", run_dir=linked).folder == run.folder


def test_what_a_dead_process_left_is_cleared_and_a_living_one_s_is_not(begin, tmp_path):
    run = begin("T1", **MINE)
    run.release()
    died = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    folder = run.checkpoint("classification").parent
    folder.mkdir(parents=True)
    dead = [place / f".x.{disk.HOST}-{died}.part" for place in (run.folder, folder, tmp_path)]
    others = [folder / f".x.{disk.HOST}-{os.getppid()}.part", folder / f".x.0a1b2c-{died}.part"]
    for path in [*dead, *others, tmp_path / "runs/.gone.lock", tmp_path / ".not_ours.lock"]:
        path.write_text("left")
    run = begin("T1", **MINE)
    assert [path.exists() for path in dead] == [False, False, True]  # beside runs/: not looked at
    assert all(path.exists() for path in others)
    assert not (tmp_path / "runs/.gone.lock").exists()
    assert (tmp_path / ".not_ours.lock").exists()
    run.release()
    assert not (tmp_path / "runs/.mine.lock").exists()


@pytest.mark.parametrize("run_dir", ["runs/mine", "new/deep/mine", ""])
def test_a_refused_run_leaves_nothing(run_dir, begin, tmp_path):
    refused(lambda: begin("T4", run_dir=run_dir, val_classes=4), "val_classes is 4")
    assert files(tmp_path) == []
    (tmp_path / "runs").mkdir()
    refused(lambda: begin("T4", run_dir=run_dir, init_from="nowhere"), "nowhere is missing")
    assert files(tmp_path) == ["runs"]  # it was there


@pytest.mark.parametrize("run_dir", ["/", ".", "..", "runs", "runs/..", "a/../runs/"])
def test_a_folder_of_more_than_a_run_is_none(run_dir, begin, tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    for restart in (False, True):
        refused(lambda r=restart: begin("T1", run_dir=run_dir, restart=r),
                f"run_dir is '{run_dir}'", "such as runs/mine")  # fmt: skip
    assert files(tmp_path) == ["settings.json"]


@pytest.mark.parametrize("name", ["run_dir", "data_root", "init_from"])
@pytest.mark.parametrize("path", ["a\0b", "a\nb", "\ud800", "x" * 201, "é" * 101, "x/" * 600])
def test_a_path_that_no_file_system_takes_is_refused(name, path, begin, tmp_path):
    refused(lambda: begin("T4", **{name: path}), f"{name} is ", "a path without control characters")
    assert files(tmp_path) == []


def test_a_name_past_200_characters_is_shortened_by_a_fingerprint(begin):
    asked = {"init_from": "a/" * 90 + "x.ckpt", "margin": 0.25}
    name = parameters.run_name("T4", parameters.check("T4", asked))
    assert len(name) == 200
    assert name.startswith("T4_retrieval,margin=0.25,init_from=a_a_a_")
    other = parameters.check("T4", asked | {"init_from": "a/" * 90 + "y.ckpt"})
    assert parameters.run_name("T4", other) != name
    asked = parameters.check("T4", {"init_from": "x" * (200 - len("T4_retrieval,init_from="))})
    assert parameters.run_name("T4", asked) == f"T4_retrieval,init_from={asked['init_from']}"
    assert begin("T1", run_dir="runs/" + "x" * 200, restart=True).folder.is_dir()


@pytest.mark.parametrize("call", ["is_dir", "exists"])
def test_what_may_not_be_read_is_named(call, begin, tmp_path, monkeypatch):
    usual = getattr(Path, call)

    def closed(path, **options):
        if path.name == {"is_dir": "tiny-imagenet-200", "exists": "runs"}[call]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path, **options)

    monkeypatch.setattr(Path, call, closed)
    said = refused(lambda: begin("T1"), "is closed to you: make it readable, or name another data")
    assert ("runs " if call == "exists" else "tiny-imagenet-200 ") in said
    monkeypatch.undo()
    assert files(tmp_path) == []


@pytest.mark.parametrize(("name", "value", "says"), [
    ("seed", 2**64, "0 to 9,223,372,036,854,775,807"), ("classify_epochs", 10**30, "100,000"),
    ("embedding_dim", 10**7, "2 to 65,536"), ("lr", 1e308, "0 to 1,000"),
    ("lr", 10**400, "0 to 1,000"), ("beta", float("inf"), "0.001 to 10,000"),
    ("margin", 10**400, "0 to 100"), ("lam", float("nan"), "0 to 1"),
    ("batch_size", 4 * 10**18, "8 to 1,000,000"), ("limit_classes", 10**12, "1,000,000"),
    ("image_size", 10**6, "32 to 4,096"),
])  # fmt: skip
def test_nonsense_past_all_bounds_is_refused(name, value, says, begin):
    refused(lambda: begin("T4", **{name: value}), f"{name} is ", says)


# --- files that are gone or damaged ---


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"\x93NUMPY", "cut", "lacks", (3, 5)])
def test_a_damaged_gallery_is_said(damage, t4, tmp_path):
    folder = shutil.copytree(t4.folder, tmp_path / "T4")
    path, photo = folder / "arrays.npz", t4.test.root / t4.test.names[0]
    assert len(galleries.search(folder, photo, 2)) == 2
    harm.spoil(path, damage, "embeddings_embedding")
    refused(lambda: galleries.search(folder, photo, 2), "arrays.npz", "restore it")
    if damage != (3, 5):
        run = runs.Run("T4", folder, {}, {}, None, None, None)
        refused(lambda: scoring.gallery(run, "embedding", None), "arrays.npz", "restore it")


@pytest.mark.parametrize("text", ["fit,epoch\na,1\rb", f"fit,epoch\na,{'1' * 200_000}", "\ud800"])
def test_a_history_that_csv_cannot_parse_is_said(text, begin):
    run = begin("T1")
    (run.folder / "history.csv").write_bytes(text.encode(errors="surrogatepass"))
    refused(run.history, "history.csv cannot be read: restore it")


@pytest.mark.parametrize("spoil", ["gone", "older", "cut"])
def test_a_best_checkpoint_that_is_gone_is_said_before_hours_are_spent(spoil, begin, monkeypatch):
    run = begin("T1")
    scores = iter((0.9, 0.1, 0.2))
    with monkeypatch.context() as patch:
        patch.setattr(training, "over", lambda history, _: len(history) == 2)
        small.fit(run, lambda *_: {"top1": next(scores)})
    path = run.checkpoint("classification")
    if spoil == "gone":
        path.unlink()
    elif spoil == "older":
        torch.save(torch.load(path) | {"epoch": 7}, path)
    else:
        path.write_bytes(path.read_bytes()[:99])
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained"))
    refused(lambda: small.fit(run), "best.ckpt is n")


@pytest.mark.parametrize("saved", [
    [1], {}, {"history": []}, {"history": "abc"}, {"history": [{"loss": 1.0}]},
    {"history": [{"epoch": 1}]}, {"history": [{"epoch": 1}], "model": 3, "optimizer": 3,
                                  "schedule": 3, "scale": 3},
])  # fmt: skip
def test_a_foreign_last_checkpoint_is_said(saved, begin):
    run = begin("T1")
    path = run.checkpoint("classification", "last")
    path.parent.mkdir(parents=True)
    torch.save(saved, path)
    refused(lambda: small.fit(run), "last.ckpt")


def test_t3_s_weights_that_are_gone_are_said_before_t4_begins(begin):
    run = begin("T3", fashion="parallel", **MINE, epochs=1)
    scores = {"top1": 0.5, "top5": 1.0}
    finish(run, "parallel", val=scores, test=scores)
    finished_runs.checkpoint(run.checkpoint(), fashion="parallel")
    finished_runs.change(run.folder, {"epochs": 1000})
    assert begin("T4")["init_from"] == "mine"
    run.checkpoint().unlink()
    refused(lambda: begin("T4", seed=1), "mine/checkpoints/best.ckpt is missing")
    assert begin("T4", seed=1, init_from="random")["init_from"] == "random"


def test_t1_shows_a_test_split_of_under_16_images(t1):
    assert len(t1.test) < 16
    model = models.CustomCNN(len(t1.train.classes))
    for view in (views.splits, views.images, views.classes, views.mistakes, views.curves):
        view(t1)
    views.before_training(t1, model)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cells": 3}', "\0",
                                  '{"nbformat": 4, "nbformat_minor": 5, "cells": [{"a": 1}]}',
                                  '{"nbformat": 99, "cells": [], "metadata": {}}'])  # fmt: skip
def test_a_malformed_notebook_is_no_traceback(text, tmp_path, capsys):
    path = tmp_path / "mine.ipynb"
    path.write_text(text)
    assert __main__.main(["report", str(path)]) == 1
    said = capsys.readouterr().err
    assert "mine.ipynb" in said
    assert said.count("\n") == 1


# --- training ---


@pytest.mark.parametrize("stage", ["classification", "embedding"])
def test_t4_s_loss_that_is_not_finite_keeps_the_last_good_epoch(stage, begin):
    """With the rate that a user gave, which the sentence lowers tenfold."""
    run, criterion, calls = begin("T4", lr=1000), nn.CrossEntropyLoss(), []

    def wild(outputs, targets):
        calls.append(1)
        return criterion(outputs, targets) * (torch.nan if len(calls) > 1 else 1e-9)

    model = small.small(run)
    if stage == "embedding":
        tame = lambda *pair: criterion(*pair) * 1e-9  # noqa: E731
        training.fit(run, "classification", model, tame, scoring.recall)
        model = models.embed(model, 8)
    said = refused(lambda: training.fit(run, stage, model, wild, scoring.recall),
                   f"the loss of {stage} is not finite at step 1 of epoch 2; epochs up to 1",
                   "`python -m cubslib run T4 -p data_root", "-p lr 100`")  # fmt: skip
    assert len([row for row in run.history() if row["fit"] == stage]) == 1, said
    for values in small.leaves(small.checkpoints(run.folder)).values():
        assert not torch.is_tensor(values) or values.isfinite().all()


def test_statistics_that_are_not_finite_are_not_kept(begin, monkeypatch):
    """Activations past float32's square root: loss and weights stay finite, val's outputs not."""
    run, augment = begin("T1"), training.augment
    monkeypatch.setattr(training, "augment", lambda *arguments: augment(*arguments) * 1e22)
    refused(lambda: small.fit(run), "the loss of classification is not finite at step 3 of epoch 1")
    assert not run.checkpoint("classification", "last").exists()


# --- kernels ---


def test_a_killed_kernel_is_said_to_have_wanted_memory(begin, data_root, monkeypatch, capsys):
    def killed(*_, **__):
        raise nbclient.exceptions.DeadKernelError("Kernel died")

    Path("notebooks").mkdir()
    Path("notebooks/T1_custom_cnn.ipynb").touch()
    monkeypatch.setattr(papermill, "execute_notebook", killed)
    assert __main__.main(["run", "T1", "-p", "data_root", str(data_root)]) == 1
    said = capsys.readouterr().err
    assert "kernel was killed, most likely for want of memory: ask for a smaller batch_size" in said
    assert said.count("\n") == 1
