"""A finished run as its page and the index tell it: numbers, errors and sentences of its record."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cubslib import CubsError
from cubslib.runs import parameters
from cubslib.runs.history import from_csv

QUESTIONS = {
    "T1": "How far does a small network of our own get on Tiny ImageNet?",
    "T2": "What does ResNet-18 make of the same data and training?",
    "T3": "Do the two CUBS attention blocks help it, and joined in which fashion?",
    "T4": "Does that network find cars of models never seen in training?",
}
STAGES = {"classification": "before", "embedding": "after"}  # the second stage of training


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
        return kind, len(cut), -val, _reversed(self.record["finished"])


def _reversed(time: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in time)


def entry(folder: Path, record: dict) -> Entry:
    """Read what the pages need of a finished run.

    Raises:
        CubsError: its record or its history lacks something.
    """
    try:
        history = from_csv((folder / "history.csv").read_text())
        found = Entry(folder, record, history, _changed(folder, record), *_counts(folder))
        numbers = [found.headline, record["seconds"], record["num_parameters"], record["seed"]]
        numbers += [value for _, values in table(found) for value in values]
        texts = [record[key] for key in ("protocol", "hardware", "finished", "dataset")]
        texts += record["versions"]
        good = history and np.isfinite(np.array(numbers, float)).all() and "" not in texts
        good = good and all(isinstance(text, str) for text in texts) and found.order
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
    default = parameters.defaults(record["task"])
    return {name: value for name, value in asked.items() if value != default.get(name)}


def _counts(folder: Path) -> tuple[int, int]:
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            labels = file["labels"]
    except Exception:  # many kinds for what is no such file
        return 0, 0
    return len(labels), len(np.unique(labels))


def table(found: Entry) -> list[tuple[str, list[float]]]:
    """Return the headline table: rows of (what was scored, fractions under `columns`)."""
    if found.task == "T4":
        return [(name, [found.record["recall"][stage][k] for k in ("1", "2", "4", "8")])
                for stage, name in STAGES.items()]  # fmt: skip
    rows = [(split, found.record[split]) for split in ("test", "val")]
    rows += [(f"val, {name}", row) for name, row in found.record.get("fashions", {}).items()]
    return [(name, [row["top1"], row["top5"]]) for name, row in rows]


def columns(found: Entry) -> tuple[str, ...]:
    """Return the heads of the columns of `table`."""
    ks = ("R@1", "R@2", "R@4", "R@8")
    return ks if found.task == "T4" else ("top-1", "top-5")


def percent(fraction: float) -> str:
    r"""Return a fraction in [0, 1] as it is printed.

    >>> percent(0.1234)
    '12.3\xa0%'
    """
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def signed(points: float) -> str:
    """Return a difference with its sign, a minus that is one.

    >>> signed(-0.25), signed(0.0)
    ('−0.2', '+0.0')
    """
    return f"{points:+.1f}".replace("-", "−")


def answer(found: Entry) -> str:
    """Answer the task's question in a sentence, whatever the numbers are."""
    error = found.error(found.headline)
    sure = f" (standard error {100 * error:.1f} points)" if error is not None else ""
    of = (
        f"Of {found.images:,} test images of {found.classes} classes" if found.images else "On test"
    )
    if found.task != "T4":
        return f"{of}, {percent(found.headline)} are classified correctly{sure}."
    before = found.record["recall"]["classification"]["1"]
    change = 100 * (found.headline - before)
    text = (
        f"{of}, the nearest other image is of the same class for {percent(before)} before and "
        f"{percent(found.headline)}{sure} after the second stage: {signed(change)} points"
    )
    if error is None:
        return f"{text}."
    clear = 200 * (error**2 + found.error(before) ** 2) ** 0.5
    more = "more" if abs(change) > clear else "no more"
    return f"{text}, {more} than two standard errors of the difference ({clear:.1f})."


def seeds(found: list[Entry]) -> list[dict]:
    """Gather runs that differ in the seed alone: mean and standard deviation of each group."""
    groups: dict[str, list[Entry]] = {}
    for one in found:
        settings = {name: value for name, value in one.changed.items() if name != "seed"}
        keys = [one.record[key] for key in ("data_fingerprint", "task", "protocol")]
        keys += [one.record["settings"].get(key) for key in ("preset", "epochs", "sources")]
        groups.setdefault(json.dumps([settings, keys], sort_keys=True), []).append(one)
    rows = []
    for group in groups.values():
        if len({one.record["seed"] for one in group}) > 1:
            values = np.array([one.headline for one in group])
            rows.append({
                "first": group[0], "count": len(values), "measure": group[0].measure,
                "mean": values.mean(), "deviation": values.std(ddof=1),
                "seeds": ", ".join(str(one.record["seed"]) for one in group),
            })  # fmt: skip
    return rows
