"""Finished runs, read back: records, checkpoints, and which run is an earlier notebook's."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cubslib import CubsError, machine, recipes
from cubslib.disk import fingerprint
from cubslib.runs.parameters import TASKS, differences

SCHEMA = 2
KINDS = {
    **{name: str for name in ("dataset", "protocol", "finished", "hardware", "data_fingerprint")},
    **{"settings": dict, "versions": dict, "seed": int, "num_parameters": int},
    "seconds": int | float,
}
# What the weights after T4's stage 1 depend on, beside its recipe, its first weights and the code;
# the modules that it does not need: what scores or trains nothing but stage 2.
STAGE_ONE = (
    *("seed", "fashion", "gate_bias", "stem", "device", "precision", "dataset", "image_size"),
    *("data_fingerprint", "crop", "val_classes", "limit_classes", "preset", "processes", "threads"),
)
STAGE_TWO_ONLY = ("losses", "metrics", "controls")
REMARKED = ("seed", "lr", "batch_size")  # may differ between runs that are compared


def read(folder: Path) -> dict:
    """Return the record of the finished run in `folder`: the content of `metrics.json`.

    Raises:
        CubsError: there is none, or it is damaged or not of this version.
    """
    path = Path(folder) / "metrics.json"
    schema, good = None, False
    try:
        record = json.loads(path.read_text())
        schema = record["schema"]
        good = schema == SCHEMA and _complete(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if schema not in (None, SCHEMA):
        raise CubsError(f"{path.parent.name}/metrics.json has schema {schema!r}, this version of "
                        f"cubslib reads {SCHEMA}: use the one that wrote it.")  # fmt: skip
    if not good:
        raise CubsError(f"{path.parent.name}/metrics.json is no record of a finished run: "
                        "restore it, or move its folder away.")  # fmt: skip
    return record


def _complete(record: dict) -> bool:
    """Say whether a record has all that tables and later runs read from it."""
    if record["task"] == "T4":
        numbers = [record["recall"][stage]["1"] for stage, *_ in TASKS["T4"].fits]
        numbers += [x for row in record["recall"].values() for x in row.values()]
    else:
        numbers = [record[split][f"top{k}"] for split in ("val", "test") for k in (1, 5)]
        numbers.append(record["settings"]["epochs"])
    texts = [record["settings"].get(name, "") for name in ("fashion", "init_from", "title")]
    good = record["task"] in TASKS and all(isinstance(x, int | float) for x in numbers)
    good = good and all(isinstance(x, str) for x in texts)
    good = good and all(isinstance(record[name], kind) for name, kind in KINDS.items())
    return good and all(abs(record[name]) < 2**63 for name in ("seed", "num_parameters", "seconds"))


def find(root: Path) -> list[tuple[Path, dict]]:
    """Return the finished runs directly under `root` with their records, newest first.

    Folders set aside (`~n`) are left out; a record that cannot be read is named and skipped.
    """
    found = []
    for path in sorted(root.glob("*/metrics.json")):
        if not set_aside(path.parent):
            try:
                found.append((path.parent, read(path.parent)))
            except CubsError as error:
                print(f"Skipped: {error}", file=sys.stderr)
    return sorted(found, key=lambda run: run[1]["finished"], reverse=True)


def set_aside(folder: Path) -> bool:
    """Say whether a run's folder was renamed to `NAME~n` to make room for a new one."""
    _, tilde, number = folder.name.rpartition("~")
    return bool(tilde) and number.isdigit()


@dataclass(frozen=True)
class Earlier:
    """An earlier notebook's run.

    Attributes:
        folder: where it is.
        record: the content of its `metrics.json`.
        remarks: what differs from the run that asks, `name=value` of the earlier one.
    """

    folder: Path
    record: dict
    remarks: tuple[str, ...]


def earlier(
    folder: Path, settled: dict, task: str, fashion: str = "best"
) -> tuple[Earlier | None, str]:
    """Return the earlier notebook's run for the run in `folder`.

    It is the newest finished sibling with the same kind of data, preset and stem, at least the
    recipe's epochs (or the asking run's own), the same `limit_classes` (for T4: 0) and, between
    T1–T3, the same images; of the same seed if there is one.

    Args:
        folder: the run that asks.
        settled: what it settled.
        task: the notebook sought, `T1` … `T3`.
        fashion: the one that it reports; `best` for any.

    Returns:
        The run or None; and, where there is none, a sentence about the nearest.
    """
    siblings = [run for run in find(folder.parent) if run[0] != folder and run[1]["task"] == task]
    wrong = [unfit(task, record["settings"], settled, fashion) for _, record in siblings]
    same_seed = [record["seed"] == settled["seed"] for _, record in siblings]  # newest first
    order = sorted(range(len(siblings)), key=lambda i: (len(wrong[i]), not same_seed[i]))
    if not order:
        return None, f"There is no finished run of {task} beside this one."
    sibling, record = siblings[order[0]]
    if wrong[order[0]]:
        what = ", ".join(wrong[order[0]])
        return None, f"No finished {task} fits; the nearest, {sibling.name}, has {what}."
    # T4 has a rate and a batch a stage: nothing to compare with those of T1–T3
    names = [name for name in REMARKED if not isinstance(settled[name], dict)]
    remarks = differences(settled, record["settings"], names)
    remarks += ["other source"] * (settled["sources"] != record["settings"].get("sources"))
    return Earlier(sibling, record, tuple(remarks)), ""


def unfit(task: str, theirs: dict, settled: dict, fashion: str) -> list[str]:
    """Say in what a run of `task`, T1–T3, differs that keeps it from being the one sought."""
    retrieval = settled["task"] == "T4"
    wanted = {name: settled[name] for name in ("dataset", "preset", "stem")}
    wanted["limit_classes"] = 0 if retrieval else settled["limit_classes"]
    if not retrieval:
        wanted["data_fingerprint"] = settled["data_fingerprint"]
    if fashion != "best":
        wanted["fashion"] = fashion
    unfit = differences(wanted, theirs, wanted)
    _, kind, _ = TASKS[task].fits[0]
    enough = recipes.recipe(kind, settled["preset"]).epochs
    if not retrieval:
        enough = min(enough, settled["epochs"])
    if theirs["epochs"] < enough:
        unfit.append(f"epochs={theirs['epochs']!r}")
    return unfit


def sharing(folder: Path, settled: dict) -> list[tuple[Path, dict]]:
    """Return the finished T4 runs beside `folder` that have all of stage 1 in common with it.

    That is its recipe, first weights, seed and data, processes and threads, and all modules but
    those of the loss and of the measures that did not choose its epoch; newest first.

    Args:
        folder: of the run that asks, which is left out.
        settled: what it settled, as read from its file.
    """
    wanted = _stage_one(settled)
    return [run for run in find(folder.parent) if run[0] != folder and run[1]["task"] == "T4"
            and _stage_one(run[1]["settings"]) == wanted != ()]  # fmt: skip


def _stage_one(settled: dict) -> tuple:
    try:
        sources, chosen = settled["sources"].items(), settled["val_classes"]
        chosen = chosen or settled["dataset"] == "own"  # by what `metrics` found on val
        left_out = set(STAGE_TWO_ONLY) - ({"metrics"} if chosen else set())
        return (
            [settled.get(name) for name in STAGE_ONE],
            settled["recipes"]["classification"],
            settled.get("init_fingerprint", "random"),
            {name: mark for name, mark in sources if name not in left_out},
        )
    except (KeyError, TypeError, AttributeError):  # of an older version: like no other
        return ()


def stage_taken(folder: Path, settled: dict) -> dict[str, str]:
    """Return whose stage 1 a new T4 run takes, `classification_from`, and its fingerprint.

    Nothing where no run in `sharing`, made on hardware as this, still holds its fit's checkpoints.
    """
    here = machine.hardware(settled["device"])
    for sibling, record in sharing(folder, settled):
        kept = [sibling / "checkpoints" / "classification" / f"{x}.ckpt" for x in ("best", "last")]
        if record["hardware"] == here and all(path.is_file() for path in kept):
            mark = fingerprint(kept[0].read_bytes())
            return {"classification_from": sibling.name, "classification_fingerprint": mark}
    return {}


def weights(path: Path) -> Path:
    """Return the reported checkpoint of a run's folder; a file is returned as it is."""
    if not path.is_dir():
        return path
    published = path / "best.ckpt"
    return published if published.exists() else path / "checkpoints" / "best.ckpt"


def home(path: Path) -> Path | None:
    """Return the folder of the run that a folder or checkpoint is of; None where none is near."""
    places, marks = [path, *path.absolute().parents[:3]], ("metrics.json", "settings.json")
    return next((place for place in places if any((place / m).is_file() for m in marks)), None)


def of_sample(path: Path) -> bool:
    """Say whether the run of a folder or checkpoint, finished or not, is known to be a sample's."""
    folder = home(path)
    if folder is None:
        return False
    if (folder / "metrics.json").is_file():
        return read(folder)["dataset"] == "sample"
    try:
        return json.loads((folder / "settings.json").read_text())["resolved"]["dataset"] == "sample"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checkpoint(path: Path) -> dict:
    """Return a reported checkpoint, `state_dict`, `config`, `classes` and `image_size`.

    Weights that were published in half precision become float32 again.

    Raises:
        CubsError: the file is missing, damaged or no checkpoint of ours.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CubsError(f"{path} is missing: name a finished run or its checkpoint.") from None
    except Exception as error:  # torch raises many kinds for what is no checkpoint
        raise CubsError(f"{path} is no checkpoint that can be read: give a best.ckpt.") from error
    if not isinstance(saved, dict) or not {"state_dict", "config"} <= saved.keys():
        raise CubsError(f"{path} is no checkpoint of this library: give a best.ckpt.")
    if isinstance(saved["state_dict"], dict):
        saved["state_dict"] |= {key: x.float() for key, x in saved["state_dict"].items()
                                if getattr(x, "dtype", None) == torch.float16}  # fmt: skip
    return saved


def minutes(timed: Mapping, settings: Mapping) -> float:
    """Return the minutes, of what `timed_by` says, of a record or the sum of a history's rows.

    >>> timed = {"seconds": 900, "cpu_seconds": 600}
    >>> [minutes(timed, {"device": "cpu", "threads": threads}) for threads in (1, 2)]
    [10.0, 15.0]
    """
    seconds = timed["seconds"]
    if timed_by(settings) == "processor time":
        seconds = min(seconds, timed.get("cpu_seconds", seconds))
    return seconds / 60


def timed_by(settings: Mapping) -> str:
    """Return what minutes are of: `training`, or one thread's `processor time`: it may share."""
    alone = settings.get("device"), settings.get("threads"), settings.get("processes", 1)
    return "processor time" if alone == ("cpu", 1, 1) else "training"


def processor(record: Mapping) -> str:
    """Return what a record's run was computed on: threads of a CPU, bf16, several processes."""
    settings, told = record["settings"], record["hardware"]
    threads, processes = settings.get("threads"), settings.get("processes", 1)
    if settings.get("device") == "cpu" and threads:
        told += f", {threads} thread{'s'[: threads != 1]}"
        told += ", bf16" if settings.get("precision") == "bf16-mixed" else ""
    return told if processes == 1 else f"{told}, {processes} processes"


class _Arrays(dict):
    """Arrays by name; one that is missing is said to be."""

    def __missing__(self, name: str):
        raise CubsError(f"arrays.npz holds no {name}: restore it, or ask for restart=True.")


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return what a finished run's tables and pictures were made from: its `arrays.npz`.

    Raises:
        CubsError: the file is gone or damaged; also when a name is looked up that it lacks.
    """
    try:
        with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as file:
            return _Arrays(file)
    except Exception as error:  # many kinds for what is no such file
        raise CubsError(f"{Path(folder).name}/arrays.npz cannot be read: restore it, or ask for "
                        "restart=True.") from error  # fmt: skip
