"""Finished runs → pages to hand in: one for each run, a browser for T4, and an index of all."""

import base64
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

from PIL import Image

from cubslib import CubsError, machine
from cubslib.pages import browser, entries, handout, markup, notebook
from cubslib.pages.charts import charts
from cubslib.pages.entries import Entry
from cubslib.pages.notebook import Figure, Notebook
from cubslib.runs import finished
from cubslib.runs.parameters import TASKS

# The picture that tells most of a run, by the name of its file; the first that is there
LEAD = ("gallery", "mistakes", "classes", "recall", "curves", "data")


@dataclass(frozen=True)
class _Shown:
    """A run of the site: its entry, notebook and where its page is."""

    entry: Entry
    notebook: Notebook | None
    figures: list[Figure]
    address: str  # as seen from the index
    aside: str = ""


def page(path: Path, html: Path | None = None) -> Path:
    """Write the executed notebook `path` as one HTML file, `html` or beside it; return where it is.

    Where it shows a finished run, of its own folder or of the project, the page says what came out.

    Raises:
        CubsError: there is no such notebook, or it is none; `html` holds something else.
    """
    path = Path(path)
    content = notebook.read(path)
    homes = [path.parent, *sorted((machine.project_root() / "runs").glob("*/"))]
    entry = next((found for home in homes if (found := _shows(content, home))), None)
    figures = entry.folder / "figures" if entry else None
    shown = notebook.blocks(content, path, figures)
    drawn = _figures(entry.folder) if entry else []
    html = Path(html or path.with_suffix(".html"))
    return _write(html, entry, shown, drawn)


def site(root: Path, names: tuple[str, ...] = (), data_root: Path | None = None) -> Path:
    """Write `root`/report: a page for each finished run, a browser, the index; return the index.

    Args:
        root: the folder of the runs.
        names: the runs to show; none for all.
        data_root: the folder of the data sets, from which the browser's pictures come; None for
            the project's `data`.

    Raises:
        CubsError: no run under `root` is finished, or a named one is not.
    """
    root = Path(root)
    found, skipped = _entries(root, names)
    if not found:
        raise CubsError(f"{root} holds no finished run: `python -m cubslib run T4` makes one.")
    folder = root / "report"
    executed = _executed(root)
    runs = [_run(entry, aside, executed) for entry, aside in found]
    browsed, remarks = _browser(runs, folder, data_root or machine.project_root() / "data")
    written = {folder / "browser" / f"{name}.html" for name in browsed}
    for i, run in enumerate(runs):
        around = {"previous": _link(runs[i - 1]) if i else None,
                  "next": _link(runs[i + 1]) if i + 1 < len(runs) else None}  # fmt: skip
        here = folder / "runs" / f"{run.entry.name}.html"
        look = f"../browser/{quote(here.name)}" if run.entry.name in browsed else ""
        written.add(_write(here, run.entry, run.notebook, run.figures, look, around))
    index = _index(folder / "index.html", runs, browsed, skipped, remarks)
    for old in [
        *folder.glob("runs/*.html"),
        *folder.glob("browser/*.html"),
        *folder.glob("*.html"),
    ]:
        if old not in written and old != index and markup.is_ours(old):
            old.unlink()  # of a run that is gone
    return index


def _entries(root: Path, names: tuple[str, ...]) -> tuple[list[tuple[Entry, str]], list[str]]:
    """Return the runs to show, by task and order, those set aside last; and what is left out."""
    records, skipped, found = finished.find(root), [], []
    known = {folder for folder, _ in records}
    for path in sorted(root.glob("*~*/metrics.json")):
        if path.parent not in known:
            try:
                records.append((path.parent, finished.read(path.parent)))
            except CubsError as error:
                skipped.append(str(error))
    missing = set(names) - {folder.name for folder, _ in records}
    if missing:
        raise CubsError(f"{min(missing)} is no finished run under {root}: name one that is.")
    for folder, record in records:
        if not names or folder.name in names:
            try:
                aside = "" if folder in known else folder.name.rpartition("~")[2]
                found.append((entries.entry(folder, record), aside))
            except CubsError as error:
                skipped.append(str(error))
    for line in skipped:
        print(f"Skipped: {line}", file=sys.stderr)
    return sorted(found, key=lambda one: (one[0].task, bool(one[1]), one[0].order)), skipped


def _executed(root: Path) -> list[tuple[Path, object, set[str]]]:
    """Return the notebooks at hand that show pictures, newest first: path, content, digests."""
    project = machine.project_root()
    paths = {*root.glob("*/*.ipynb"), *project.glob("*.ipynb"), *project.glob("notebooks/*.ipynb"),
             *root.parent.glob("*.ipynb"), *root.parent.glob("notebooks/*.ipynb")}  # fmt: skip
    found = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            content = notebook.read(path)
            digests = notebook.pictures(content)
        except (CubsError, AttributeError, TypeError):
            continue
        if digests:
            found.append((path, content, digests))
    return found


def _run(entry: Entry, aside: str, executed: list) -> _Shown:
    """Find a run's notebook: in its folder, else the newest that shows all of its pictures."""
    own = notebook.hashes(entry.folder / "figures").keys()
    stem = TASKS[entry.task].notebook
    inside = [one for one in executed if one[0].parent == entry.folder and one[0].stem == stem]
    shows = [one for one in executed if own and own <= one[2]]
    shown = None
    for path, content, _ in [*inside, *shows]:
        try:
            shown = notebook.blocks(content, path, entry.folder / "figures")
            break
        except CubsError as error:
            print(f"Skipped: {error}", file=sys.stderr)
    address = f"runs/{quote(entry.name)}.html"
    return _Shown(entry, shown, _figures(entry.folder), address, aside)


def _shows(content: object, home: Path) -> Entry | None:
    """Return the run in the folder `home` if the notebook shows it."""
    try:
        own = notebook.hashes(home / "figures").keys()
        if own and own <= notebook.pictures(content):
            return entries.entry(home, finished.read(home))
    except (CubsError, AttributeError, TypeError):
        pass
    return None


def _figures(folder: Path) -> list[Figure]:
    files = sorted((folder / "figures").glob("*.png"))
    return [drawn for file in files if (drawn := notebook.figure(file))]


def _link(run: _Shown) -> dict[str, str]:
    return {"name": run.entry.name, "address": f"{quote(run.entry.name)}.html"}


def _write(
    html: Path,
    entry: Entry | None,
    shown: Notebook | None,
    figures: list[Figure],
    browser: str = "",
    around: dict | None = None,
) -> Path:
    """Write the page of a run, of a notebook, or of both."""
    blocks = shown.blocks if shown else []
    contents = [one for one in shown.headings if one[0] < 4] if shown else [
        (2, f"s-figure-{drawn.name}", drawn.name.replace("_", " ").capitalize())
        for drawn in figures
    ]  # fmt: skip
    values = {
        "title": shown.title if shown else entry.name,
        "code": any(block.kind == "code" for block in blocks),
        "contents": contents,
        "blocks": blocks,
        "figures": figures,
        "entry": entry,
        "browser": browser,
        "site": around is not None,
        "previous": None,
        "next": None,
    }
    if entry:
        values |= {
            "question": entries.QUESTIONS[entry.task],
            "answer": entries.answer(entry),
            "columns": entries.columns(entry),
            "rows": entries.table(entry),
            "picture": _lead(figures, blocks),
            "record": [(name, _told(value)) for name, value in entry.record.items()],
        }
    return markup.write(html, "run.html.j2", **(values | (around or {})))


def _told(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text.translate(str.maketrans("", "", '{}"')) if isinstance(value, dict) else text


def _lead(figures: list[Figure], blocks: list) -> SimpleNamespace | None:
    """Return the figure that tells most, small, and where it stands in full."""
    by_name = {drawn.name: drawn for drawn in figures}
    name = next((name for name in LEAD if name in by_name), None)
    if name is None:
        return None
    places = [block.place for block in blocks for kind, content in block.outputs
              if kind == "figure" and content.name == name]  # fmt: skip
    place = places[0] if places else "" if blocks else f"s-figure-{name}"
    address = _small(by_name[name].address)
    return SimpleNamespace(address=address, alt=by_name[name].alt, place=place)


def _small(address: str, width: int = 720) -> str:
    """Return a picture's address again, at most `width` pixels wide."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        image = image.convert("RGB")
    image.thumbnail((width, 2 * width))
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=75)
    return markup.picture(packed.getvalue(), "image/webp")


def _heads(runs: list[_Shown]) -> dict[str, _Shown]:
    """Return the run that heads each task."""
    heads = {}
    for run in sorted(runs, key=lambda run: (bool(run.aside), run.entry.order)):
        heads.setdefault(run.entry.task, run)
    return heads


def _browser(runs: list[_Shown], folder: Path, data_root: Path) -> tuple[set[str], list[str]]:
    """Write the browser of the run that heads T4; return its name, or why there is none."""
    head = _heads(runs).get("T4")
    if head is None:
        return set(), []
    name = TASKS["T4"].data
    data = data_root / "sample" / name if head.entry.sample else data_root / name
    path = folder / "browser" / f"{head.entry.name}.html"
    try:
        browser.browser(head.entry, data, path, f"../{head.address}")
    except CubsError as error:
        return set(), [f"There is no browser of {head.entry.name}'s images: {error}"]
    return {head.entry.name}, []


def _index(
    path: Path, runs: list[_Shown], browsed: set[str], skipped: list[str], remarks: list[str]
) -> Path:
    heads = _heads(runs)
    groups = {False: [], True: []}
    for run in runs:
        groups[run.entry.sample].append(run)
    pages = {task: run.notebook for task, run in heads.items() if run.notebook}
    found = [
        {"task": one.task, "asked": one.asked, "place": one.place, "under": one.under,
         "address": one.place and f"{heads[one.task].address}#{one.place}"}
        for one in handout.evidence(pages)
    ]  # fmt: skip
    return markup.write(
        path,
        "index.html.j2",
        ("index.js",),
        title="Recognition and retrieval: results",
        cards=[_card(task, heads.get(task), runs, browsed) for task in TASKS],
        real=_group(groups[False]),
        drawn=_group(groups[True]),
        evidence=found,
        missing=sum(not one["place"] for one in found),
        skipped=skipped,
        remarks=remarks,
    )


def _card(task: str, head: _Shown | None, runs: list[_Shown], browsed: set[str]) -> dict:
    card = {"task": task, "question": entries.QUESTIONS[task], "entry": None}
    if head is None:
        return card
    entry = head.entry
    lead = _lead(head.figures, [])
    alike = entries.seeds([run.entry for run in runs if run.entry.task == task])
    alike = [row for row in alike if row["first"].changed | {"seed": 0}
             == entry.changed | {"seed": 0}]  # fmt: skip
    look = f"browser/{quote(entry.name)}.html" if entry.name in browsed else ""
    return card | {"entry": entry, "address": head.address, "error": entry.error(entry.headline),
                   "picture": lead, "browser": look, "seeds": alike[:1]}  # fmt: skip


def _group(runs: list[_Shown]) -> dict:
    """Return what the index shows of real runs, or of those on the sample."""
    parts = [[run for run in runs if (run.entry.task == "T4") == last] for last in (False, True)]
    titles = "T1 to T3: top-1 on test, %", "T4: Recall@K on unseen classes, %"
    shown = [_table(title, part) for title, part in zip(titles, parts, strict=True) if part]
    found = [run.entry for run in runs if not run.aside]
    return {"tables": shown, "seeds": entries.seeds(found), "charts": charts(found)}


def _table(title: str, runs: list[_Shown]) -> dict:
    """Return the rows of one table: numbers first, then what is not at its default."""
    retrieval = runs[0].entry.task == "T4"
    heads = ("R@1", "R@2", "R@4", "R@8", "R@1 before") if retrieval else ("Test", "Top-5", "Val")
    names = dict.fromkeys(name for run in runs for name in run.entry.changed)
    names = [name for name in names if len({str(run.entry.changed.get(name)) for run in runs}) > 1]
    names = names if len(names) <= 4 else []  # the chips tell them where there are more
    columns = [*heads, "±", "Images", "Minutes", *names]
    rows = []
    for run in runs:
        entry, numbers = run.entry, _numbers(run.entry)
        error = entry.error(entry.headline)
        cells = [(value, f"{100 * value:.1f}") for value in numbers]
        cells += [(error or 0, "–" if error is None else f"{100 * error:.1f}")]
        cells += [(entry.images, f"{entry.images:,}" if entry.images else "–")]
        cells += [(entry.record["seconds"], f"{entry.record['seconds'] / 60:.1f}")]
        cells += [(str(entry.changed.get(name, "")),) * 2 for name in names]
        rows.append({"entry": entry, "address": run.address, "cells": cells, "aside": run.aside})
    tasks = sorted({run.entry.task for run in runs})
    return {"title": title, "columns": columns, "rows": rows, "names": tasks}


def _numbers(entry: Entry) -> list[float]:
    record = entry.record
    if entry.task == "T4":
        after, before = (record["recall"][stage] for stage in ("embedding", "classification"))
        return [*(after[k] for k in ("1", "2", "4", "8")), before["1"]]
    return [record["test"]["top1"], record["test"]["top5"], record["val"]["top1"]]
