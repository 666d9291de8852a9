"""From what is asked to an open run: settled once, refused in one sentence, written whole."""

import copy
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from finished_runs import checkpoint
from small import content

from cubslib import CubsError, machine, recipes, runs
from cubslib.blocks import FASHIONS
from cubslib.disk import fingerprint
from cubslib.pages import prose
from cubslib.runs import history, parameters, settle

# What 0, "auto", "best" and "" may still be: the value itself.
VALUES = {"seed", "limit_classes", "val_classes", "margin", "lam", "crop", "dirty"}
MINE = {"run_dir": "mine"}


def finish(run, fit="classification", **more):
    """Finish a run that trained nothing."""
    for name in run["recipes"]:
        run.write_history(name, [{"epoch": 1, "val_top1": 0.5, "seconds": 1.25}])
        run.checkpoint(name).parent.mkdir(parents=True, exist_ok=True)
        run.checkpoint(name).write_text(name)
    return run.finish(fit, {"logits": np.eye(3)}, 77, **more)


# --- what is settled ---


@pytest.mark.parametrize("task", parameters.TASKS)
def test_every_parameter_is_settled_to_its_final_meaning(task, begin):
    run = begin(task)
    saved = json.loads((run.folder / "settings.json").read_text())
    assert saved["asked"] == parameters.compared(parameters.defaults(task))
    found = saved["resolved"]
    assert found == run.resolved
    assert found.keys() >= saved["asked"].keys() | {
        "task", "device", "precision", "threads", "recipes", "sources", "protocol",
        "data_fingerprint", "image_size", "stem",
    }  # fmt: skip
    open_ends = {n for n, x in found.items() if x in (0, "auto", "best", "") and n not in VALUES}
    assert open_ends == ({"fashion"} if task == "T3" else set())  # T3 does train them all
    assert (found["dataset"], found["protocol"], found["preset"]) == (
        "sample", "drawn sample", "sample")  # fmt: skip
    assert found["threads"] == torch.get_num_threads()
    assert found["sources"].keys() == set(machine.USED)
    fits = [fit for fit, *_ in parameters.TASKS[task].fits]
    assert list(found["recipes"]) == fits
    for fit, _, epochs in parameters.TASKS[task].fits:
        assert found[epochs] == found["recipes"][fit]["epochs"] == 3
    if task == "T4":
        assert found["lr"] == {fit: found["recipes"][fit]["lr"] for fit in fits}
        assert (found["fashion"], found["init_from"]) == ("serial_12", "random")
        assert run.earlier("T3") == (None, "There is no finished run of T3 beside this one.")
    assert ("gate_bias" in found) == (task in ("T3", "T4"))


def test_settings_keep_their_meaning_when_the_recipe_changes(begin, monkeypatch):
    run = begin("T3", seed=3)
    small.shorten(epochs=77)
    monkeypatch.setattr(machine, "precision", lambda device: "64-true")
    again = begin("T3", seed=3)
    assert again.resolved == run.resolved
    assert again.recipe("parallel").epochs == 3
    assert begin("T3", seed=4).recipe("parallel").epochs == 77


def test_a_finished_run_is_shown_whose_recipe_has_a_switch_that_is_gone(begin):
    run = begin("T1")
    finish(run)
    path = run.folder / "settings.json"
    saved = json.loads(path.read_text())
    saved["resolved"]["recipes"]["classification"]["head_rate"] = 1.0
    del saved["fingerprint"]  # older runs have none
    path.write_text(json.dumps(saved))
    again = begin("T1")
    assert again.finished
    assert again.recipe("classification") == run.recipe("classification")


@pytest.mark.parametrize(
    ("kind", "device", "preset"),
    [("sample", "cuda", "sample"), ("real", "cuda", "gpu"), ("real", "cpu", "cpu")],
)
def test_auto_picks_the_preset_by_data_and_device(kind, device, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: device)
    monkeypatch.setattr(machine, "precision", lambda device: "32-true")
    found = settle.settle("T3", parameters.check("T3", {}), kind, tmp_path)
    assert (found["preset"], found["device"], found["dataset"]) == (preset, device, kind)
    assert list(found["recipes"]) == list(FASHIONS)


def test_a_tour_trains_one_fashion_and_says_so_and_t4_begins_from_it(begin):
    for asked, fits in (({}, ["serial_12"]), ({"fashion": "parallel"}, ["parallel"])):
        run = begin("T3", preset="tour", **asked)
        assert list(run["recipes"]) == fits
        assert (run["preset"], run["fashion"]) == ("tour", fits[0])
    t3 = begin("T3", preset="tour")
    scores = {"top1": 0.5, "top5": 1.0}
    finish(t3, "serial_12", val=scores, test=scores, fashions={"serial_12": scores})
    said = prose.fashions(t3).data
    assert "With the preset tour `best` trains serial_12 alone" in said
    checkpoint(t3.checkpoint(), fashion="serial_12")
    t4 = begin("T4", preset="tour")
    assert (t4["fashion"], t4["init_from"]) == ("serial_12", t3.folder.name)
    assert begin("T4")["init_from"] == "random"  # a tour's weights are for a tour


def test_the_pace_is_measured_once_where_real_data_were_trained_on_on_a_cpu(
    begin, tiny_root, tmp_path, monkeypatch
):
    measured = iter([238.0])
    monkeypatch.setattr(machine, "pace", lambda: next(measured))
    monkeypatch.setattr(machine, "device", lambda: "cpu")
    drawn = begin("T1")
    assert "pace" not in drawn.resolved
    assert "pace" not in finish(drawn)
    (tmp_path / "real").mkdir()
    (tmp_path / "real/tiny-imagenet-200").symlink_to(tiny_root)
    real = {"data_root": "real", "run_dir": "mine"}
    begin("T1", **real).release()
    run = begin("T1", **real)  # goes on
    assert "pace" not in str(prose.in_force(run))  # pages say minutes
    assert finish(run)["pace"] == 238


def test_what_is_not_0_replaces_the_recipe_s(begin):
    run = begin("T4", classify_epochs=7, lr=0.5, batch_size=12, image_size=96)
    usual = recipes.RECIPES["embedding", "sample"]
    fits = [run.recipe(fit) for fit in ("classification", "embedding")]
    assert [fit.epochs for fit in fits] == [7, usual.epochs]
    assert (run["lr"], run["batch_size"], run["image_size"]) == (0.5, 12, 96)
    for fit in fits:
        assert (fit.lr, fit.batch_size, fit.test_size) == (0.5, 12, 96)
        assert fit.sizes == [[0, 48], [0.6, 72]]  # the same shares of 96 as of 64
    assert dataclasses.replace(begin("T4").recipe("embedding"), sizes=usual.sizes) == usual


def test_data_are_found_and_a_missing_sample_is_drawn(data_root, tmp_path, monkeypatch):
    sample = data_root / "sample/cars196"
    assert settle.find_data("T4", data_root, "auto") == ("sample", sample)
    (tmp_path / "cars196").mkdir()
    assert settle.find_data("T4", tmp_path, "auto") == ("real", tmp_path / "cars196")
    drawn = []
    cars = (settle.DATA["cars196"][0], drawn.append, settle.DATA["cars196"][2])
    monkeypatch.setitem(settle.DATA, "cars196", cars)
    found = settle.find_data("T4", tmp_path, "sample")
    assert found == ("sample", tmp_path / "sample/cars196")
    assert drawn == [tmp_path / "sample/cars196"]


def test_the_protocol_says_what_was_left_out(begin):
    run = begin("T4", limit_classes=4, val_classes=2)
    assert run["protocol"] == "drawn sample, first 4 classes"
    assert [len(part.classes) for part in (run.train, run.val, run.test)] == [2, 2, 4]
    assert begin("T4").val is None


def test_queries_whose_class_has_no_other_image_are_said(begin):
    run = begin("T4")
    said = settle.describe(run.train, run.test, "sample", 0)["protocol"]
    assert said == "drawn sample"
    alone, first = copy.copy(run.test), run.test.targets == 0
    first |= (run.test.targets == 1).cumsum(0).eq(1) & (run.test.targets == 1)  # 4 and 1 of a class
    alone.rows, alone.targets = alone.rows[first.numpy()], alone.targets[first]
    said = settle.describe(run.train, alone, "sample", 0)["protocol"]
    assert said == "drawn sample, 1 of 5 queries the only image of their class: misses"


def test_a_class_without_a_val_or_test_image_is_named(begin, tiny_copy, tmp_path):
    (tmp_path / "own/sample").mkdir(parents=True)
    root = tiny_copy.rename(tmp_path / "own/sample/tiny-imagenet-200")
    wnid = sorted(path.name for path in (root / "train").iterdir())[1]
    images = sorted((root / "train" / wnid / "images").iterdir())
    for image in images[1:]:
        image.unlink()
    with pytest.raises(CubsError, match=r"tiny-imagenet-200: \w+ has no image in val; every tenth "
                       "training image of a class is val: give it ten"):  # fmt: skip
        begin("T1", data_root="own")
    for number in range(1, 10):
        shutil.copyfile(images[0], images[number])
    rows = (root / "val/val_annotations.txt").read_text().splitlines(keepends=True)
    for row in rows:
        if wnid in row:
            (root / "val/images" / row.split("\t")[0]).unlink()
    (root / "val/val_annotations.txt").write_text("".join(r for r in rows if wnid not in r))
    with pytest.raises(CubsError, match=r"\w+ has no image in test; unpack all of it"):
        begin("T1", data_root="own")


def test_weights_named_by_path_are_settled_with_their_fingerprint(begin, tmp_path):
    for named, path in (("t3", "t3/checkpoints/best.ckpt"), ("bare.ckpt", "bare.ckpt")):
        checkpoint(tmp_path / path, fashion="serial_21")
        run = begin("T4", init_from=named)
        assert (run["fashion"], run["init_from"]) == ("serial_21", named)
        assert run["init_fingerprint"] == settle.fingerprint((tmp_path / path).read_bytes())
        assert settle.first_weights(run.folder, run.asked, run.resolved) == tmp_path / path
    for fashion in FASHIONS:
        run = begin("T4", init_from="random", fashion=fashion)
        assert (run["fashion"], run["init_from"]) == (fashion, "random")
        assert settle.first_weights(run.folder, run.asked, run.resolved) is None


# --- what is refused ---


@pytest.mark.parametrize(("task", "asked", "sentence"), [
    ("T4", {"In": ["# Parameters\nmargn = 1"], "margn": 1}, "no parameter margn: did you mean"),
    ("T1", {"epochs": -3}, "epochs is -3; it must be 0 to"),
    ("T1", {"dataset": "real"}, "dataset is 'real', but data_root holds no tiny-imagenet-200"),
    ("T4", {"dataset": "real"}, "get_cars196.py, or ask for dataset='sample'"),
    ("T4", {"val_classes": 3}, "val_classes is 3; it must be 0, or 2 to half"),
    ("T4", {"init_from": "nowhere.ckpt"}, "nowhere.ckpt is missing"),
    ("T4", {"init_from": "custom_cnn"}, "init_from is a custom_cnn with stem None; it must be"),
    ("T4", {"init_from": "3x3"}, "init_from is a resnet18 with stem 3x3; .* stem 7x7"),
    ("T4", {"init_from": "parallel", "fashion": "serial_12"},
     "fashion is 'serial_12', but init_from .* 'parallel'"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_in_a_sentence(task, asked, sentence, begin, tmp_path):
    checkpoint(tmp_path / "custom_cnn", network="custom_cnn", stem=None)
    checkpoint(tmp_path / "3x3", network="resnet18", stem="3x3")
    checkpoint(tmp_path / "parallel", fashion="parallel")
    for restart in (False, True):
        with pytest.raises(CubsError, match=sentence) as caught:
            begin(task, **({"restart": restart} | asked))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("settings.json"))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_goes_on_or_is_shown_only_with_the_settings_it_began_with(finished, begin):
    run = begin("T1", **MINE)
    if finished:
        finish(run)
    before = content(run.folder)
    for other, sentence in (
        ({"seed": 5}, "run_dir mine began with seed=0: ask for the same, for restart=True, or"),
        ({"lr": 1, "dataset": "sample"}, "began with dataset='auto', lr=0.0"),
    ):
        with pytest.raises(CubsError, match=sentence):
            begin("T1", **MINE, **other)
    with pytest.raises(CubsError, match="mine began with T1_custom_cnn"):
        begin("T2", **MINE)
    assert begin("T1", **MINE).finished == finished
    assert content(run.folder) == before


@pytest.mark.parametrize("finished", [False, True])
def test_another_data_set_inherits_no_result(finished, begin, tiny_copy, tmp_path):
    (tmp_path / "own" / "sample").mkdir(parents=True)
    tiny_copy.rename(tmp_path / "own/sample/tiny-imagenet-200")
    run = begin("T1")
    if finished:
        finish(run)
    assert begin("T1", data_root="own").folder == run.folder  # the same pixels elsewhere
    photo = next((tmp_path / "own").rglob("*_3.JPEG"))
    shutil.copyfile(photo.with_name(photo.name.replace("_3.", "_4.")), photo)
    before = content(run.folder)
    with pytest.raises(CubsError, match="data under data_root differ from those that run_dir T1_"):
        begin("T1", data_root="own")
    assert content(run.folder) == before
    assert begin("T1", data_root="own", restart=True).folder == run.folder
    assert begin("T1", data_root="own")["data_fingerprint"] != run["data_fingerprint"]


def test_a_finished_run_of_other_code_is_shown_loudly_and_an_unfinished_one_refused(
    begin, monkeypatch
):
    run = begin("T1")
    assert "cubslib/" not in prose.banner(run).data
    theirs = machine.IMPORTED | {"losses": "another", "state": "another"}
    with monkeypatch.context() as patch:  # as it will be after an edit and a new kernel
        for target in ("IMPORTED", "sources"):
            patch.setattr(machine, target, theirs if target == "IMPORTED" else lambda: theirs)
        with pytest.raises(CubsError, match=r"run_dir T1_\w+ began with another cubslib/\w+\.py"):
            begin("T1")
        assert begin("T1", restart=True).other_sources == []
    with pytest.raises(CubsError, match="began with another cubslib/"):
        begin("T1")  # and back again
    run = begin("T1", restart=True)
    finish(run)
    assert "shown from its files" in prose.banner(begin("T1")).data
    assert "cubslib/" not in prose.banner(begin("T1")).data
    monkeypatch.setattr(machine, "IMPORTED", theirs)
    monkeypatch.setattr(machine, "sources", lambda: theirs)
    text = prose.banner(begin("T1")).data
    assert "made by other code" in text
    assert "`cubslib/losses.py`, `cubslib/state.py` differ" in text


def test_settings_of_another_version_are_refused_and_a_younger_parameter_is_not(begin):
    run = begin("T1", **MINE)
    path = run.folder / "settings.json"
    saved = json.loads(path.read_text())

    def write(**changes):
        new = {key: x for key, x in (saved | changes).items() if key != "fingerprint"}
        new |= {"fingerprint": fingerprint(json.dumps(new))}
        path.write_text(json.dumps(new))
        return new

    write(asked={name: x for name, x in saved["asked"].items() if name != "limit_classes"})
    assert begin("T1", **MINE).resolved == run.resolved
    with pytest.raises(CubsError, match="began with limit_classes=0"):
        begin("T1", **MINE, limit_classes=2)
    old = {name: x for name, x in saved["resolved"].items() if name != "sources"}
    for changes in ({"asked": saved["asked"] | {"momentum": 0.8}}, {"resolved": old}):
        new = write(**changes)
        with pytest.raises(CubsError, match="mine was begun by another version of cubslib"):
            begin("T1", **MINE)
        assert json.loads(path.read_text()) == new
    path.write_text(json.dumps(saved | {"asked": saved["asked"] | {"lr": 0.5}}))
    with pytest.raises(CubsError, match=r"settings\.json of run_dir mine is not as the run wrote"):
        begin("T1", **MINE, lr=0.5)
    begin("T1", **MINE, restart=True)


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(restart, begin, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.settings.json.1.part").touch()  # a process was killed
    assert begin("T1", run_dir="empty", restart=restart).folder == tmp_path / "empty"
    for name, text in (("notes.txt", "{"), ("settings.json", "{"), ("settings.json", "[1]")):
        folder = tmp_path / f"{name} {text}"
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(CubsError, match="is not empty and holds no run: name a new folder"):
            begin("T1", run_dir=folder.name, restart=restart)
        assert [path.read_text() for path in folder.iterdir()] == [text]


def test_restart_sets_the_old_results_aside(begin, tmp_path):
    for seed in range(3):
        run = begin("T1", **MINE, seed=seed, restart=True)
        run.write("note.txt", str(seed))
    notes = {name: (tmp_path / name / "note.txt").read_text() for name in ("mine~1", "mine~2")}
    assert notes == {"mine~1": "0", "mine~2": "1"}
    with pytest.raises(CubsError, match="seed is -1"):
        begin("T1", **MINE, seed=-1, restart=True)
    assert (run.folder / "note.txt").read_text() == "2"
    assert not (tmp_path / "mine~3").exists()


def test_a_run_goes_on_only_where_its_device_is(begin, monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: "cuda")
    monkeypatch.setattr(machine, "precision", lambda device: "32-true")
    run = begin("T1")
    monkeypatch.setattr(machine, "device", lambda: "cpu")
    with pytest.raises(CubsError, match="began on cuda: go on where there is one"):
        _ = run.fabric
    run.write("metrics.json", {})
    assert run.fabric.device.type == "cpu"


def _hold(project, data_root, ready):
    os.chdir(project)
    run = runs.start("T1", {"data_root": str(data_root)} | MINE)
    ready.set()
    signal.pause()
    run.release()


def test_one_process_owns_a_run_until_it_dies(begin, data_root, tmp_path):
    ready = small.FORKS.Event()
    other = small.FORKS.Process(target=_hold, args=(tmp_path, data_root, ready))
    other.start()
    assert ready.wait(120)
    (tmp_path / "link").symlink_to("mine")
    for restart in (False, True):
        for name in ("mine", "link"):
            with pytest.raises(CubsError, match="run_dir mine is in use by another process"):
                begin("T1", run_dir=name, restart=restart)
    other.kill()
    other.join()
    run = begin("T1", **MINE)
    assert begin("T1", **MINE).resolved == run.resolved  # the same process, as cells do


# --- what is written ---


def test_history_comes_back_as_it_was_written(begin):
    run = begin("T1")
    first = [{"epoch": 1, "lr": 1e-5, "loss": 2.5, "val_top1": 0.5, "seconds": 3.0}]
    second = [{"epoch": 1, "loss": 5.0, "seconds": 1.0}, {"epoch": 2, "loss": 4.0, "seconds": 1.0}]
    run.write_history("parallel", first)
    run.write_history("embedding", second[:1])
    run.write_history("embedding", second)
    parallel, embedding = ([{"fit": fit} | row for row in rows] for fit, rows in (
        ("parallel", first), ("embedding", second)))  # fmt: skip
    assert run.history() == parallel + embedding
    text = (run.folder / "history.csv").read_text()
    assert text.startswith("fit,epoch,lr,loss,val_top1,seconds\nparallel,1,1e-05,2.5,0.5,3.0\n")
    assert run.best("embedding") == embedding[1]  # nothing was scored: the last
    rows = [{"val_top1": x, "seconds": 1.0} for x in (0.1, 0.7, 0.7, 0.2)]
    assert history.best_row(rows) is rows[1]


@pytest.mark.parametrize("text", ["fit,epoch\na,1,2\n", "fit,epoch\na\n", "fit,epoch\na,x\n", "x"])
def test_a_damaged_history_is_refused(text, begin):
    run = begin("T1")
    (run.folder / "history.csv").write_text(text + ("\ny\n" if text == "x" else ""))
    with pytest.raises(CubsError, match=r"T1_custom_cnn/history\.csv cannot be read: restore it"):
        run.history()


def test_the_best_fit_is_the_first_of_equals(begin):
    run = begin("T3")
    for fit, score in (("parallel", 0.2), ("serial_12", 0.4), ("serial_21", 0.4)):
        run.write_history(fit, [{"epoch": 1, "val_top1": score}, {"epoch": 2, "val_top1": 0.1}])
    assert run.best_fit() == "serial_12"


def test_the_record_is_complete_and_without_paths(begin, tmp_path, data_root):
    run = begin("T3", **MINE, fashion="serial_21", seed=2)
    scores = {"val": {"top1": 0.5, "top5": 1.0}, "test": {"top1": 0.5, "top5": 1.0}}
    record = finish(run, "serial_21", **scores)
    assert json.loads(json.dumps(record)) == run.record
    assert run.finished
    assert run.checkpoint().read_text() == "serial_21"
    assert run.arrays["logits"].tolist() == np.eye(3).tolist()
    assert {
        "schema": 2, "task": "T3", "dataset": "sample", "seed": 2, "num_parameters": 77,
        "seconds": 1.2, **scores, **machine.checkout(),
        "versions": machine.versions(), "hardware": machine.hardware(run["device"]),
        "data_fingerprint": run["data_fingerprint"], "protocol": "drawn sample",
    }.items() <= record.items()  # fmt: skip
    assert record["settings"] == run.resolved
    assert not record["settings"].keys() & set(parameters.NOT_COMPARED)
    assert record["finished"].endswith("+00:00")
    for path in (tmp_path, data_root, Path.home()):
        assert f"{path}/" not in json.dumps(record)
    chosen = finish(begin("T3"), "parallel")
    assert chosen["settings"]["fashion"] == "parallel"  # in place of best
    run.folder.joinpath("arrays.npz").write_bytes(b"PK")
    with pytest.raises(CubsError, match=r"mine/arrays\.npz cannot be read: restore it"):
        _ = run.arrays
