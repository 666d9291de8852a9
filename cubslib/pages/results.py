"""Published runs → the README's tables of results and the picture of their validation curves."""

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cubslib import CubsError, machine
from cubslib.disk import whole
from cubslib.pages import plots
from cubslib.runs import finished, parameters, published
from cubslib.runs.history import best_row, from_csv

START, END = "<!-- results: made by python -m cubslib results -->\n", "<!-- end of results -->\n"
TOLD = ("seed", "dataset", "preset")  # in columns of their own, or always
# What may differ between runs that differ in the seed alone.
APART = {"seed", "commit", "dirty", "pace", "threads", "precision", "init_from", "init_fingerprint"}
Found = tuple[Path, dict]


def remake() -> list[str]:
    """Remake the README's results and the picture of the curves; return the files' names.

    Raises:
        CubsError: the README is missing or has no place for results.
    """
    readme, picture = machine.project_root() / "README.md", published.root() / "curves.png"
    found = finished.find(published.root())
    try:
        text = filled(readme.read_text("utf-8"), found)
    except FileNotFoundError:
        raise CubsError("README.md is not here: call this within the project's folder.") from None
    with whole(readme) as draft:
        draft.write_text(text, "utf-8")
    figure = curves(found)
    if figure is None:
        picture.unlink(missing_ok=True)
        return [readme.name]
    plots.show(figure, picture)
    picture.with_suffix(".csv").unlink(missing_ok=True)  # the histories hold these numbers
    return [readme.name, f"notebooks/results/{picture.name}"]


def filled(readme: str, found: Sequence[Found]) -> str:
    """Return a README's text with the results of published runs between its two markers.

    Raises:
        CubsError: a marker is missing.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise CubsError(f"README.md has no place for results: put back the lines {START.strip()} "
                        f"and {END.strip()}.")  # fmt: skip
    return f"{before}{start}{_results(found)}{end}{after}"


def _results(found: Sequence[Found]) -> str:
    if not found:
        return ""
    groups = _groups(found)
    tables = [
        _table([_recognition(group) for group in groups if group[0][1]["task"] != "T4"]),
        _table([row for group in groups if group[0][1]["task"] == "T4" for row in _stages(group)]),
    ]
    parts = ["## Results", *filter(None, tables), _caption(found)]
    figure = curves(found)
    if figure is not None:
        parts.append(f"![{figure.get_label()}](notebooks/results/curves.png)")
    return "\n\n".join(parts) + "\n\n"


def _groups(found: Sequence[Found]) -> list[list[Found]]:
    """Gather runs that differ in the seed alone, by task and settings, then by seed."""
    groups: dict[str, list[Found]] = {}
    for folder, record in found:
        asked = {name: x for name, x in record.get("asked", {}).items() if name != "seed"}
        settings = {name: x for name, x in record["settings"].items() if name not in APART}
        keys = [record[name] for name in ("task", "protocol", "data_fingerprint")]
        key = json.dumps([keys, settings, asked], sort_keys=True)
        groups.setdefault(key, []).append((folder, record))
    order = [sorted(group, key=lambda run: run[1]["seed"]) for group in groups.values()]
    return sorted(order, key=lambda group: (group[0][1]["task"], group[0][0].name))


def _settings(record: dict) -> str:
    """Return what of a run is not at its default, with what the recipe or val chose."""
    settings, default = record["settings"], parameters.defaults(record["task"])
    told = {"preset": settings["preset"]}
    asked = record.get("asked", {}).items()
    told |= {name: x for name, x in asked if x != default.get(name) and name not in TOLD}
    told |= {name: settings[name] for name in ("fashion", "init_from") if name in settings}
    return ", ".join(f"{name}={value}" for name, value in told.items())


def _recognition(group: list[Found]) -> dict[str, str]:
    fits = [record["settings"].get("fashion", "classification") for _, record in group]
    scores = {f"{split} top-{k} %": [record[split][f"top{k}"] for _, record in group]
              for split, k in (("test", 1), ("test", 5), ("val", 1))}  # fmt: skip
    return _row(group, scores, fits)


def _stages(group: list[Found]) -> list[dict[str, str]]:
    """Return T4's rows, one a stage."""
    rows = []
    for stage in group[0][1]["recall"]:
        by_k = {f"R@{k} %": [record["recall"][stage][k] for _, record in group]
                for k in group[0][1]["recall"][stage]}  # fmt: skip
        rows.append({"run": "", "stage": stage} | _row(group, by_k, [stage] * len(group)))
    return rows


def _row(group: list[Found], scores: dict[str, list[float]], fits: list[str]) -> dict[str, str]:
    """Return the cells of runs that differ in the seed alone, each with one of its `fits`."""
    _, record = group[0]
    first, *others = scores.items()
    rows = [[row for row in _history(folder) if row["fit"] == fit]
            for (folder, _), fit in zip(group, fits, strict=True)]  # fmt: skip
    trained = all(rows)
    minutes = [sum(finished.minutes(row, record["settings"]) for row in own)
               for own, (_, record) in zip(rows, group, strict=True)]  # fmt: skip
    links = [f"[{record['seed']}](notebooks/results/{quote(folder.name)}/metrics.json)"
             for folder, record in group]  # fmt: skip
    return {
        "run": f"{record['task']}: `{_settings(record)}`",
        first[0]: _spread([100 * x for x in first[1]]),
        "se": _error(first[1], record.get("test_images", 0)),
        **{name: _spread([100 * x for x in values]) for name, values in others},
        "epochs": _spread([len(own) for own in rows], 0) if trained else "",
        "parameters": f"{record['num_parameters'] / 1e6:.2f} M",
        "minutes": _spread(minutes, 0 if min(minutes) >= 10 else 1) if trained else "",
        "processor": "; ".join(dict.fromkeys(_processor(record) for _, record in group)),
        "data": f"{record['settings'].get('title', '')}: {record['protocol']}".removeprefix(": "),
        "seed": ", ".join(links),
    }


def _spread(values: list[float], digits: int = 1) -> str:
    """Return one number, or the mean and standard deviation of several.

    >>> _spread([50.04]), _spread([1, 2, 3])
    ('50.0', '2.0 ± 1.0')
    """
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def _error(shares: list[float], images: int) -> str:
    share = np.mean(shares)
    return f"{100 * (share * (1 - share) / images) ** 0.5:.1f}" if images else ""


def _processor(record: dict) -> str:
    threads = record["settings"].get("threads", 0)
    on_cpu = record["settings"].get("device") == "cpu"
    said = f", {threads} thread{'s'[: threads > 1]}" if on_cpu else ""
    return f"{record['hardware']}{said}"


def _history(folder: Path) -> list[dict]:
    """Return the rows of a published history; none where it is not there (scored apart)."""
    path = folder / "history.csv"
    try:
        return from_csv(path.read_text("utf-8")) if path.exists() else []
    except (OSError, ValueError):
        raise CubsError(f"notebooks/results/{folder.name}/history.csv cannot be read: restore it, "
                        "or publish the run again.") from None  # fmt: skip


def _table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table, an empty cell as a dash."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[(row.get(name) or "–").replace("|", "\\|") for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _caption(found: Sequence[Found]) -> str:
    """Say how the tables are to be read, and what comes with them."""
    told = [
        "Each number is read from the record under its seed. *se* is the standard error of the "
        "first score over the test images; where several seeds are listed, numbers are their mean "
        "± standard deviation. Test (Tiny ImageNet's official val; Cars196's unseen classes) was "
        "read once and chose nothing. Minutes are of training on the processor named, by the "
        "clock, or with one thread by the processor's time."
    ]
    if any(record["settings"].get("title") == "Cars196" for _, record in found):
        told.append(
            "Cars196 holds byte-identical photographs under two labels; a *cropped copy* is cut to "
            "the car already, an easier task than the standard one."
        )
    weighty = [folder.name for folder, _ in found if (folder / "best.ckpt").exists()]
    if weighty:
        told.append(
            f"The weights of {' and '.join(f'`{name}`' for name in sorted(weighty))} are here in "
            "half precision (`--run published`), for research and teaching, as the terms of the "
            "data ask."
        )
    return " ".join(told)


@rc_context(plots.STYLE)
def curves(found: Sequence[Found]) -> Figure | None:
    """Draw the score on val of published runs against epochs and minutes; None without any."""
    by_score: dict[str, list] = {}
    for group in _groups(found):
        for folder, record in group:
            rows = [row for row in _history(folder) if any(key.startswith("val_") for key in row)]
            for fit in dict.fromkeys(row["fit"] for row in rows):
                own = [row for row in rows if row["fit"] == fit]
                score = next(key for key in own[0] if key.startswith("val_"))
                by_score.setdefault(score, []).append((_line(record, fit), record, own))
    if not by_score:
        return None
    figure = Figure(figsize=(10, 4.2 * len(by_score)))
    said = []
    axes = figure.subplots(len(by_score), 2, squeeze=False, sharey="row")
    for (left, right), (score, drawn) in zip(axes, by_score.items(), strict=True):
        said += _draw(left, right, score, drawn)
        left.set(xlabel="epoch", ylabel=score.replace("val_", "val "))
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        left.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        right.set(xlabel="minutes of training")
        right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    told = plots.listed(said, 12)
    return plots.described(figure, f"Curves on val against epochs and minutes: {told}.")


def _line(record: dict, fit: str) -> str:
    name = f"{record['task']}: {_settings(record)}"
    return name if record["task"] != "T3" else name.replace(record["settings"]["fashion"], fit)


def _draw(left, right, score: str, drawn: list[tuple]) -> list[str]:
    """Draw each run's line, seeds in one colour; return what each shows, in words."""
    styles: dict[str, tuple] = {}
    said = []
    for name, record, rows in drawn:
        count, new = len(styles), name not in styles
        look = styles.setdefault(name, (plots.PALETTE[count % 7], "-" if count < 7 else "--"))
        style = dict(zip(("color", "linestyle"), look, strict=True)) | {"linewidth": 1.2}
        values = [row[score] for row in rows]
        minutes = list(accumulate(finished.minutes(row, record["settings"]) for row in rows))
        left.plot([row["epoch"] for row in rows], values, **style)
        right.plot(minutes, values, label=plots.shortened(name, 34, 3) if new else None, **style)
        best = best_row(rows)
        said.append(f"{name}, seed {record['seed']}, best {100 * best[score]:.1f} % (epoch "
                    f"{best['epoch']}), {minutes[-1]:.0f} minutes")  # fmt: skip
    for ax in (left, right):
        ax.set_ylim(bottom=0)
        ax.grid()
    return said
