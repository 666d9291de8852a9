"""Published runs → the README's tables of results and the picture of their validation curves."""

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
from cubslib.pages import entries, plots, table
from cubslib.runs import finished, parameters, published
from cubslib.runs.history import from_csv

START, END = "<!-- results: made by python -m cubslib results -->\n", "<!-- end of results -->\n"
TOLD = ("seed", "dataset", "preset")  # in columns of their own, or always
Found = tuple[Path, dict]


def remake() -> list[str]:
    """Remake the README's results and the picture of the curves; return the files' names.

    Raises:
        CubsError: the README is missing or has no place for results, or a record is damaged.
    """
    readme, picture = machine.project_root() / "README.md", published.root() / "curves.png"
    for path in sorted(published.root().glob("*/metrics.json")):
        finished.read(path.parent)  # a row that is left out would be missed by nobody
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
    groups, told = _groups(found), set()
    tables = [
        _table([row for group in groups if (group[0][1]["task"] == "T4") == last
                for row in _rows(group, told)]) for last in (False, True)
    ]  # fmt: skip
    parts = ["## Results", *filter(None, tables), _caption(found)]
    figure = curves(found)
    if figure is not None:
        parts.append(f"![{figure.get_label()}](notebooks/results/curves.png)")
    return "\n\n".join(parts) + "\n\n"


def _groups(found: Sequence[Found]) -> list[list[Found]]:
    """Gather runs that differ in the seed alone, by task and name, then by seed."""
    groups = entries.gathered(found, lambda run: (run[1], run[1].get("asked", {})))
    return sorted(groups, key=lambda group: (group[0][1]["task"], group[0][0].name))


def _settings(record: dict, **more) -> str:
    """Return what of a run is not at its default, with what the recipe or val chose, and `more`."""
    settings, told = record["settings"], {"preset": record["settings"]["preset"]}
    asked = parameters.changed(record["task"], record.get("asked", {}))
    told |= {name: value for name, value in asked.items() if name not in TOLD}
    told |= {name: settings[name] for name in ("fashion", "init_from") if name in settings}
    return ", ".join(f"{name}={value}" for name, value in (told | more).items())


def _rows(group: list[Found], told: set[tuple]) -> list[dict[str, str]]:
    """Return the rows of runs that differ in the seed alone: one, T4's one a stage.

    `told` gathers whose stage 1 has a row already, by protocol: those that share it have one.
    """
    scored, rows = [table.scores(record) for _, record in group], []
    first = {(record["settings"].get("classification_from", folder.name), record["protocol"])
             for folder, record in group}  # fmt: skip
    shared = group[0][1]["task"] == "T4" and first <= told
    told |= first
    for fits in list(zip(*scored, strict=True))[shared:]:  # T3's seeds may differ in theirs
        found = [own[fit] | _measured(record, fit)
                 for own, fit, (_, record) in zip(scored, fits, group, strict=True)]  # fmt: skip
        shares = {f"{name} %".replace("recall @", "R@"): [own[name] for own in found]
                  for name in found[0] if all(name in own for own in found)}  # fmt: skip
        stage = {"run": "", "stage": fits[0]} if group[0][1]["task"] == "T4" else {}
        rows.append(stage | _row(group, shares, fits))
    return rows


def _measured(record: dict, stage: str) -> dict[str, float]:
    """Return what a stage of T4 has beside Recall@K; older records, and other tasks, have none."""
    measures, found = record.get("measures", {}), {}
    if own := measures.get(stage):
        found["MAP@R"] = own["map_at_r"]
    if mirrored := measures.get(f"{stage}, with mirror images"):
        found["mirrored R@1"] = mirrored["recall"]["1"]
    return found


def _row(group: list[Found], scores: dict[str, list[float]], fits: Sequence) -> dict[str, str]:
    """Return the cells of runs that differ in the seed alone, each with one of its `fits`."""
    _, record = group[0]
    first, *others = scores.items()
    rows = [_fits(folder).get(fit, []) for (folder, _), fit in zip(group, fits, strict=True)]
    trained = all(rows)
    minutes = [sum(finished.minutes(row, record["settings"]) for row in own)
               for own, (_, record) in zip(rows, group, strict=True)]  # fmt: skip
    links = [f"[{record['seed']}](notebooks/results/{quote(folder.name)}/metrics.json)"
             + "\\*" * bool(record.get("dirty")) for folder, record in group]  # fmt: skip
    return {
        "run": f"{record['task']}: `{_settings(record)}`",
        first[0]: _spread([100 * x for x in first[1]]),
        "se": _error(first[1], record.get("test_images", 0)),
        **{name: _spread([100 * x for x in values]) for name, values in others},
        "epochs": ", ".join(dict.fromkeys(str(len(own)) for own in rows)) if trained else "",
        "parameters": f"{record['num_parameters'] / 1e6:.2f} M",
        "minutes": _spread(minutes, 0 if min(minutes) >= 10 else 1) if trained else "",
        "processor": "; ".join(dict.fromkeys(finished.processor(record) for _, record in group)),
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


def _fits(folder: Path) -> dict[str, list[dict]]:
    """Return the rows of a published history by fit; none where it is not there (scored apart)."""
    path = folder / "history.csv"
    try:
        return table.by_fit(from_csv(path.read_text("utf-8")) if path.exists() else [])
    except (OSError, ValueError):
        raise CubsError(f"notebooks/results/{folder.name}/history.csv cannot be read: restore it, "
                        "or publish the run again.") from None  # fmt: skip


def _table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table, an empty cell as a dash."""
    if not rows:
        return ""
    names, *cells = table.Table(rows).grid()
    lines = [names, ["---"] * len(names)]
    lines += [[cell.replace("|", "\\|") for cell in line] for line in cells]
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
    if any("test_mirrored" in record for _, record in found):
        told.append("*Mirrored*: logits averaged over each image and its mirror image.")
    if any(record["task"] == "T3" for _, record in found):
        told.append("T3's epochs and minutes are those of the chosen fashion alone.")
    if any(record["settings"].get("title") == "Cars196" for _, record in found):
        told.append(
            "Cars196 holds byte-identical photographs under two labels; a *cropped copy* is cut to "
            "the car already, an easier task than the standard one. A stage that runs share has "
            "one row. *Mirrored* there: embeddings averaged over each image and its mirror image."
        )
    if any(record.get("dirty") for _, record in found):
        told.append("An asterisk: the checkout had uncommitted changes.")
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
    """Draw the score on val of published runs against epochs and minutes; None without any.

    Runs that differ in the seed alone have one colour.
    """
    scores = _scores(found)
    if not scores:
        return None
    figure = Figure(figsize=(11, 4.2 * len(scores)))
    axes = figure.subplots(len(scores), 2, squeeze=False, sharey="row")
    said = []
    for (left, right), (score, lines) in zip(axes, scores.items(), strict=True):
        for number, (name, drawn) in enumerate(lines):
            look = {"color": plots.PALETTE[number % 7], "linestyle": "-" if number < 7 else "--"}
            for rows, minutes in drawn:
                values = [row[score] for row in rows]
                left.plot([row["epoch"] for row in rows], values, **look)
                (line,) = right.plot(minutes, values, **look)
            line.set_label(plots.shortened(name, 34, 3))
            best = _spread([100 * max(row[score] for row in rows) for rows, _ in drawn])
            said.append(f"{name}: best {best} % in {max(m[-1] for _, m in drawn):.0f} minutes")
        left.set(xlabel="epoch", ylabel=score.replace("_", " "), ylim=(0, None))
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        left.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        right.set(xlabel="minutes of training (one thread: of processor time)", xlim=(0, None))
        right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        left.grid()
        right.grid()
    told = "; ".join([*said[:12], *([f"and {len(said) - 12} more"] if said[12:] else [])])
    return plots.described(figure, f"Curves on val against epochs and minutes. {told}.")


def _scores(found: Sequence[Found]) -> dict[str, list[tuple[str, list[tuple[list, list]]]]]:
    """Return what there is to draw: score on val → lines, (name, (rows, minutes so far) a seed)."""
    scores: dict[str, dict] = {}
    for number, group in enumerate(_groups(found)):
        for folder, record in group:
            for fit, rows in _fits(folder).items():
                score = next((key for key in rows[0] if key.startswith("val_")), None)
                if score is not None:
                    several = {"T3": {"fashion": fit}, "T4": {"fit": fit}}.get(record["task"], {})
                    name = f"{record['task']}: {_settings(record, **several)}"
                    times = [finished.minutes(row, record["settings"]) for row in rows]
                    line = scores.setdefault(score, {}).setdefault((number, fit), (name, []))
                    line[1].append((rows, list(accumulate(times))))
    return {score: list(lines.values()) for score, lines in scores.items()}
