"""Rows of values as a table: HTML in a notebook and a page, plain text in a terminal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from cubslib.runs import finished
from cubslib.runs.history import from_csv

SAMPLE = "SAMPLE"
COLUMNS = (
    *("Task", "Stage", "Test top-1 %", "Test top-5 %", "Mirrored test top-1 %", "Val top-1 %"),
    *("Recall @1 %", "Recall @2 %", "Recall @4 %", "Recall @8 %"),
    *("Data", "Run", "Fashion", "Weights from", "Epochs", "Minutes", "Parameters", "Seed"),
)

SCORES = (  # older records have no mirrored ones
    *(("test top-1", "test", "top1"), ("test top-5", "test", "top5")),
    *(("mirrored test top-1", "test_mirrored", "top1"), ("val top-1", "val", "top1")),
)


@dataclass(frozen=True)
class Table:
    """Rows of values under the names of their columns; HTML in a notebook, plain in a terminal.

    An empty cell shows a dash; a column without any content is left out.
    """

    rows: Sequence[Mapping[str, object]]

    def grid(self) -> list[list[str]]:
        """Return the lines of the table, the names of the columns first."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = [{name: str(row.get(name, "")) for name in names} for row in self.rows]
        names = [name for name in names if any(row[name] for row in text)]
        return [names, *([row[name] or "–" for name in names] for row in text)]

    def _repr_html_(self) -> str:
        """Return the table as HTML."""
        names, *rows = self.grid()
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        lines = ["".join(f"<td>{_cell(cell)}</td>" for cell in row) for row in rows]
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def __str__(self) -> str:
        """Return the table as text, its cells broken at spaces after 18 characters."""
        cells = [[wrap(cell, 18, break_long_words=False) for cell in line] for line in self.grid()]
        widths = [max(map(len, sum(column, []))) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            for parts in zip_longest(*line, fillvalue=""):
                lines.append("  ".join(map(str.ljust, parts, widths)).rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def table(found: Iterable[tuple]) -> Table:
    """Tabulate runs, T4 by stage: pairs of folder and record as `finished.find` gives them.

    A third part, where there is one, says in what a run differs from the one that it is beside.
    """
    return Table(
        [
            row | {"Differs in": ", ".join(differs)}
            for folder, record, *differs in found
            for row in _rows(folder, record)
        ]
    )


def _rows(folder: Path, record: dict) -> list[dict[str, str]]:
    settings = record["settings"]
    name = settings.get("title", "")
    if record["dataset"] == "sample":
        name = f"{SAMPLE} in place of {'Cars196' if record['task'] == 'T4' else 'Tiny ImageNet'}"
    row = dict.fromkeys(COLUMNS, "") | {
        "Task": record["task"],
        "Run": folder.name,
        "Data": f"{name}: {record['protocol']}",
        "Fashion": settings.get("fashion", ""),
        "Weights from": settings.get("init_from", ""),
        "Parameters": f"{record['num_parameters'] / 1e6:.2f} M",
        "Seed": str(record["seed"]),
    }
    trained, rows = _epochs_and_minutes(folder, settings), []
    for fit, shares in scores(record).items():
        shown = {f"{name} %".capitalize(): f"{100 * share:.1f}" for name, share in shares.items()}
        stage = fit if record["task"] == "T4" else ""
        rows.append(row | {"Stage": stage} | shown | trained.get(fit, {}))
    return rows


def _epochs_and_minutes(folder: Path, settings: dict) -> dict[str, dict[str, str]]:
    """Return each fit's epochs and minutes of training; nothing where the history is gone."""
    try:
        fits = by_fit(from_csv((folder / "history.csv").read_text("utf-8")))
    except (OSError, ValueError):
        return {}
    found = {}
    for fit, rows in fits.items():
        minutes = sum(finished.minutes({"seconds": 0} | row, settings) for row in rows)
        found[fit] = {"Epochs": str(len(rows)), "Minutes": f"{minutes:.1f}"}
    return found


def by_fit(history: Iterable[dict]) -> dict[str, list[dict]]:
    """Return the rows of a history by their fit, in order."""
    fits: dict[str, list[dict]] = {}
    for row in history:
        fits.setdefault(row["fit"], []).append(row)
    return fits


def scores(record: dict) -> dict[str, dict[str, float]]:
    """Return fit → score → share: of both fits of T4, of the one that another task reports."""
    if record["task"] == "T4":
        stages = record["recall"].items()
        return {fit: {f"recall @{k}": x for k, x in row.items()} for fit, row in stages}
    shares = {name: record[split][top] for name, split, top in SCORES if split in record}
    return {record["settings"].get("fashion") or "classification": shares}


def _cell(text: str) -> str:
    shown = re.sub(r",(?=[^\s\d])", ",<wbr>", escape(text))  # runs have long names
    return re.sub(rf"^{SAMPLE}\b", f"<mark>{SAMPLE}</mark>", shown)
