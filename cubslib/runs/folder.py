"""A run's folder: where it is, what is on file there, what dead processes left, set aside."""

import json
import os
from pathlib import Path

from cubslib import CubsError, machine
from cubslib.disk import clear, fingerprint
from cubslib.runs import parameters


def locate(task: str, asked: dict) -> Path:
    """Return the folder of a run: `run_dir`, or one named after what is not at its default.

    Raises:
        CubsError: it is the project's own folder, one above it, or that of all runs.
    """
    root, own = machine.project_root(), f"runs/{parameters.run_name(task, asked)}"
    folder = (root / (asked["run_dir"] or own)).resolve()  # one lock for all links
    if folder in (root, root / "runs", *root.parents):
        raise CubsError(
            f"run_dir is {asked['run_dir']!r}, which holds more than a run: name a folder of the "
            "run's own, such as runs/mine."
        )
    return folder


def on_file(task: str, folder: Path, asked: dict) -> dict | None:
    """Return what the run in `folder` resolved its settings to; None where there is no run.

    Raises:
        CubsError: the folder holds something else, or a run that began with other settings.
    """
    try:
        # A `.part` is what a killed process had begun to write.
        if not folder.exists() or all(file.suffix == ".part" for file in folder.iterdir()):
            return None
        saved = json.loads((folder / "settings.json").read_text())
        theirs, began = saved["asked"], saved["resolved"]["task"]
        mark = saved.pop("fingerprint", None)  # older runs have none
        known = saved["resolved"].keys() >= {"sources", "recipes", "image_size", "dataset"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CubsError(
            f"run_dir {folder.name} is not empty and holds no run: name a new folder."
        ) from None
    if asked["restart"]:
        return saved["resolved"]
    if mark not in (None, fingerprint(json.dumps(saved))):
        raise CubsError(
            f"settings.json of run_dir {folder.name} is not as the run wrote it: restore it, name "
            "another run_dir, or ask for restart=True."
        )
    wanted = parameters.compared(asked)
    if not known or set(theirs) - set(wanted) and began == task:
        raise CubsError(f"run_dir {folder.name} was begun by another version of cubslib: use that "
                        "one, name another run_dir, or ask for restart=True.")  # fmt: skip
    theirs = parameters.compared(parameters.defaults(task)) | theirs  # may lack a younger parameter
    differ = parameters.differences(wanted, theirs, wanted)
    if began != task:
        differ = [parameters.TASKS[began].notebook]
    if differ:
        raise CubsError(
            f"run_dir {folder.name} began with {', '.join(differ)}: ask for the same, for "
            "restart=True, or name another run_dir."
        )
    return saved["resolved"]


def tidy(folder: Path) -> None:
    """Remove what dead processes left in the folder of a run, which is locked, and beside it."""
    if folder.parent.name == "runs":  # elsewhere are files that are not ours
        clear(folder.parent)
    for place in list(folder.glob("**/")):
        clear(place)


def set_aside(folder: Path) -> None:
    """Rename the folder of a run to the first that is free of `NAME~1`, `NAME~2` and so on."""
    number = 1
    while (old := folder.with_name(f"{folder.name}~{number}")).exists():
        number += 1
    os.replace(folder, old)
