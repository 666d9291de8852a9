"""Several processes as torchrun starts them: one run, one set of files, one sentence at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from small import assert_same, checkpoints, files, together
from torch import distributed

from cubslib import CubsError, metrics, processes, runs
from cubslib.disk import lock
from cubslib.pages import plots, prose
from cubslib.runs import finished
from cubslib.sample import layouts

ROOT = Path(__file__).parent.parent
RUN = "runs/T1_custom_cnn"


def seen(project, world):
    """What each process saved, and the training images that they read together, a row a step."""
    found = [torch.load(project / f"rank{i}.pt", weights_only=False) for i in range(world)]
    steps = zip(*(one["read"]["train"] for one in found), strict=True)
    return found, [np.concatenate(parts).tolist() for parts in steps]


@pytest.fixture
def project(tmp_path):
    """Make a new empty project."""

    def make(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


# --- whole runs, by the library's calls ---


def test_two_machines_train_and_score_as_one_process_does(data_root, project):
    one, two = project("one"), project("two")
    assert together(small.whole_share, 1, one, data_root, True) == [0]
    assert together(small.whole_share, 2, two, data_root, True, machines=2) == [0, 0]
    assert files(one / "runs") == files(two / "runs")
    (_, steps), (both, shared) = seen(one, 1), seen(two, 2)
    assert shared == steps
    assert sorted(np.concatenate(steps)) == list(range(54))  # each image once
    for split, count in (("val", 6), ("test", 15)):
        parts = [np.concatenate(one["read"][split]) for one in both]
        assert len(parts[0]) == len(parts[1])
        assert set(np.concatenate(parts)) == set(range(count))
    one, two = one / RUN, two / RUN
    wanted, found = (checkpoints(run)["checkpoints/best.ckpt"]["state_dict"] for run in (one, two))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    wanted, found = (finished.arrays(run) for run in (one, two))
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=0, atol=1e-4)  # in order
    wanted, found = (finished.read(run) for run in (one, two))
    assert [record["settings"]["processes"] for record in (wanted, found)] == [1, 2]
    assert [record["settings"]["threads"] for record in (wanted, found)] == [1, 1]
    assert (found["test"], found["val"].keys()) == (wanted["test"], wanted["val"].keys())


@pytest.fixture(scope="module")
def unbroken(data_root, tmp_path_factory):
    """A project with a run of two processes."""
    project = tmp_path_factory.mktemp("unbroken")
    assert together(small.whole_share, 2, project, data_root, False) == [0, 0]
    return project


def test_all_processes_judge_the_weights_and_statistics_that_the_first_saves(unbroken):
    (first, second), _ = seen(unbroken, 2)
    assert len(first["judged"]) == 3
    assert any("running_mean" in name for name in first["judged"][0])
    assert_same(first["judged"], second["judged"])


def test_the_first_process_writes_alone(unbroken):
    (first, second), _ = seen(unbroken, 2)
    assert {"last.ckpt", "history.csv", "metrics.json"} <= set(first["written"])
    assert second["written"] == []


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_whose_second_process_was_killed_goes_on(world, unbroken, data_root, project):
    killed = project("killed")
    first, second = together(small.whole_share, 2, killed, data_root, False, 5)  # in epoch 2
    assert (first, second) == (3, -signal.SIGKILL)  # 3: the loss of a process, told as such
    history = (killed / RUN / "history.csv").read_text().splitlines()
    assert len(history) == 2  # the first epoch is saved
    assert together(small.whole_share, world, killed, data_root, False) == [0] * world
    assert files(killed / "runs") == files(unbroken / "runs")
    _, steps = seen(killed, world)
    _, all_steps = seen(unbroken, 2)
    assert steps == all_steps[3:]  # two epochs of three steps: the same images in the same order
    assert finished.read(killed / RUN)["settings"]["processes"] == 2
    if world == 2:
        assert_same(checkpoints(killed / RUN), checkpoints(unbroken / RUN))


def test_the_page_says_that_bits_may_differ(begin):
    run = begin("T1")
    assert "bits" not in prose.banner(run).data
    run.resolved["processes"] = 2
    assert "Processes at the beginning: 2; now: 1." in prose.banner(run).data


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_keeps_the_pictures(rank, monkeypatch, tmp_path):
    for name, value in (("TORCHELASTIC_RUN_ID", "test"), ("RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    plots.show(plots.recall_bars({"classification": {1: 0.5}}, {1: 0.1}), tmp_path / "recall.png")
    assert (tmp_path / "recall.png").exists() == (rank == 0)


def meet(project: Path) -> None:
    """Form two notebooks' groups on one store, the first process late to the second."""
    for task in ("T1", "T2"):
        if task == "T2" and processes.rank() == 0:
            time.sleep(1)
        fabric = processes.fabric(task, "cpu", "32-true")
        assert fabric.all_reduce(torch.ones(1), reduce_op="sum") == 2
        distributed.destroy_process_group()  # as the end of a notebook's kernel does


def test_one_torchrun_runs_several_notebooks(project):
    assert together(meet, 2, project("here")) == [0, 0]


# --- what one says, all end with ---


def ends(project: Path, data_root: Path, how: str) -> None:
    """End a run in the way `how`; write down with which sentence."""
    os.chdir(project)
    small.shorten()
    processes.PATIENCE = timedelta(minutes=5)  # a busy machine decides nothing
    rank, store = processes.rank(), processes._store("T1")
    asked = {"data_root": str(data_root), "run_dir": "runs/mine"}
    try:
        with processes.together("T1"):
            if how == "start":
                runs.start("T1", asked)
            elif how == "uneven":
                runs.start("T1", asked | {"batch_size": 15})
            elif rank:
                store.set("here", "")
                store.wait(["ended"]) if how == "Ctrl-C" else time.sleep(1)
                raise CubsError("the disk is full.")
            store.wait(["failed" if how == "ended by torchrun" else "here"])
            if how == "lost":  # some seconds before the other is known to have failed
                raise ConnectionError(processes.LOST)
            signal.raise_signal(signal.SIGTERM)
    except (CubsError, KeyboardInterrupt) as error:
        (project / f"rank{rank}.txt").write_text(repr(error))
    if rank == 0:
        store.set("ended", "")


@pytest.mark.parametrize(("how", "sentence"), [
    ("start", "run_dir mine is in use by another process: wait for it or name another."),
    ("uneven", "batch_size is 15; with 2 processes it must be a multiple of 2."),
    ("lost", "the disk is full."),
    ("ended by torchrun", "the disk is full."),
])  # fmt: skip
def test_all_end_with_the_sentence_of_the_one_that_failed(how, sentence, data_root, project):
    here = project("here")
    with lock(here / "runs/.mine.lock") if how == "start" else open(os.devnull):
        assert together(ends, 2, here, data_root, how) == [0, 0]
    for rank in (0, 1):
        assert (here / f"rank{rank}.txt").read_text() == repr(CubsError(sentence))
    assert not (here / "runs/mine").exists()


def test_what_is_interrupted_by_hand_ends_as_that(data_root, project):
    here = project("here")
    assert together(ends, 2, here, data_root, "Ctrl-C") == [0, 0]
    assert (here / "rank0.txt").read_text() == "KeyboardInterrupt()"


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.setenv("RANK", "3")  # some clusters set these for programs of any kind
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (processes.rank(), processes.count()) == (0, 1)
    assert not processes.lost("RuntimeError", "gloo")
    with pytest.raises(KeyboardInterrupt), processes.together("T1"):
        raise KeyboardInterrupt


# --- a whole notebook, by torchrun ---


def test_torchrun_runs_t4_and_leaves_one_set_of_files(tmp_path):
    sample = tmp_path / "data/sample/cars196"
    layouts.draw_cars196(sample, num_classes=8, per_class=4)
    folder = tmp_path / "runs/T4_retrieval"
    asked = {"data_root": tmp_path / "data", "run_dir": folder, "batch_size": 16}
    asked |= {"classify_epochs": 1, "embed_epochs": 1, "init_from": "random"}
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node 2"
    command = [sys.executable, *torchrun.split(), "-m", "cubslib", "run", "T4"]
    command += [part for name, value in asked.items() for part in ("-p", name, value)]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("embedding, epoch 1 of 1: loss") == 1
    assert done.stdout.count("page: ") == 1
    names = {"T4_retrieval.ipynb", "T4_retrieval.html", "settings.json", "history.csv"}
    names |= {"metrics.json", "recall.csv", "arrays.npz", "checkpoints", "figures"}
    assert {path.name for path in folder.iterdir()} == names
    assert [path.name for path in folder.parent.glob("[!.]*")] == [folder.name]
    record, arrays = json.loads((folder / "metrics.json").read_text()), finished.arrays(folder)
    assert record["settings"]["processes"] == 2
    labels = torch.from_numpy(arrays["labels"])
    embeddings = torch.from_numpy(arrays["embeddings_embedding"])
    assert len(set(arrays["names"])) == len(labels) == len(embeddings) == 16  # each image once
    recalls = metrics.recall_at_k(embeddings, labels)
    assert record["recall"]["embedding"] == {str(k): value for k, value in recalls.items()}
