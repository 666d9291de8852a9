"""An open run: the only writer of its folder; what was asked is checked before anything is done."""

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from cubslib import CubsError, machine, processes
from cubslib.disk import fingerprint, lock, whole
from cubslib.packed import PackedImages
from cubslib.recipes import Recipe
from cubslib.runs import finished, parameters, settle
from cubslib.runs.finished import Earlier
from cubslib.runs.folder import locate, on_file, set_aside, tidy
from cubslib.runs.history import best_fit, best_row, from_csv, to_csv


@dataclass
class Run:
    """One run of a notebook.

    `run[name]` is a parameter at its final meaning.

    Attributes:
        task: `T1` … `T4`.
        folder: where its results are.
        asked: the parameters as given.
        resolved: all of them at their final meaning, with what else was settled.
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

    def __getitem__(self, name: str):
        """Return what the parameter `name` came to mean."""
        return self.resolved[name]

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
        return finished.read(self.folder)

    @property
    def other_sources(self) -> list[str]:
        """The modules whose code is another than the one that this run began with."""
        theirs = self.resolved["sources"]
        return [name for name, mark in machine.IMPORTED.items() if theirs.get(name) != mark]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What tables and pictures were made from: the content of `arrays.npz`.

        Raises:
            CubsError: the file is gone or damaged; also when a name is looked up that it lacks.
        """
        return finished.arrays(self.folder)

    @cached_property
    def fabric(self) -> Fabric:
        """What computes: one device, or the many processes of torchrun.

        Raises:
            CubsError: the run began on a device that this machine lacks.
        """
        here, begun_on = machine.device(), self["device"]
        if begun_on not in (here, "cpu") and not self.finished:
            raise CubsError(f"run_dir {self.folder.name} began on {begun_on}: go on where there is "
                            "one.")  # fmt: skip
        if self.finished:
            return processes.fabric(self.task, here, machine.precision(here))
        return processes.fabric(self.task, begun_on, self["precision"])

    def recipe(self, fit: str) -> Recipe:
        """Return the recipe of a fit, as the run began with it, without switches that are gone."""
        saved = self["recipes"][fit].items()
        return Recipe(**{name: value for name, value in saved if name in Recipe.__annotations__})

    def checkpoint(self, fit: str = "", name: str = "best") -> Path:
        """Return where a fit's `best` or `last` checkpoint is; without a fit, the run's."""
        return self.folder / "checkpoints" / fit / f"{name}.ckpt"

    def figure(self, name: str) -> Path:
        """Return where the picture `name` is kept."""
        return self.folder / "figures" / f"{name}.png"

    def earlier(self, task: str) -> tuple[Earlier | None, str]:
        """Return an earlier notebook's run, or None and why; see `finished.earlier`.

        For T4, T3's is the one of the fashion asked for.
        """
        of_fashion = self.task == "T4" and task == "T3"
        fashion = self.asked["fashion"] if of_fashion else "best"
        return finished.earlier(self.folder, self.resolved, task, fashion)

    def history(self) -> list[dict]:
        """Return the rows of `history.csv`: numbers as numbers, blanks left out.

        Raises:
            CubsError: the file is damaged.
        """
        path = self.folder / "history.csv"
        try:
            return from_csv(path.read_text()) if path.exists() else []
        except (ValueError, OSError):
            raise CubsError(f"{self.folder.name}/history.csv cannot be read: restore it, or ask "
                            "for restart=True.") from None  # fmt: skip

    def write_history(self, fit: str, rows: list[dict]) -> None:
        """Put `rows`, one an epoch, in place of the fit's rows in `history.csv`."""
        others = [row for row in self.history() if row["fit"] != fit]
        self.write("history.csv", to_csv(others + [{"fit": fit} | row for row in rows]))

    def epochs(self, fit: str) -> list[dict]:
        """Return the rows of `history` of a fit that was trained.

        Raises:
            CubsError: there is none.
        """
        rows = [row for row in self.history() if row["fit"] == fit]
        if not rows:
            raise CubsError(f"{self.folder.name}/history.csv has no epoch of {fit}: restore it, or "
                            "ask for restart=True.")  # fmt: skip
        return rows

    def best(self, fit: str) -> dict:
        """Return the row of `history` whose weights a fit reports."""
        return best_row(self.epochs(fit))

    def best_fit(self) -> str:
        """Return the fit with the best val score; the first of equals."""
        return best_fit([row for fit in self["recipes"] for row in self.epochs(fit)])

    def release(self) -> None:
        """Free the run's lock for another process."""
        self._held.close()

    def write(self, name: str, content: str | dict) -> None:
        """Write one text file of the run, whole or not at all; a dict as JSON.

        Of several processes the first alone writes.
        """
        if processes.rank():
            return
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
        self.fabric.barrier()  # no process still asks whether the run is finished
        if not processes.rank():
            with whole(self.folder / "arrays.npz") as draft, open(draft, "wb") as file:
                np.savez_compressed(file, **arrays)
            with whole(self.checkpoint()) as draft:
                shutil.copyfile(self.checkpoint(fit), draft)
        history = self.history()
        timed = self["dataset"] == "real" and self["preset"] != "sample"
        timed &= self["device"] == "cpu"
        record = {
            "schema": finished.SCHEMA,
            "task": self.task,
            **{name: self[name] for name in ("dataset", "protocol", "seed", "data_fingerprint")},
            "settings": self.resolved | ({"fashion": fit} if self.task == "T3" else {}),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: self[name] for name in ("commit", "dirty") if name in self.resolved},
            "hardware": machine.hardware(self["device"]),
            **({"pace": machine.pace()} if timed else {}),
            "versions": machine.versions(),
            "num_parameters": num_parameters,
            "seconds": round(sum(row["seconds"] for row in history), 1),
            "cpu_seconds": round(sum(row.get("cpu_seconds", row["seconds"]) for row in history), 1),
        }
        self.write("metrics.json", record | scores)
        self.fabric.barrier()  # all may read the files
        return record | scores


def start(task: str, namespace: dict, splits: Sequence[PackedImages | None] = ()) -> Run:
    """Check what was asked, find or make the data, and open the run's folder.

    This is a notebook's first call into the library: whatever is wrong is said here, before any
    long work and with earlier results untouched. Of several processes the first opens the folder,
    and alone writes to it; the others read what it began with.

    Args:
        task: `T1` … `T4`.
        namespace: the notebook's `globals()`, which hold the parameters and the cells' texts.
        splits: train, val (T4: or None) and test of one's own, in place of those on disk.

    Raises:
        CubsError: a parameter, the data, the folder or the code is not as it must be.
    """
    asked = parameters.check(task, parameters.given(task, namespace))
    machine.refuse_edited_sources()
    folder = locate(task, asked)
    own = folder.with_name(f".{folder.name}.lock")
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        with processes.first_alone(task), ExitStack() as held:  # refused: no lock, no empty folder
            if processes.rank():
                return _open(task, asked | {"restart": False}, folder, splits)
            held.callback(_remove_empty, made)
            held.enter_context(lock(own, f"run_dir {folder.name} is in use by another process: "
                                         "wait for it or name another."))  # fmt: skip
            held.callback(own.unlink, missing_ok=True)
            run = _open(task, asked, folder, splits)
            run._held = held.pop_all()
    except PermissionError as error:
        raise CubsError(f"{error.filename} is closed to you: make it readable, or name another "
                        "data_root or run_dir.") from error  # fmt: skip
    return run


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not there, or holds something
            folder.rmdir()


def _open(task: str, asked: dict, folder: Path, splits: Sequence) -> Run:
    """Open the run in `folder`, which is locked: the one on file, or a new one."""
    saved = on_file(task, folder, asked)
    if not processes.rank():
        tidy(folder)
    elif saved is None:
        raise CubsError(f"process {processes.rank()} does not see run_dir {folder.name}: all "
                        "machines must share the project's folder.")  # fmt: skip
    begun = saved is not None and not asked["restart"]
    data_root = machine.project_root() / asked["data_root"]
    if splits:
        kind, data = settle.own_data(task, asked, splits), None
    else:
        kind = saved["dataset"] if begun else asked["dataset"]
        kind, data = settle.find_data(task, data_root, kind)
    resolved = saved if begun else settle.settle(task, asked, kind, folder)
    splits = splits or settle.open_data(task, data, asked, resolved["image_size"])
    described = settle.describe(splits[0], splits[2], kind, asked["limit_classes"])
    resolved = json.loads(json.dumps(described | resolved))  # as it will be read back
    if task == "T4" and not begun:
        resolved |= finished.stage_taken(folder, resolved)
    run = Run(task, folder, asked, resolved, *splits)
    for fit in () if run.finished else run["recipes"]:
        processes.refuse_uneven(run.recipe(fit).batch_size)
    if begun:
        _refuse_to_go_on(run, described["data_fingerprint"])
        return run
    if saved is not None:
        set_aside(folder)
    begun_with = {"asked": parameters.compared(asked), "resolved": run.resolved}
    run.write("settings.json", begun_with | {"fingerprint": fingerprint(json.dumps(begun_with))})
    return run


def _refuse_to_go_on(run: Run, data_fingerprint: str) -> None:
    """Refuse to show a result for other images, or to continue by other code."""
    if data_fingerprint != run["data_fingerprint"]:
        raise CubsError(
            f"the data under data_root differ from those that run_dir {run.folder.name} began "
            "with: restore them, name another run_dir, or ask for restart=True."
        )
    if run.other_sources and not run.finished:
        raise CubsError(
            f"run_dir {run.folder.name} began with another cubslib/{run.other_sources[0]}.py: "
            "restore it, name another run_dir, or ask for restart=True."
        )
