"""Bad input: one sentence before any long work, and earlier results untouched."""

import shutil

import pytest
import small

from cubslib import CubsError

begin, data_root, short = small.begin, small.data_root, small.short


@pytest.mark.parametrize(
    ("task", "asked", "sentence"),
    [
        ("T4", {"In": ["# Parameters\nmargn = 1"], "margn": 1}, "no parameter margn: did you mean"),
        ("T1", {"In": ["# Parameters\nmargin = 1"], "margin": 1}, "T1 has no parameter margin"),
        ("T1", {"restart": "false"}, "restart is 'false'; it must be True or False"),
        ("T1", {"epochs": 1000.0}, "epochs is 1000.0; it must be a whole number"),
        ("T1", {"epochs": True}, "epochs is True"),
        ("T4", {"margin": False}, "margin is False; it must be a number"),
        ("T4", {"margin": -1}, "margin is -1; it must be 0 or more"),
        ("T1", {"epochs": -3}, "epochs is -3; it must be 0 or more"),
        ("T1", {"batch_size": 1}, "batch_size is 1; it must be 0 or at least 2"),
        ("T4", {"batch_size": 10}, "batch_size is 10; it must be .* multiple of 4 from 8"),
        ("T4", {"batch_size": 4}, "batch_size is 4"),
        ("T1", {"lr": float("inf")}, "lr is inf"),
        ("T3", {"fashion": "serial"}, "fashion is 'serial'; it must be one of best, parallel"),
        ("T1", {"dataset": "real"}, "dataset is 'real', but data_root holds no tiny-imagenet-200"),
        ("T4", {"dataset": "real"}, "get_cars196.py, or ask for dataset='sample'"),
        ("T4", {"val_classes": 3}, "val_classes is 3; it must be 0, or 2 to half"),
        ("T4", {"val_classes": 99}, "val_classes is 99"),
        ("T4", {"init_from": "nowhere.ckpt"}, "nowhere.ckpt is missing"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(task, asked, sentence, begin, tmp_path):
    for restart in (False, True):
        with pytest.raises(CubsError, match=sentence) as caught:
            begin(task, **({"restart": restart} | asked))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("settings.json"))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_is_continued_or_shown_only_with_the_settings_it_began_with(finished, begin):
    run = begin("T1", run_dir="mine")
    if finished:
        run.write("metrics.json", {"task": "T1"})
    for other, sentence in (
        ({"seed": 5}, "run_dir mine began with seed=0: ask for the same, for restart=True, or"),
        ({"lr": 1, "dataset": "sample"}, "began with dataset='auto', lr=0.0"),
    ):
        with pytest.raises(CubsError, match=sentence):
            begin("T1", run_dir="mine", **other)
    with pytest.raises(CubsError, match="mine began with T1_custom_cnn"):
        begin("T2", run_dir="mine")
    assert begin("T1", run_dir="mine").finished == finished


def test_other_data_are_refused_to_go_on_with_and_no_reason_not_to_show(begin, tiny_copy, tmp_path):
    (tmp_path / "own" / "sample").mkdir(parents=True)
    tiny_copy.rename(tmp_path / "own/sample/tiny-imagenet-200")
    run = begin("T1")
    assert begin("T1", data_root="own").folder == run.folder  # the same pixels elsewhere
    photo = next((tmp_path / "own").rglob("*_3.JPEG"))
    shutil.copyfile(photo.with_name(photo.name.replace("_3.", "_4.")), photo)
    with pytest.raises(CubsError, match="data under data_root differ from those that run_dir T1_"):
        begin("T1", data_root="own")
    run.write("metrics.json", {"task": "T1"})
    assert begin("T1", data_root="own").finished


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(restart, begin, tmp_path):
    (tmp_path / "empty").mkdir()
    assert begin("T1", run_dir="empty", restart=restart).folder == tmp_path / "empty"
    for name in ("notes.txt", "settings.json"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_text("{")
        with pytest.raises(CubsError, match="is not empty and holds no run: name a new folder"):
            begin("T1", run_dir=folder.name, restart=restart)
        assert [path.read_text() for path in folder.iterdir()] == ["{"]
