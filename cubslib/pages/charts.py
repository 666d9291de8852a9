"""Histories of many runs → the lines of one chart, for the index."""

import csv
import io
from dataclasses import dataclass
from urllib.parse import quote

from cubslib.pages.entries import Entry

LEFT, RIGHT, TOP, BOTTOM = 56, 700, 12, 262  # of the axes, in the chart's own units
LINES = 12  # that one chart can tell apart


@dataclass(frozen=True)
class Line:
    """One fit of one run: its points in the chart, and what they say."""

    number: int
    points: str
    marks: list[tuple[float, float]]
    said: str


@dataclass(frozen=True)
class Chart:
    """Lines over epochs on one axis, with its ticks (place, text), words and numbers."""

    title: str
    alt: str
    ticks: list[tuple[float, str]]
    epochs: list[tuple[float, str]]
    lines: list[Line]
    csv: str
    file: str


def charts(entries: list[Entry]) -> list[Chart]:
    """Return charts of the score on val, where it is one of accuracy, and of the loss."""
    found = [_chart(entries, "val_top1", "Val top-1", 100), _chart(entries, "loss", "Loss", 1)]
    return [chart for chart in found if chart]


def _chart(entries: list[Entry], key: str, title: str, scale: float) -> Chart | None:
    fits = {(one.name, row["fit"]): [] for one in entries for row in one.history if key in row}
    for one in entries:
        for row in one.history:
            if key in row:
                fits[one.name, row["fit"]].append((row["epoch"], scale * row[key]))
    if not fits:
        return None
    kept = dict(list(fits.items())[:LINES])
    values = [value for points in kept.values() for _, value in points]
    longest = max(max(epoch for epoch, _ in points) for points in kept.values())
    high = 100.0 if scale == 100 and max(values) > 50 else 1.05 * max(values) or 1.0

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = LEFT + (RIGHT - LEFT) * (epoch - 1) / max(longest - 1, 1)
        return round(across, 1), round(BOTTOM - (BOTTOM - TOP) * max(value, 0) / high, 1)

    lines = []
    for number, ((run, fit), points) in enumerate(kept.items()):
        places = [place(*point) for point in points]
        first, last, mark = points[0][1], points[-1][1], " %" if scale == 100 else ""
        digits = 1 if scale == 100 else 2
        said = f"{run}, {fit}: {first:.{digits}f}{mark} → {last:.{digits}f}{mark}"
        marks = places if len(places) < 40 else []
        lines.append(Line(number, " ".join(f"{x},{y}" for x, y in places), marks, said))
    steps = [high * part / 4 for part in range(5)]
    ticks = [(place(1, value)[1], f"{value:.{0 if scale == 100 else 1}f}") for value in steps]
    shown = sorted({1, (1 + longest) // 2, longest})
    more = f" The first {LINES} of {len(fits)} are drawn." if len(fits) > LINES else ""
    title = f"{title}{' in %' if scale == 100 else ''} against the epoch"
    alt = f"{title}. {'; '.join(line.said for line in lines)}.{more}"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", "fit", "epoch", key))
    writer.writerows((*who, epoch, value / scale)
                     for who, points in fits.items() for epoch, value in points)  # fmt: skip
    address = f"data:text/csv;charset=utf-8,{quote(text.getvalue())}"
    epochs = [(place(epoch, 0)[0], str(epoch)) for epoch in shown]
    return Chart(f"{title}{more and '.' + more}", alt, ticks, epochs, lines, address, f"{key}.csv")
