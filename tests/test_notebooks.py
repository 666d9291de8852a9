"""All four notebooks, run in their order on a tiny drawn sample as a user would run them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cubslib import settings
from cubslib.sample import layouts

ROOT = Path(__file__).parent.parent
FITS = {
    "T1": ["classification"],
    "T2": ["classification"],
    "T3": ["parallel", "serial_12", "serial_21"],
    "T4": ["classification", "embedding"],
}


def call(*command, **options):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | options,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def parameters(root, task, **more):
    epochs = ("classify_epochs", "embed_epochs") if task == "T4" else ("epochs",)
    values = {
        "data_root": root / "data",
        "run_dir": root / "runs" / settings.NOTEBOOKS[task],
        "batch_size": 16,
        **dict.fromkeys(epochs, 1),
        **more,
    }
    return [part for name, value in values.items() for part in ("-p", name, value)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a small sample and one finished run of every notebook."""
    root = tmp_path_factory.mktemp("notebooks")
    sample = root / "data" / "sample"
    layouts.draw_tiny_imagenet(sample / "tiny-imagenet-200", num_classes=6, per_class=20)
    layouts.draw_cars196(sample / "cars196", num_classes=16, per_class=8)
    for task in ("T1", "T2", "T3"):
        code, out, err = call("cubslib", "run", task, *parameters(root, task))
        assert code == 0, err
        assert f"{FITS[task][-1]}, epoch 1 of 1: loss" in out
    code, _, err = call(
        "papermill", "notebooks/T4_retrieval.ipynb", root / "out.ipynb", *parameters(root, "T4")
    )
    assert code == 0, err
    return root


@pytest.mark.parametrize("task", list(FITS))
def test_run_leaves_what_it_promises(root, task):
    folder = root / "runs" / settings.NOTEBOOKS[task]
    record = json.loads((folder / "metrics.json").read_text())
    assert (record["task"], record["dataset"], record["schema"]) == (task, "sample", 1)
    assert str(root) not in (folder / "metrics.json").read_text()
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[0].startswith("fit,epoch,")
    assert [line.split(",")[0] for line in lines[1:]] == FITS[task]
    for name in [f"{fit}/{kind}" for fit in FITS[task] for kind in ("best", "last")] + ["best"]:
        assert (folder / "checkpoints" / f"{name}.ckpt").exists()
    assert (folder / "arrays.npz").exists()
    assert len(list((folder / "figures").glob("*.png"))) >= 4


def test_t3_reports_the_best_on_val_and_t4_begins_from_it(root):
    t3, t4 = (
        json.loads((root / "runs" / settings.NOTEBOOKS[task] / "metrics.json").read_text())
        for task in ("T3", "T4")
    )
    scores = {fashion: row["top1"] for fashion, row in t3["fashions"].items()}
    chosen = t3["settings"]["fashion"]
    assert list(scores) == FITS["T3"]
    assert scores[chosen] == max(scores.values()) == t3["val"]["top1"]
    assert t4["settings"]["fashion"] == chosen
    assert t4["settings"]["origin"].startswith("T3_cubs_resnet18 (")


def test_page_reads_well_without_a_network(root):
    code, _, err = call("cubslib", "report", root / "out.ipynb")
    assert code == 0, err
    page = (root / "out.html").read_text()
    assert "SAMPLE DATA" in page
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) >= 6
    assert all(re.search(r'alt="[^"]{20,}', picture) for picture in pictures)
    assert not re.search(r'(src|href)="(http|//)', re.sub(r'<a [^>]*href="http', "", page))


def test_training_leaves_one_output(root):
    notebook = nbformat.read(root / "out.ipynb", as_version=4)
    training = [cell for cell in notebook.cells if cell.source.startswith("criterion =")]
    assert [len(cell.outputs) for cell in training] == [1]
    assert "epoch 1 of 1" in training[0].outputs[0]["data"]["text/plain"]


def test_finished_run_is_shown_without_training(root):
    folder = root / "runs" / "T4_retrieval"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")}
    record = (folder / "metrics.json").read_text()
    code, _, err = call(
        "papermill", "notebooks/T4_retrieval.ipynb", root / "again.ipynb", *parameters(root, "T4")
    )
    assert code == 0, err
    assert "is shown from its files" in (root / "again.ipynb").read_text()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.ckpt")} == before
    assert (folder / "metrics.json").read_text() == record


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"margin": -1}, "margin is -1; it must be 0 or more."),
        ({"margn": 0.2}, "T4 has no parameter margn: did you mean margin."),
        ({"crop": "false"}, "crop is 'false'; it must be True or False."),
        ({"dataset": "real", "restart": True}, "dataset is 'real', but data_root holds no cars196"),
        ({"margin": 0.3}, "run_dir T4_retrieval began with margin=0.1"),
        ({"init_from": "nowhere.ckpt"}, "began with init_from='auto'"),
    ],
)
def test_papermill_refuses_in_a_sentence(root, more, sentence):
    folder = root / "runs" / "T4_retrieval"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, _, err = call(
        "papermill", "notebooks/T4_retrieval.ipynb", root / "bad.ipynb",
        *parameters(root, "T4", **more),
    )  # fmt: skip
    assert code != 0
    assert sentence in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_site_has_a_row_a_run_and_a_page_a_notebook(root):
    from cubslib import report

    index = report.site(root / "runs").read_text()
    for task in ("T1", "T2", "T3"):
        name = settings.NOTEBOOKS[task]
        assert f'href="{name}.html"' in index
        assert (root / "runs" / "report" / f"{name}.html").exists()
    assert index.count("T4_retrieval") >= 2  # a row a stage
