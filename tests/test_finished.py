"""Finished runs, read back: records, checkpoints, and which is the earlier notebook's."""

import dataclasses
import json
import os
import pickle
import re

import pytest
import torch
from finished_runs import checkpoint

from cubslib import CubsError, recipes
from cubslib.pages import site
from cubslib.runs import finished, settle

EPOCHS = recipes.recipe("recognition", "sample").epochs
OWN = {
    "dataset": "sample", "preset": "sample", "stem": "7x7", "limit_classes": 0, "seed": 0,
    "data_fingerprint": "f", "epochs": EPOCHS, "lr": 0.1, "batch_size": 32,
    "sources": {"losses": "a"},
}  # fmt: skip


def write(folder, task="T1", minute=0, **settled):
    """Write a finished run as of some minute, with its reported weights."""
    settled = OWN | {"task": task} | settled
    record = {
        "schema": 2, "task": task, "dataset": settled["dataset"], "protocol": "drawn sample",
        "seed": settled["seed"], "settings": settled,
        "finished": f"2026-01-01T00:{minute:02}:00+00:00", "hardware": "a CPU",
        "num_parameters": 10, "seconds": 1.0, "val": {"top1": 0.5, "top5": 1.0},
        "versions": {"torch": "2.10"}, "data_fingerprint": settled["data_fingerprint"],
        "test": {"top1": 0.5, "top5": 1.0},
    }  # fmt: skip
    fit = settled.get("fashion", "classification")
    config = {"network": "resnet18"} if task == "T2" else {"fashion": fit}
    state = {"minute": torch.tensor(minute)}
    checkpoint(folder / "checkpoints/best.ckpt", state, stem=settled["stem"], **config)
    (folder / "metrics.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text(f"fit,epoch\n{fit},1\n")
    return record


def earlier(root, asking="T2", sought="T1", fashion="best", **settled):
    own = OWN | {"task": asking} | settled
    return finished.earlier(root / "asking", own, sought, fashion)


# --- records ---


def test_find_lists_finished_runs_newest_first_by_their_records(tmp_path):
    for minute, name in enumerate(("old", "new", "new~1", "~", "a~b")):
        write(tmp_path / name, minute=minute)
        os.utime(tmp_path / name / "metrics.json", (1e9 - minute,) * 2)  # copied since
    (tmp_path / "unfinished").mkdir()
    names = [folder.name for folder, _ in finished.find(tmp_path)]
    assert names == ["a~b", "~", "new", "old"]  # not what was set aside
    assert finished.find(tmp_path / "nowhere") == []


def changed(**changes):
    return lambda record: json.dumps(record | changes)


def without(name):
    return lambda record: json.dumps({key: x for key, x in record.items() if key != name})


NONE = "is no record of a finished run"
BAD = {
    "garbage": (lambda record: "{", NONE),
    "a list": (lambda record: "[1]", NONE),
    "foreign": (lambda record: '{"accuracy": 0.9}', NONE),
    "deep": (lambda record: "[" * 100_000, NONE),
    "not UTF-8": (lambda record: b"\xff\xfe{", NONE),
    "of no task": (changed(task=["T1"]), NONE),
    "without a seed": (without("seed"), NONE),
    "without scores": (without("val"), NONE),
    "with text for epochs": (changed(settings=OWN | {"task": "T1", "epochs": "6"}), NONE),
    "past what a float holds": (changed(num_parameters=10**309), NONE),
    "of an older schema": (changed(schema=1), "has schema 1, this version of cubslib reads 2"),
    "of a newer schema": (changed(schema=3), "has schema 3, this version of cubslib reads 2"),
    "newer and different": (lambda r: '{"schema": 3, "runs": []}', "has schema 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_is_named_and_skipped_and_the_rest_goes_on(what, tmp_path, capsys):
    write(tmp_path / "good")
    spoil, sentence = BAD[what]
    text = spoil(write(tmp_path / "bad", minute=9))
    (tmp_path / "bad/metrics.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    found, _ = earlier(tmp_path)
    assert found.folder.name == "good"
    assert "good" in site.site(tmp_path).read_text()
    assert f"Skipped: bad/metrics.json {sentence}" in capsys.readouterr().err
    with pytest.raises(CubsError, match=sentence):
        finished.read(tmp_path / "bad")


def test_a_run_whose_history_is_gone_stops_no_table(tmp_path):
    write(tmp_path / "good")
    write(tmp_path / "bad")
    (tmp_path / "bad/history.csv").unlink()
    assert "good" in site.site(tmp_path).read_text()


# --- the earlier notebook's run, rule by rule ---


@pytest.mark.parametrize(("theirs", "says"), [
    ({"dataset": "real"}, "dataset='real'"),
    ({"preset": "cpu"}, "preset='cpu'"),
    ({"stem": "3x3"}, "stem='3x3'"),
    ({"limit_classes": 2}, "limit_classes=2"),
    ({"data_fingerprint": "g"}, "data_fingerprint='g'"),
    ({"epochs": 1, "limit_classes": 2}, "limit_classes=2, epochs=1"),
])  # fmt: skip
def test_a_run_that_does_not_fit_is_not_the_earlier_one_however_new(theirs, says, tmp_path):
    write(tmp_path / "trial", minute=9, **theirs)
    found, why = earlier(tmp_path)
    assert found is None
    assert why == f"No finished T1 fits; the nearest, trial, has {says}."
    write(tmp_path / "whole", minute=1)
    assert earlier(tmp_path)[0].folder.name == "whole"


@pytest.mark.parametrize(
    ("asking", "own", "theirs", "fits"),
    [("T2", 0, 0, True), ("T2", 0, -1, False), ("T2", -4, -4, True), ("T2", -4, -5, False),
     ("T2", 9, 0, True), ("T2", 9, -1, False), ("T4", 9, 0, True), ("T4", -4, -1, False)],
)  # fmt: skip
def test_it_has_the_recipe_s_epochs_or_the_asker_s(asking, own, theirs, fits, tmp_path):
    """The numbers are epochs more than the recipe's."""
    own, theirs = own + EPOCHS, theirs + EPOCHS
    write(tmp_path / "run", epochs=theirs)
    assert (earlier(tmp_path, asking, epochs=own)[0] is not None) == fits


def test_t1_needs_the_epochs_of_t1_s_own_recipe(tmp_path, monkeypatch):
    own = dataclasses.replace(recipes.recipe("custom_cnn", "sample"), epochs=EPOCHS - 2)
    monkeypatch.setitem(recipes.RECIPES, ("custom_cnn", "sample"), own)
    write(tmp_path / "run", epochs=EPOCHS - 2)
    assert earlier(tmp_path)[0] is not None
    write(tmp_path / "other/run", "T2", epochs=EPOCHS - 2)
    assert earlier(tmp_path / "other", "T3", "T2")[0] is None


def test_for_t4_it_has_all_classes_and_may_have_other_images(tmp_path):
    write(tmp_path / "part", "T3", limit_classes=4)
    assert earlier(tmp_path, "T4", "T3", limit_classes=4)[0] is None
    write(tmp_path / "all", "T3")
    own = {"limit_classes": 4, "data_fingerprint": "cars"}
    assert earlier(tmp_path, "T4", "T3", **own)[0].folder.name == "all"


def test_the_same_seed_goes_before_the_newest_and_what_differs_is_remarked(tmp_path):
    write(tmp_path / "newest", minute=9, seed=5, lr=0.2, batch_size=8, sources={})
    found, _ = earlier(tmp_path)
    assert found.folder.name == "newest"
    assert found.remarks == ("seed=5", "lr=0.2", "batch_size=8", "other source")
    write(tmp_path / "old", minute=1)
    write(tmp_path / "older", minute=0)
    os.utime(tmp_path / "older/metrics.json")
    found, why = earlier(tmp_path)
    assert (found.folder.name, found.remarks, why) == ("old", (), "")


def test_the_run_itself_and_what_was_set_aside_are_left_out(tmp_path):
    for minute, name in enumerate(("asking", "kept", "kept~1")):
        write(tmp_path / name, minute=minute)
    assert earlier(tmp_path)[0].folder.name == "kept"
    assert earlier(tmp_path, sought="T3") == (
        None, "There is no finished run of T3 beside this one.")  # fmt: skip


@pytest.mark.parametrize(("asked", "chosen", "name"), [
    ({}, "parallel", "newest"),
    ({"fashion": "serial_21"}, "serial_21", "serial"),
    ({"fashion": "serial_12"}, "serial_12", None),
    ({"init_from": "random"}, "parallel", None),
    ({"init_from": "runs/serial"}, "serial_21", "serial"),
    ({"init_from": "plain/random"}, "parallel", "random"),  # a folder, of a ResNet-18
])  # fmt: skip
def test_t4_begins_from_t3_s_weights_of_its_fashion(asked, chosen, name, begin, tmp_path):
    for minute, (run, settled) in enumerate([
        ("oldest", {}), ("serial", {"fashion": "serial_21"}), ("newest", {}),
        ("stem", {"stem": "3x3"}), ("trial", {"epochs": 1}), ("real", {"dataset": "real"}),
    ]):  # fmt: skip
        write(tmp_path / "runs" / run, "T3", minute, **({"fashion": "parallel"} | settled))
    write(tmp_path / "plain/random", "T2")
    run = begin("T4", **asked)
    assert (run["fashion"], run["init_from"]) == (chosen, name or "random")
    begun_with = settle.first_weights(run.folder, run.asked, run.resolved)
    assert (begun_with and begun_with.parents[1].name) == name
    earlier, _ = run.earlier("T3")
    assert (earlier and earlier.folder.name) == (
        "serial" if chosen == "serial_21" and "init_from" not in asked
        else None if chosen == "serial_12" else "newest"
    )  # fmt: skip


# --- checkpoints ---


@pytest.mark.parametrize(("content", "sentence"), [
    (None, "is missing: name a finished run or its checkpoint"),
    (b"no checkpoint", "is no checkpoint that can be read: give a best.ckpt"),
    (pickle.dumps(print), "is no checkpoint that can be read"),
    ({"state_dict": re.compile("a"), "config": {}}, "is no checkpoint that can be read"),
    ({"model": {}}, "is no checkpoint of this library: give a best.ckpt"),
    ([1, 2], "is no checkpoint of this library"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_refused(content, sentence, tmp_path):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CubsError, match=rf"x\.ckpt {sentence}"):
        finished.checkpoint(path)
    torch.save({"state_dict": {}, "config": {"network": "x"}}, path)
    assert finished.checkpoint(path)["config"] == {"network": "x"}


def test_a_run_s_weights_are_its_reported_ones_or_those_published(tmp_path):
    (tmp_path / "run").mkdir()
    assert finished.weights(tmp_path / "run") == tmp_path / "run/checkpoints/best.ckpt"
    assert finished.weights(tmp_path / "other.ckpt") == tmp_path / "other.ckpt"
    (tmp_path / "run/best.ckpt").touch()
    assert finished.weights(tmp_path / "run") == tmp_path / "run/best.ckpt"
