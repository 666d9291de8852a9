"""Published runs: records, and the weights of T1 and T4, that travel with the project.

Each has a folder under notebooks/results/ with `metrics.json`, `history.csv` and, of T1 and T4,
`best.ckpt` in half precision.
"""

import io
import json
from pathlib import Path

import torch

from cubslib import CubsError, machine
from cubslib.disk import whole
from cubslib.losses import CONTROL
from cubslib.runs import finished
from cubslib.runs.finished import Earlier, unfit
from cubslib.runs.history import from_csv

WEIGHTS = ("T1", "T4")  # whose weights may be published
LARGEST = 32_000_000  # bytes of them


def root() -> Path:
    """Return the folder of the published runs."""
    return machine.project_root() / "notebooks" / "results"


def find(*tasks: str) -> list[tuple[Path, dict]]:
    """Return the published runs of `tasks` that have weights, with their records, newest first."""
    found = [run for run in finished.find(root()) if run[1]["task"] in tasks]
    return [run for run in found if (run[0] / "best.ckpt").exists()]


def nearest(settled: dict, task: str) -> Earlier | None:
    """Return the published run of `task`, `T1` … `T3`, that is nearest to a run, or None.

    It is of the same kind of data; its remarks say what keeps it from being an earlier run.
    """
    found = [
        Earlier(folder, record, ("published", *unfit(task, record["settings"], settled, "best")))
        for folder, record in finished.find(root())
        if (record["task"], record["dataset"]) == (task, settled["dataset"])
    ]
    return min(found, key=lambda one: len(one.remarks), default=None)


def publish(folder: Path, weights: bool = False) -> Path:
    """Copy a finished run's record and history to where published runs are; return its folder.

    The record gains what it was asked (`asked`, without a path) and how many images it was scored
    on (`test_images`), which other files of a run hold.

    Args:
        folder: the run's.
        weights: copy its weights too; T4's with the names and classes of its gallery.

    Raises:
        CubsError: the run is not finished, not on real data, set aside, incomplete or named after
            a path; another one of its name is published; or its weights are not published or too
            large.
    """
    record, name, target = finished.read(folder), folder.name, root() / folder.name
    if record["dataset"] == "sample":
        raise CubsError(f"{name} was trained on drawn pictures: name a run on the real data.")
    if finished.set_aside(folder):
        raise CubsError(f"{name} was set aside: name a run that stands, or rename its folder.")
    if "init_from=_" in name:
        raise CubsError(f"{name} is named after a path: rename its folder, and show the run "
                        "by run_dir from then on.")  # fmt: skip
    theirs = finished.read(target) if (target / "metrics.json").exists() else record
    if theirs["finished"] != record["finished"]:
        raise CubsError(f"notebooks/results/{name} holds another run: remove that one first.")
    arrays = finished.arrays(folder)
    try:
        asked = json.loads((folder / "settings.json").read_text())["asked"]
        history = (folder / "history.csv").read_text()
        good = [row["seconds"] for row in from_csv(history)]
        if asked.get("init_from", "auto") not in ("auto", "random", "published"):  # it is a path
            asked["init_from"] = record["settings"]["init_from"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        good = []
    if not good:
        raise CubsError(f"{name} lacks its settings.json or history.csv, or these lack something: "
                        "restore them, then publish it.")  # fmt: skip
    record |= {"asked": asked, "test_images": len(arrays["labels"])}
    checkpoint = _half(folder, record, arrays) if weights else b""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    contents = {"history.csv": history.encode(), "metrics.json": text.encode()}
    contents |= {"best.ckpt": checkpoint} if weights else {}
    for name, content in contents.items():
        with whole(target / name) as draft:
            draft.write_bytes(content)
    return target


def _half(folder: Path, record: dict, arrays: dict) -> bytes:
    """Return a run's checkpoint with its weights of two and more dimensions in half precision."""
    if record["task"] not in WEIGHTS:
        raise CubsError(f"{folder.name} is a run of {record['task']}: only weights of "
                        f"{' and '.join(WEIGHTS)} are published.")  # fmt: skip
    if record["settings"].get("mining") == CONTROL:
        raise CubsError(f"{folder.name} is the control, which embeds nothing: publish its record "
                        "alone.")  # fmt: skip
    saved = finished.checkpoint(finished.weights(folder))
    large = {key for key, x in saved["state_dict"].items() if x.is_floating_point() and x.ndim > 1}
    saved["state_dict"] |= {key: saved["state_dict"][key].half() for key in large}
    if not all(saved["state_dict"][key].isfinite().all() for key in large):
        raise CubsError(f"{folder.name} has weights beyond half precision's range (65,504): they "
                        "cannot be published.")  # fmt: skip
    if record["task"] == "T4":
        saved["gallery"] = {name: arrays[name].tolist() for name in ("names", "classes")}
    content = io.BytesIO()
    torch.save(saved, content)
    if content.tell() > LARGEST:
        raise CubsError(f"{folder.name}'s weights take {content.tell() / 1e6:.0f} MB; published "
                        f"are at most {LARGEST / 1e6:.0f} MB.")  # fmt: skip
    return content.getvalue()
