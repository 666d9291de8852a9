import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import small

from cubslib import CubsError, runs, settings

begin, data_root, short = small.begin, small.data_root, small.short


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "T4_retrieval"),
        ({"data_root": "else/where", "restart": True}, "T4_retrieval"),
        ({"margin": 0.1, "lr": 0}, "T4_retrieval"),
        ({"margin": 0.2, "dataset": "sample"}, "T4_retrieval,margin=0.2,dataset=sample"),
        ({"crop": True, "lr": 1e-5}, "T4_retrieval,lr=1e-05,crop=True"),
        ({"init_from": "../a run~1,/é"}, "T4_retrieval,init_from=.._a_run_1___"),
    ],
)
def test_a_run_is_named_after_what_is_not_at_its_default(asked, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked = settings.check("T4", asked)
    assert runs.locate("T4", checked) == tmp_path / "runs" / name
    assert runs.locate("T4", checked | {"run_dir": "mine/x"}) == tmp_path / "mine" / "x"


def test_only_the_table_and_the_injected_cell_are_asked():
    injected = "# Parameters\nmargin = 0.2\nPAPERMILL_OUTPUT_PATH = 'x'\n"
    usual = {"In": ["", "import os\nmargn = 1", injected, "margin: float = 0.1"], "run": None}
    namespace = usual | {"margin": 0.2, "margn": 1, "PAPERMILL_OUTPUT_PATH": "x", "crop": False}
    assert runs.given("T4", namespace) == {"margin": 0.2, "crop": False}
    namespace["In"][2] += "margn = 1"
    assert runs.given("T4", namespace) == {"margin": 0.2, "crop": False, "margn": 1}


def test_settings_are_written_first_and_keep_their_meaning(begin, monkeypatch):
    run = begin("T3", seed=3)
    saved = json.loads((run.folder / "settings.json").read_text())
    assert saved["asked"].keys() == settings.defaults("T3").keys() - set(settings.NOT_COMPARED)
    assert saved["asked"]["seed"] == 3
    resolved = saved["resolved"]
    assert resolved.keys() >= {
        "dataset", "preset", "device", "precision", "recipes", "protocol", "data_fingerprint"
    }  # fmt: skip
    assert (resolved["dataset"], resolved["protocol"]) == ("sample", "drawn sample")
    assert list(resolved["recipes"]) == ["parallel", "serial_12", "serial_21"]
    small.shorten(epochs=77)
    monkeypatch.setattr(settings, "precision", lambda device: "64-true")
    again = begin("T3", seed=3)
    assert again.resolved == resolved
    assert again.recipe("parallel").epochs == run.recipe("parallel").epochs == 3
    assert begin("T3", seed=4).recipe("parallel").epochs == 77


def test_restart_sets_the_old_results_aside(begin, tmp_path):
    for seed in range(3):
        run = begin("T1", run_dir="mine", seed=seed, restart=True)
        run.write("note.txt", str(seed))
    notes = {name: (tmp_path / name / "note.txt").read_text() for name in ("mine~1", "mine~2")}
    assert notes == {"mine~1": "0", "mine~2": "1"}
    with pytest.raises(CubsError, match="seed is -1"):
        begin("T1", run_dir="mine", seed=-1, restart=True)
    assert (run.folder / "note.txt").read_text() == "2"
    assert not (tmp_path / "mine~3").exists()


def _hold(project, data_root, ready):
    os.chdir(project)
    run = runs.start("T1", {"data_root": str(data_root), "run_dir": "mine"})
    ready.set()
    signal.pause()
    run.release()


def test_one_process_owns_a_run_until_it_dies(begin, data_root, tmp_path):
    ready = small.FORKS.Event()
    other = small.FORKS.Process(target=_hold, args=(tmp_path, data_root, ready))
    other.start()
    assert ready.wait(120)
    for restart in (False, True):
        with pytest.raises(CubsError, match="run_dir mine is in use by another process"):
            begin("T1", run_dir="mine", restart=restart)
    other.kill()
    other.join()
    run = begin("T1", run_dir="mine")
    assert begin("T1", run_dir="mine").resolved == run.resolved  # the same process, as cells do


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
    assert runs.best_row(rows) is rows[1]


def test_the_best_fit_is_the_first_of_equals(begin):
    run = begin("T3")
    for fit, score in (("parallel", 0.2), ("serial_12", 0.4), ("serial_21", 0.4)):
        run.write_history(fit, [{"epoch": 1, "val_top1": score}, {"epoch": 2, "val_top1": 0.1}])
    assert run.best_fit() == "serial_12"


def test_finish_writes_a_record_without_paths(begin, tmp_path, data_root):
    run = begin("T3", run_dir="mine", fashion="serial_21", seed=2)
    run.write_history("serial_21", [{"epoch": 1, "val_top1": 0.5, "seconds": 1.25}])
    folder = run.folder / "checkpoints" / "serial_21"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_text("weights")
    record = run.finish("serial_21", {"logits": np.eye(3)}, 77, test={"top1": 0.5, "top5": 1.0})
    assert json.loads(json.dumps(record)) == run.record
    assert run.finished
    assert (run.folder / "checkpoints/best.ckpt").read_text() == "weights"
    assert run.arrays["logits"].tolist() == np.eye(3).tolist()
    expected = {"schema": 1, "task": "T3", "dataset": "sample", "seed": 2, "num_parameters": 77}
    assert expected.items() <= record.items()
    assert record["seconds"] == 1.2
    assert record["settings"]["fashion"] == "serial_21"
    text = json.dumps(record)
    for path in (tmp_path, data_root, Path.home()):
        assert f"{path}/" not in text
    assert not record["settings"].keys() & {"data_root", "run_dir", "restart", "init_from"}


def test_make_demo_looks_where_its_run_is():
    asked = settings.check("T4", {"margin": 0.2, "dataset": "sample"})
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert f"RUN := runs/{runs.locate('T4', asked).name}\n" in makefile
