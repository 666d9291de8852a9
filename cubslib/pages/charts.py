"""Histories of many runs → the lines of one chart, for the index."""

from urllib.parse import quote

from cubslib.pages.entries import Entry
from cubslib.runs.history import to_csv

LEFT, RIGHT, TOP, BOTTOM = 56, 700, 12, 262  # of the axes, in the chart's own units
LINES = 12  # that one chart can tell apart


def charts(entries: list[Entry]) -> list[dict]:
    """Return charts of the score on val, where it is one of accuracy, and of the loss.

    Each has its title, its alt text, ticks on both axes (place, text), its lines, and its numbers
    as CSV; a line has its points, marks where these are few, and words.
    """
    found = [_chart(entries, "val_top1", "Val top-1", 100), _chart(entries, "loss", "Loss", 1)]
    return [chart for chart in found if chart]


def _chart(entries: list[Entry], key: str, title: str, scale: float) -> dict:
    rows = [{"run": one.name} | {name: row[name] for name in ("fit", "epoch", key)}
            for one in entries for row in one.history if key in row]  # fmt: skip
    if not rows:
        return {}
    fits: dict[str, list] = {}
    for row in rows:
        points = fits.setdefault(f"{row['run']}, {row['fit']}", [])
        points.append((row["epoch"], scale * row[key]))
    kept = dict(list(fits.items())[:LINES])
    values = [value for points in kept.values() for _, value in points]
    longest = max(epoch for points in kept.values() for epoch, _ in points)
    high = 100.0 if scale == 100 and max(values) > 50 else 1.05 * max(values) or 1.0
    digits, mark, unit = (0, " %", " in %") if scale == 100 else (1, "", "")

    def place(epoch: float, value: float) -> tuple[float, float]:
        across = LEFT + (RIGHT - LEFT) * (epoch - 1) / max(longest - 1, 1)
        return round(across, 1), round(BOTTOM - (BOTTOM - TOP) * max(value, 0) / high, 1)

    lines = []
    for fit, points in kept.items():
        places = [place(*point) for point in points]
        first, last = (f"{points[i][1]:.{digits + 1}f}{mark}" for i in (0, -1))
        lines.append({
            "points": " ".join(f"{x},{y}" for x, y in places),
            "marks": places if len(places) < 40 else [],
            "said": f"{fit}: {first} → {last}",
        })  # fmt: skip
    steps = [high * part / 4 for part in range(5)]
    more = f" The first {LINES} of {len(fits)} are drawn." if len(fits) > LINES else ""
    title = f"{title}{unit} against the epoch"
    return {
        "title": f"{title}{more and '.' + more}",
        "alt": f"{title}. {'; '.join(line['said'] for line in lines)}.{more}",
        "ticks": [(place(1, value)[1], f"{value:.{digits}f}") for value in steps],
        "epochs": [(place(x, 0)[0], str(x)) for x in sorted({1, (1 + longest) // 2, longest})],
        "lines": lines,
        "csv": f"data:text/csv;charset=utf-8,{quote(to_csv(rows))}",
        "file": f"{key}.csv",
    }
