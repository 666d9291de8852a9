"""The launcher for Colab, run without Colab, without a network and with a pip that only listens."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parent.parent
DRIVE = "def mount(place):\n    print(f'mounted at {place}')\n"
PIP = "import pathlib, sys\nprint(*sys.argv[1:], pathlib.Path('constraints.txt').read_text())\n"


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """Run the launcher's cells in order in `content`, and return what they printed."""
    content, modules = tmp_path / "content", tmp_path / "modules"
    parts = {"pip/__main__.py": PIP, "pip/__init__.py": "", "google/colab/drive.py": DRIVE}
    for name, text in parts.items():
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_text(text)
    content.mkdir()
    paths = (str(modules), os.environ.get("PYTHONPATH"), str(ROOT))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PIP_DRY_RUN", "1")  # should the real one be called all the same

    def run(colab=True, **values):
        if not colab:
            shutil.rmtree(modules / "google")
        if values.get("repository") == str(ROOT) and not (ROOT / ".git").exists():
            pytest.skip("not a git checkout")
        notebook = nbformat.read(ROOT / "notebooks/colab.ipynb", as_version=4)
        for cell in notebook.cells:
            cell.source = cell.source.replace("/content", str(content))
        chosen = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        notebook.cells.insert(2, nbformat.v4.new_code_cell(chosen))
        NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
        outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
        return "".join(one.get("text", "") for one in outputs).replace("\r", "")

    return run


def test_a_run_is_launched_and_goes_on_from_drive(launch, tiny_root, tmp_path):
    content = tmp_path / "content"
    archives = content / "drive/MyDrive/my archives"
    archives.mkdir(parents=True)
    shutil.make_archive(archives / "tiny-imagenet-200", "zip", tiny_root.parent, tiny_root.name)
    asked = {"repository": str(ROOT), "keep_on_drive": True, "archives": str(archives)}
    asked["options"] = "-p dataset real -p preset sample -p epochs 1 -p batch_size 16"
    said = launch(**asked)
    assert f"mounted at {content}/drive" in said
    assert f"install --quiet -c constraints.txt -e . torch=={version('torch')}\ntorchvi" in said
    assert ("NO GPU" in said) != torch.cuda.is_available()
    assert "classification, epoch 1 of 1: loss" in said
    (run,) = (content / "drive/MyDrive/cubslib/runs").glob("T1_custom_cnn,*")
    assert (run / "metrics.json").exists()
    assert (content / "cubslib/report.zip").exists()
    shutil.rmtree(content / "cubslib")  # what the next session finds
    assert "T1_custom_cnn" in launch(**asked)
    assert [one.name for one in run.parent.glob("T1*")] == [run.name]


@pytest.mark.parametrize(("asked", "says"), [
    ({}, "repository is empty: give the project's address"),
    ({"repository": "nowhere"}, "cubslib"),
    ({"repository": str(ROOT), "keep_on_drive": True}, "google"),
    ({"repository": str(ROOT), "archives": "nowhere"}, "archives is nowhere, no folder: name one"),
])  # fmt: skip
def test_what_cannot_be_done_stops_the_launcher(launch, asked, says):
    with pytest.raises(CellExecutionError, match=says):
        launch(colab=False, **asked)
