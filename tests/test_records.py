import json
import os
import re

import pytest
import torch

from cubslib import CubsError, records


def test_project_root_is_the_nearest_folder_with_our_pyproject(tmp_path, monkeypatch):
    deep = tmp_path / "project" / "other" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert records.project_root() == deep
    (tmp_path / "project/pyproject.toml").write_text('[project]\nname = "cubslib"\n')
    (tmp_path / "project/other/pyproject.toml").write_text('[project]\nname = "theirs"\n')
    assert records.project_root() == tmp_path / "project"


def test_find_lists_finished_runs_newest_first(tmp_path):
    for age, name in enumerate(("new", "old", "old~1", "~")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "metrics.json"
        path.write_text(json.dumps({"task": name}))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "new/metrics.json").touch()
    found = [(tmp_path / name, {"task": name}) for name in ("new", "old")]
    assert records.find(tmp_path) == found
    assert records.find(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is missing: name a finished run or its checkpoint"),
        (b"no checkpoint", "is no checkpoint that can be read: give a best.ckpt"),
        ({"model": {}}, "is no checkpoint of this library: give a best.ckpt"),
        ([1, 2], "is no checkpoint of this library"),
        (pytest, "is no checkpoint that can be read"),  # more than weights
    ],
)
def test_what_is_no_checkpoint_is_refused(content, sentence, tmp_path):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is pytest:
        torch.save({"state_dict": re.compile("a"), "config": {}}, path)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CubsError, match=rf"x\.ckpt {sentence}"):
        records.checkpoint(path)
    torch.save({"state_dict": {}, "config": {"network": "x"}}, path)
    assert records.checkpoint(path)["config"] == {"network": "x"}


def test_where_and_on_what_it_ran(tmp_path, monkeypatch):
    assert re.search(r"\d+ cores$", records.hardware("cpu"))
    versions = records.versions()
    assert versions["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert set(versions) == {"python", *records.PACKAGES}
    assert re.fullmatch(r"[0-9a-f]{12}|", records.commit())
    monkeypatch.chdir(tmp_path)
    assert records.commit() == ""
    monkeypatch.setenv("PATH", "")
    assert records.commit() == ""
