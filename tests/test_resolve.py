import dataclasses
import json
import os

import pytest
import small
import torch

from cubslib import CubsError, records, resolve, settings

begin, data_root, short = small.begin, small.data_root, small.short


def finished(folder, task="T3", dataset="sample", age=0, config=None, **resolved):
    """Write a finished run of `task`, `age` seconds old, with its reported weights."""
    resolved = {"stem": "7x7", "fashion": "parallel"} | resolved
    (folder / "checkpoints").mkdir(parents=True)
    saved = {"state_dict": {"age": torch.tensor(age)}}
    saved["config"] = config or {"network": "cubs_resnet18"} | resolved
    torch.save(saved, folder / "checkpoints/best.ckpt")
    record = folder / "metrics.json"
    record.write_text(json.dumps({"task": task, "dataset": dataset, "settings": resolved}))
    os.utime(record, (1e9 - age, 1e9 - age))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A folder of runs, named after what T4 should take them for."""
    root = tmp_path_factory.mktemp("project") / "runs"
    finished(root / "newest~1", age=0)
    finished(root / "real", dataset="real", age=1)
    finished(root / "T2", task="T2", age=2)
    finished(root / "stem", stem="3x3", age=3)
    finished(root / "newest", age=4)
    finished(root / "serial", age=5, fashion="serial_21")
    finished(root / "oldest", age=6)
    (root / "unfinished").mkdir()
    return root


@pytest.mark.parametrize(
    ("asked", "fashion", "run"),
    [
        ({}, "parallel", "newest"),
        ({"fashion": "serial_21"}, "serial_21", "serial"),
        ({"fashion": "serial_12"}, "serial_12", None),
        ({"init_from": "random"}, "parallel", None),
        ({"init_from": "random", "fashion": "serial_12"}, "serial_12", None),
        ({"init_from": "runs/serial"}, "serial_21", "serial"),
        ({"init_from": "runs/serial/checkpoints/best.ckpt"}, "serial_21", "best.ckpt"),
        ({"init_from": "runs/oldest", "fashion": "parallel"}, "parallel", "oldest"),
    ],
)
def test_where_the_weights_of_t4_come_from(asked, fashion, run, earlier, begin, monkeypatch):
    monkeypatch.chdir(earlier.parent)
    asked = settings.check("T4", asked)
    found = resolve.origin(asked, earlier / "T4_retrieval", "sample", "7x7")
    assert found["fashion"] == fashion
    path = resolve.first_weights(earlier / "T4_retrieval", asked, found)
    assert found["origin"].split(" (")[0] == (run or "random weights")
    if run is None:
        assert path is None
        return
    assert path == earlier / ("serial" if "." in run else run) / "checkpoints/best.ckpt"
    assert records.checkpoint(path)["config"]["fashion"] == fashion
    assert resolve.fingerprint(path.read_bytes()) in found["origin"]


def test_without_t3_best_is_serial_12_and_auto_random(begin):
    run = begin("T4")
    assert (run.resolved["fashion"], run.resolved["origin"]) == ("serial_12", "random weights")
    assert run.earlier("T3") is None


@pytest.mark.parametrize(
    ("config", "asked", "sentence"),
    [
        (
            {"network": "custom_cnn"},
            {},
            "init_from is a custom_cnn with stem None; it must be a ResNet",
        ),
        (
            {"network": "resnet18", "stem": "3x3"},
            {},
            "init_from is a resnet18 with stem 3x3; .* stem 7x7",
        ),
        (None, {"fashion": "serial_12"}, "fashion is 'serial_12', but init_from .* 'parallel'"),
    ],
)
def test_weights_that_t4_cannot_begin_from_are_refused(config, asked, sentence, begin, tmp_path):
    finished(tmp_path / "other", config=config)
    with pytest.raises(CubsError, match=sentence):
        begin("T4", init_from="other", **asked)


@pytest.mark.parametrize(
    ("kind", "device", "preset"),
    [("sample", "cuda", "sample"), ("real", "cuda", "gpu"), ("real", "cpu", "cpu")],
)
def test_auto_picks_the_preset_by_data_and_device(kind, device, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "device", lambda: device)
    monkeypatch.setattr(settings, "precision", lambda device: "32-true")
    plan = resolve.plan("T3", settings.check("T3", {}), kind, tmp_path)
    assert (plan["preset"], plan["device"], plan["dataset"]) == (preset, device, kind)
    assert list(plan["recipes"]) == list(resolve.FASHIONS)


def test_what_is_not_0_replaces_the_recipe_s():
    asked = {"classify_epochs": 7, "lr": 0.5, "batch_size": 12, "image_size": 96}
    fits = resolve.recipes("T4", settings.check("T4", asked), "sample")
    usual = settings.RECIPES["embedding", "sample"]
    assert [fit.epochs for fit in fits.values()] == [7, usual.epochs]
    for fit in fits.values():
        assert (fit.lr, fit.batch_size, fit.test_size) == (0.5, 12, 96)
        assert fit.sizes == ((0, 48), (0.6, 72))  # the same shares of 96 as of 64
    same = resolve.recipes("T4", settings.check("T4", {}), "sample")["embedding"]
    assert dataclasses.astuple(same) == dataclasses.astuple(usual)


def test_data_are_found_and_a_missing_sample_is_drawn(data_root, tmp_path, monkeypatch):
    sample = data_root / "sample/cars196"
    assert resolve.find_data("T4", data_root, "auto") == ("sample", sample)
    (tmp_path / "cars196").mkdir()
    assert resolve.find_data("T4", tmp_path, "auto") == ("real", tmp_path / "cars196")
    drawn = []
    monkeypatch.setattr(resolve.layouts, "draw_cars196", drawn.append)
    found = resolve.find_data("T4", tmp_path, "sample")
    assert found == ("sample", tmp_path / "sample/cars196")
    assert drawn == [tmp_path / "sample/cars196"]


def test_the_protocol_says_what_was_left_out(begin):
    assert begin("T1").resolved["protocol"] == "drawn sample"
    run = begin("T4", limit_classes=4, val_classes=2)
    assert run.resolved["protocol"] == "drawn sample, first 4 classes"
    assert [len(part.classes) for part in (run.train, run.val, run.test)] == [2, 2, 4]
    assert begin("T4").val is None
