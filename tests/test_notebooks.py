"""All four notebooks, run in their order on a tiny drawn sample as a user would run them.

Beside each plain run there is a poisoned one: right after `runs.start` every parameter is set to
another value, which must change nothing.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from small import assert_same, checkpoints, leaves

from cubslib.pages import site
from cubslib.runs import parameters
from cubslib.sample import layouts

ROOT = Path(__file__).parent.parent
FITS = {task: [fit for fit, *_ in row.fits] for task, row in parameters.TASKS.items()}
STEMS = {task: row.notebook for task, row in parameters.TASKS.items()}
TASK = pytest.mark.parametrize("task", FITS)


def call(*command):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def asked(root, task, runs="runs", **more):
    values = {"data_root": root / "data", "run_dir": root / runs / STEMS[task], "batch_size": 16}
    values |= {"init_from": root / runs / STEMS["T3"]} if task == "T4" else {}
    values |= {epochs: 1 for *_, epochs in parameters.TASKS[task].fits} | more
    return [part for name, value in values.items() for part in ("-p", name, value)]


def poisoned(task, path):
    """Write the notebook with a cell after its `runs.start` that changes every parameter."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{STEMS[task]}.ipynb", as_version=4)
    others = {bool: lambda x: not x, int: lambda x: x + 7, float: lambda x: x + 0.3}
    lines = [
        f"{name} = {others.get(type(row.default), 'not {}'.format)(row.default)!r}"
        for name, row in parameters.table(task).items()
    ]
    (start,) = [i for i, cell in enumerate(notebook.cells)
                if cell.cell_type == "code" and "runs.start(" in cell.source]  # fmt: skip
    notebook.cells.insert(start + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    nbformat.write(notebook, path)
    return path


def run_plainly(root):
    for task in ("T1", "T2", "T3"):
        code, out, err = call("cubslib", "run", task, *asked(root, task))
        assert code == 0, err
        assert f"{FITS[task][-1]}, epoch 1 of 1: loss" in out
    notebook = f"notebooks/{STEMS['T4']}.ipynb"
    code, _, err = call("papermill", notebook, root / "out.ipynb", *asked(root, "T4"))
    assert code == 0, err


def run_poisoned(root):
    for task in FITS:
        source = poisoned(task, root / f"{task} poisoned.ipynb")
        code, _, err = call("papermill", source, root / "p.ipynb", *asked(root, task, "poisoned"))
        assert code == 0, err


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a small sample, and a plain and a poisoned run of every notebook."""
    root = tmp_path_factory.mktemp("notebooks")
    sample = root / "data" / "sample"
    layouts.draw_tiny_imagenet(sample / "tiny-imagenet-200", num_classes=6, per_class=20)
    layouts.draw_cars196(sample / "cars196", num_classes=16, per_class=8)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(run, root) for run in (run_plainly, run_poisoned)]:
            done.result()
    return root


def record(folder):
    return json.loads((folder / "metrics.json").read_text())


@TASK
def test_run_leaves_what_it_promises(root, task):
    folder = root / "runs" / STEMS[task]
    found = record(folder)
    assert (found["task"], found["dataset"], found["schema"]) == (task, "sample", 2)
    assert str(root) not in (folder / "metrics.json").read_text()
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[0].startswith("fit,epoch,")
    assert [line.split(",")[0] for line in lines[1:]] == FITS[task]
    for name in [f"{fit}/{kind}" for fit in FITS[task] for kind in ("best", "last")] + ["best"]:
        assert (folder / "checkpoints" / f"{name}.ckpt").exists()
    assert (folder / "arrays.npz").exists()
    assert len(list((folder / "figures").glob("*.png"))) >= 4


@TASK
def test_a_parameter_that_is_changed_after_the_start_changes_nothing(root, task):
    plain, changed = (root / runs / STEMS[task] for runs in ("runs", "poisoned"))
    one, other = record(plain), record(changed)
    assert_same(one | {"finished": ""}, other | {"finished": ""})
    assert_same(checkpoints(plain), checkpoints(changed))
    if task == "T4":
        assert (plain / "recall.csv").read_text() == (changed / "recall.csv").read_text()
    with np.load(plain / "arrays.npz") as one, np.load(changed / "arrays.npz") as other:
        assert set(one) == set(other)
        assert all((one[name] == other[name]).all() for name in one)
    figures = [{path.name: path for path in folder.rglob("*.png")} for folder in (plain, changed)]
    assert figures[0].keys() == figures[1].keys()
    for name, path in figures[0].items():
        with Image.open(path) as image:
            timed = re.search(r"\b(ms|seconds?|minutes?|images/s)\b", image.text["Description"])
        assert timed or path.read_bytes() == figures[1][name].read_bytes(), name


def test_t3_reports_the_best_on_val_and_t4_begins_from_it(root):
    t3, t4 = (record(root / "runs" / STEMS[task]) for task in ("T3", "T4"))
    scores = {fashion: row["top1"] for fashion, row in t3["fashions"].items()}
    chosen = t3["settings"]["fashion"]
    assert list(scores) == FITS["T3"]
    assert scores[chosen] == max(scores.values()) == t3["val"]["top1"]
    assert (t4["settings"]["fashion"], t4["settings"]["init_from"]) == (chosen, STEMS["T3"])


def test_page_reads_well_without_a_network(root):
    code, _, err = call("cubslib", "report", root / "out.ipynb")
    assert code == 0, err
    page = (root / "out.html").read_text()
    assert "SAMPLE DATA" in page
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) >= 6
    assert all(re.search(r'alt="[^"]{20,}', picture) for picture in pictures)
    assert not re.search(r'(src|href)="(http|//)', re.sub(r'<a [^>]*href="http', "", page))


def test_training_leaves_one_line_a_fit(root):
    notebook = nbformat.read(root / "out.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = [leaf for leaf in leaves(outputs).values() if isinstance(leaf, str)]
    for fit in FITS["T4"]:
        assert sum(f"{fit}: 1 epoch in" in text for text in said) == 1
    assert not any("img/s" in text for text in said)


def test_a_finished_run_is_shown_without_training(root):
    folder = root / "runs" / STEMS["T4"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    notebook = f"notebooks/{STEMS['T4']}.ipynb"
    code, _, err = call("papermill", notebook, root / "again.ipynb", *asked(root, "T4"))
    assert code == 0, err
    assert "is shown from its files" in (root / "again.ipynb").read_text()
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path for path in before if before[path] != after[path]}
    assert {path.parent for path in changed} == {folder / "figures"}  # drawn again


@pytest.mark.parametrize(("more", "sentence"), [
    ({"margn": 0.2}, "T4 has no parameter margn: did you mean margin."),
    ({"margin": 0.3}, "run_dir T4_retrieval began with margin=0.1"),
])  # fmt: skip
def test_papermill_refuses_in_a_sentence(root, more, sentence):
    folder = root / "runs" / STEMS["T4"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    notebook = f"notebooks/{STEMS['T4']}.ipynb"
    code, _, err = call("papermill", notebook, root / "bad.ipynb", *asked(root, "T4", **more))
    assert code != 0
    assert sentence in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_site_has_a_row_a_run_and_a_page_a_notebook(root):
    index = site.site(root / "runs").read_text()
    for task in ("T1", "T2", "T3"):
        assert f'href="runs/{STEMS[task]}.html"' in index
        assert (root / "runs" / "report" / "runs" / f"{STEMS[task]}.html").exists()
    assert index.count(STEMS["T4"]) >= 2  # a row a stage
