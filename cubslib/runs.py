"""A run's folder: its name, lock, settings, history and record.

A run is written by one process and is finished once `metrics.json` is there; everything in it
appears whole or not at all, so a run that was killed goes on where it was.
"""

import ast
import csv
import io
import json
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cubslib import CubsError, records, resolve, settings
from cubslib.disk import lock, whole
from cubslib.packed import PackedImages


@dataclass
class Run:
    """One run of a notebook, and the only writer of its folder.

    Attributes:
        task: `T1` … `T4`.
        folder: where its results are.
        asked: the parameters as given.
        resolved: what 0, "auto" and "best" came to mean.
        train, val, test: the splits; val is None where T4 holds no classes back.
    """

    task: str
    folder: Path
    asked: dict
    resolved: dict
    train: PackedImages
    val: PackedImages | None
    test: PackedImages
    _held: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def seed(self) -> int:
        """The seed of weights, order and augmentation."""
        return self.asked["seed"]

    @property
    def finished(self) -> bool:
        """Whether the record is there: then nothing is trained or scored again."""
        return (self.folder / "metrics.json").exists()

    @property
    def record(self) -> dict:
        """The content of `metrics.json`."""
        return json.loads((self.folder / "metrics.json").read_text())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What tables and pictures were made from: the content of `arrays.npz`."""
        with np.load(self.folder / "arrays.npz") as file:
            return dict(file)

    def recipe(self, fit: str) -> settings.Recipe:
        """Return the recipe of a fit, as the run began with it."""
        return settings.Recipe(**self.resolved["recipes"][fit])

    def earlier(self, task: str, fashion: str = "best") -> tuple[Path, dict] | None:
        """Return the newest finished sibling of `task` with this run's kind of data and stem."""
        kind, stem = self.resolved["dataset"], self.resolved["stem"]
        return records.earlier(self.folder, task, kind, stem, fashion)

    def history(self) -> list[dict]:
        """Return the rows of `history.csv`: numbers as numbers, blanks left out."""
        path = self.folder / "history.csv"
        return _read_csv(path.read_text()) if path.exists() else []

    def write_history(self, fit: str, rows: list[dict]) -> None:
        """Put `rows`, one an epoch, in place of the fit's rows in `history.csv`."""
        others = [row for row in self.history() if row["fit"] != fit]
        self.write("history.csv", _csv(others + [{"fit": fit} | row for row in rows]))

    def best(self, fit: str) -> dict:
        """Return the row of `history` whose weights a fit reports."""
        return best_row([row for row in self.history() if row["fit"] == fit])

    def best_fit(self) -> str:
        """Return the fit with the best val score; the first of equals."""
        return max(self.resolved["recipes"], key=lambda fit: self.best(fit)["val_top1"])

    def release(self) -> None:
        """Free the run's lock for another process."""
        self._held.close()

    def write(self, name: str, content: str | dict) -> None:
        """Write one text file of the run, whole or not at all; a dict as JSON."""
        if isinstance(content, dict):
            content = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        with whole(self.folder / name) as draft:
            draft.write_text(content)

    def finish(self, fit: str, arrays: dict, num_parameters: int, **scores) -> dict:
        """Write arrays and record of a run whose fits are all trained and scored.

        Args:
            fit: the fit whose weights the run reports.
            arrays: what tables and pictures are made from, by name.
            num_parameters: of the reported network.
            **scores: what the record holds beside the settings, by name.

        Returns:
            The record.
        """
        with whole(self.folder / "arrays.npz") as draft, open(draft, "wb") as file:
            np.savez_compressed(file, **arrays)
        checkpoints = self.folder / "checkpoints"
        with whole(checkpoints / "best.ckpt") as draft:
            shutil.copyfile(checkpoints / fit / "best.ckpt", draft)
        record = {
            "schema": 1,
            "task": self.task,
            "dataset": self.resolved["dataset"],
            "protocol": self.resolved["protocol"],
            "seed": self.seed,
            "settings": _compared(self.asked) | self.resolved,
            "data_fingerprint": self.resolved["data_fingerprint"],
            "commit": records.commit(),
            "hardware": records.hardware(self.resolved["device"]),
            "versions": records.versions(),
            "num_parameters": num_parameters,
            "seconds": round(sum(row["seconds"] for row in self.history()), 1),
        } | scores
        record["settings"].pop("init_from", None)  # may be a path; `origin` says it without
        if self.task == "T3":
            record["settings"]["fashion"] = fit
        self.write("metrics.json", record)
        return record


def best_row(history: list[dict]) -> dict:
    """Return the row, of one fit's, with the best val score; the last where nothing was scored."""
    key = next((key for key in history[-1] if key.startswith("val_")), None)
    return history[-1] if key is None else max(history, key=lambda row: row[key])


def start(task: str, namespace: dict) -> Run:
    """Check what was asked, find or make the data, and open the run's folder.

    This is a notebook's first call into the library: whatever is wrong is said here, before any
    long work and with earlier results untouched.

    Args:
        task: `T1` … `T4`.
        namespace: the notebook's `globals()`, which hold the parameters and the cells' texts.

    Raises:
        CubsError: a parameter, the data or the folder is not as it must be.
    """
    asked = settings.check(task, given(task, namespace))
    folder = locate(task, asked)
    busy = f"run_dir {folder.name} is in use by another process: wait for it or name another."
    with ExitStack() as held:  # what is refused frees the lock
        held.enter_context(lock(folder.with_name(f".{folder.name}.lock"), busy))
        run = _open(task, asked, folder)
        run._held = held.pop_all()
    return run


def _open(task: str, asked: dict, folder: Path) -> Run:
    """Open the run in `folder`, which is locked: the one on file, or a new one."""
    saved = on_file(task, folder, asked)
    begun = saved is not None and not asked["restart"]
    data_root = records.project_root() / asked["data_root"]
    kind, data = resolve.find_data(task, data_root, saved["dataset"] if begun else asked["dataset"])
    resolved = saved if begun else resolve.plan(task, asked, kind, folder)
    splits = resolve.open_data(task, data, asked, resolved["image_size"])
    described = resolve.describe(splits[0], splits[2], kind, asked["limit_classes"])
    run = Run(task, folder, asked, described | resolved, *splits)
    if not begun:
        if saved is not None:
            _set_aside(folder)
        run.write("settings.json", {"asked": _compared(asked), "resolved": run.resolved})
    elif not run.finished and described["data_fingerprint"] != resolved["data_fingerprint"]:
        raise CubsError(
            f"the data under data_root differ from those that run_dir {folder.name} began with: "
            "restore them, or ask for restart=True."
        )
    return run


def given(task: str, namespace: dict) -> dict:
    """Return the parameters that a notebook's namespace sets.

    Names are those of the table and, so that a mistyped one is refused, those of the cell that
    papermill injects; its own `PAPERMILL_*` are let through.
    """
    names = [name for name in settings.defaults(task) if name in namespace]
    injected = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    for cell in injected[-1:]:  # an earlier one was run again, corrected
        targets = (getattr(node, "targets", [None])[0] for node in ast.parse(cell).body)
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    names = [name for name in dict.fromkeys(names) if not name.startswith("PAPERMILL_")]
    return {name: namespace[name] for name in names}


def locate(task: str, asked: dict) -> Path:
    """Return the folder of a run: `run_dir`, or one named after what is not at its default.

    >>> locate("T4", settings.check("T4", {"margin": 0.2})).name
    'T4_retrieval,margin=0.2'
    """
    default = settings.defaults(task)
    parts = [
        f"{key}={re.sub(r'[^A-Za-z0-9.+_-]', '_', str(value))}"
        for key, value in _compared(asked).items()
        if value != default[key]
    ]
    own = "runs/" + ",".join([settings.NOTEBOOKS[task], *parts])
    return records.project_root() / (asked["run_dir"] or own)


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
    except (OSError, ValueError, KeyError, TypeError):
        raise CubsError(
            f"run_dir {folder.name} is not empty and holds no run: name a new folder."
        ) from None
    theirs = settings.defaults(task) | theirs  # a parameter may be younger than the run
    differ = [f"{key}={theirs[key]!r}" for key, value in _compared(asked).items()
              if value != theirs[key]]  # fmt: skip
    if began != task:
        differ = [settings.NOTEBOOKS.get(began, began)]
    if differ and not asked["restart"]:
        raise CubsError(
            f"run_dir {folder.name} began with {', '.join(differ)}: ask for the same, for "
            "restart=True, or name another run_dir."
        )
    return saved["resolved"]


def _set_aside(folder: Path) -> None:
    number = 1
    while (old := folder.with_name(f"{folder.name}~{number}")).exists():
        number += 1
    os.replace(folder, old)


def _compared(asked: dict) -> dict:
    return {key: value for key, value in asked.items() if key not in settings.NOT_COMPARED}


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(text: str) -> list[dict]:
    def parsed(name: str, value: str):
        return value if name == "fit" else int(value) if value.isdigit() else float(value)

    return [
        {name: parsed(name, value) for name, value in row.items() if value}
        for row in csv.DictReader(io.StringIO(text))
    ]
