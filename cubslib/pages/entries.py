"""A finished run as its page and the index tell it: numbers, errors and sentences of its record."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cubslib import CubsError, controls, metrics
from cubslib.losses import CONTROL
from cubslib.runs import finished, parameters
from cubslib.runs.history import from_csv

QUESTIONS = {
    "T1": "How far does a small network of our own get on Tiny ImageNet?",
    "T2": "What does ResNet-18 make of the same data and training?",
    "T3": "Do the two CUBS attention blocks help it, and joined in which fashion?",
    "T4": "Does that network find cars of models never seen in training?",
}
# T4's fits, before and after the second stage of training
STAGES = dict(zip(controls.STAGES, ("before", "after"), strict=True))
# What may differ between runs that differ in the seed alone; earlier runs are of the same seed.
APART = (
    *("seed", "commit", "dirty", "pace", "threads", "init_from", "init_fingerprint"),
    *("classification_from", "classification_fingerprint"),
)


@dataclass(frozen=True)
class Entry:
    """A finished run, read from its folder.

    Attributes:
        folder: where it is.
        record: the content of `metrics.json`.
        history: the rows of `history.csv`.
        changed: the parameters that are not at their default.
        images: how many test images it was scored on; 0 where `arrays.npz` does not say.
        classes: how many classes these have; 0 as well.
    """

    folder: Path
    record: dict
    history: list[dict]
    changed: dict[str, object]
    images: int
    classes: int

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.folder.name

    @property
    def task(self) -> str:
        """`T1` … `T4`."""
        return self.record["task"]

    @property
    def sample(self) -> bool:
        """Whether it was trained on pictures drawn by the library."""
        return self.record["dataset"] == "sample"

    @property
    def data(self) -> str:
        """The data set and how much of it."""
        name = "Cars196" if self.task == "T4" else "Tiny ImageNet"
        name = self.record["settings"].get("title") or name
        return f"{name}: {self.record['protocol']}"

    @property
    def headline(self) -> float:
        """The number that the run is told by: top-1 on test, or the final Recall@1."""
        if self.task == "T4":
            return self.record["recall"]["embedding"]["1"]
        return self.record["test"]["top1"]

    @property
    def measure(self) -> str:
        """What `headline` is."""
        return "Recall@1" if self.task == "T4" else "top-1 on test"

    @property
    def minutes(self) -> float:
        """How long it trained."""
        return finished.minutes(self.record, self.record["settings"])

    def error(self, fraction: float) -> float | None:
        """Return the standard error of a share of the test images; None if none are counted."""
        return (fraction * (1 - fraction) / self.images) ** 0.5 if self.images else None

    @property
    def order(self) -> tuple:
        """What heads its task: whole official data first, by val where there is one, then new.

        Test chooses nothing here either.
        """
        cut = [name for name in ("limit_classes", "val_classes") if self.changed.get(name)]
        val = self.record["val"]["top1"] if self.task != "T4" else -len(self.changed)
        kind = {"own": 1, "sample": 2}.get(self.record["dataset"], 0)
        when = datetime.fromisoformat(self.record["finished"]).timestamp()
        return kind, len(cut), -val, -when


def entry(folder: Path, record: dict) -> Entry:
    """Read what the pages need of a finished run, whose record `finished.read` has checked.

    Raises:
        CubsError: its record or its history lacks something.
    """
    try:
        history = from_csv((folder / "history.csv").read_text())
        found = Entry(folder, record, history, _changed(folder, record), *_counts(folder))
        numbers = [found.headline, found.minutes, *(x for _, row in table(found)[1] for x in row)]
        texts = [record[key] for key in ("protocol", "hardware", "finished", "dataset")]
        good = history and np.isfinite(np.array(numbers, float)).all() and found.order
        good = good and "" not in [*texts, *record["versions"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CubsError(f"{folder.name} cannot be shown: its record or history.csv lacks "
                        f"something ({error}); restore them.") from None  # fmt: skip
    if not good:
        raise CubsError(f"{folder.name} cannot be shown: its record holds no numbers; restore it.")
    return found


def _changed(folder: Path, record: dict) -> dict[str, object]:
    try:
        asked = json.loads((folder / "settings.json").read_text())["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        return {"seed": record["seed"]} if record["seed"] else {}
    return parameters.changed(record["task"], asked)


def _counts(folder: Path) -> tuple[int, int]:
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            labels = file["labels"]  # alone: the rest is large
    except Exception:  # many kinds for what is no such file
        return 0, 0
    return len(labels), len(np.unique(labels))


def table(found: Entry) -> tuple[tuple[str, ...], list[tuple[str, list[float]]]]:
    """Return the headline table: its columns, and rows of (what was scored, fractions)."""
    record = found.record
    if found.task == "T4":
        ks = ("1", "2", "4", "8")
        rows = [(name, [record["recall"][fit][k] for k in ks]) for fit, name in STAGES.items()]
        return tuple(f"R@{k}" for k in ks), rows
    names = {"test": "test", "test_mirrored": "test, with mirror images", "val": "val"}
    rows = [(name, record[split]) for split, name in names.items() if split in record]
    rows += [(f"val, {name}", row) for name, row in record.get("fashions", {}).items()]
    return ("top-1", "top-5"), [(name, [row["top1"], row["top5"]]) for name, row in rows]


def percent(fraction: float) -> str:
    r"""Return a fraction in [0, 1] as it is printed.

    >>> percent(0.1234)
    '12.3\xa0%'
    """
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def paired(one: NDArray, other: NDArray) -> tuple[float, float]:
    """Return the difference of two shares of hits on the same images (N,), and its error."""
    difference = one.astype(float) - other.astype(float)
    return difference.mean().item(), difference.std().item() / len(difference) ** 0.5


def told(gain: float, error: float) -> str:
    """Say a difference of fractions in points, and how it stands to its standard error.

    >>> told(-0.2, 0.01)
    '−20.0 points, more than two standard errors (2.0) of the difference'
    """
    more = "more" if abs(gain) > 2 * error else "no more"
    return f"{_signed(gain)}, {more} than two standard errors ({200 * error:.1f}) of the difference"


def _signed(gain: float) -> str:
    return f"{100 * gain:+.1f} points".replace("-", "−")


def answer(found: Entry) -> str:
    """Answer the task's question in a sentence, whatever the numbers are."""
    error = found.error(found.headline)
    sure = f"standard error {100 * error:.1f} points, " if error is not None else ""
    of = f"Of {found.images:,} test images of {found.classes} classes" if sure else "On test"
    if found.task == "T4":
        return f"{of}, {_retrieved(found, sure)}."
    sure += f"chance {percent(1 / found.classes)}" if sure else ""
    return f"{of}, {percent(found.headline)} are classified correctly" + (
        f" ({sure})." if sure else "."
    )


def _retrieved(found: Entry, sure: str) -> str:
    """Say what the second stage changed, and chance and errors where the arrays tell them."""
    before, after = (found.record["recall"][stage]["1"] for stage in STAGES)
    try:
        arrays = finished.arrays(found.folder)
        labels = torch.from_numpy(arrays["labels"])
        after_hits, before_hits = (
            metrics.nearer_negatives(torch.from_numpy(arrays[f"embeddings_{stage}"]), labels) < 1
            for stage in reversed(STAGES)
        )
        _, error = paired(after_hits.numpy(), before_hits.numpy())
        sure = f" ({sure}chance {percent(metrics.chance(labels, (1,))[1])})"
        change = told(after - before, error)
    except (CubsError, TypeError, ValueError, RuntimeError):  # gone, or no embeddings
        sure, change = "", _signed(after - before)
    control = found.record["settings"].get("mining") == CONTROL
    last = "features after more cross-entropy" if control else "embedding"
    return (
        f"the nearest other image is of the same class for {percent(before)} by the classifier's "
        f"features and for {percent(after)} by the {last}{sure}: {change}"
    )


def gathered(runs: Iterable, told: Callable[..., tuple[dict, dict]]) -> list[list]:
    """Gather runs that differ in the seed alone; another one of an equal seed is apart.

    Args:
        runs: in whatever form, newest first.
        told: returns a run's record, and what of its parameters was asked.

    Returns:
        Groups in the order of their newest run, each by seed.
    """
    groups: dict[tuple, list] = {}
    seen: Counter = Counter()
    for run in runs:
        record, asked = told(run)
        settings = {name: x for name, x in record["settings"].items() if name not in APART}
        asked = {name: x for name, x in asked.items() if name != "seed"}
        keys = [record[name] for name in ("task", "protocol", "data_fingerprint")]
        keys.append(record["settings"].get("init_from") in (None, "random"))
        key = json.dumps([keys, settings, asked], sort_keys=True)
        groups.setdefault((key, seen[key, record["seed"]]), []).append(run)
        seen[key, record["seed"]] += 1
    return [sorted(group, key=lambda run: told(run)[0]["seed"]) for group in groups.values()]


def seeds(found: list[Entry]) -> list[dict]:
    """Return mean and standard deviation of each group of several runs; see `gathered`."""
    newest = sorted(found, key=lambda one: one.record["finished"], reverse=True)
    rows = []
    for group in gathered(newest, lambda one: (one.record, one.changed)):
        if len(group) > 1:
            values = np.array([one.headline for one in group])
            rows.append({
                "runs": group, "count": len(values), "task": group[0].task,
                "measure": group[0].measure, "mean": values.mean(), "deviation": values.std(ddof=1),
                "seeds": ", ".join(str(one.record["seed"]) for one in group),
            })  # fmt: skip
    return rows
