"""Finished runs → a site to hand in: a page for each run, a browser for T4, and an index of all."""

import re
import sys
from pathlib import Path
from urllib.parse import quote

from cubslib import CubsError, machine
from cubslib.pages import browser, entries, index, markup, notebook
from cubslib.pages.entries import Entry
from cubslib.pages.page import Shown, figures, page, shows, write
from cubslib.runs import finished
from cubslib.runs.parameters import TASKS

__all__ = ["page", "site"]


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
    runs = [_run(entry, aside, executed, _others(entry, found)) for entry, aside in found]
    browsed, remarks = _browser(runs, folder, data_root or machine.project_root() / "data")
    written = {folder / "browser" / f"{name}.html" for name in browsed}
    for i, run in enumerate(runs):
        around = {"previous": runs[i - 1] if i else None,
                  "next": runs[i + 1] if i + 1 < len(runs) else None}  # fmt: skip
        here = folder / "runs" / f"{run.entry.name}.html"
        look = f"../browser/{quote(here.name)}" if run.entry.name in browsed else ""
        written.add(write(here, run.entry, run.notebook, run.figures, look, around))
    front = index.write(folder / "index.html", runs, browsed, skipped, remarks)
    for old in folder.rglob("*.html"):
        if old not in written and old != front and markup.is_ours(old):
            old.unlink()  # of a run that is gone
    return front


def _entries(root: Path, names: tuple[str, ...]) -> tuple[list[tuple[Entry, str]], list[str]]:
    """Return the runs to show, by task and order, those set aside last; and what is left out."""
    folders = {path.parent.name: path.parent for path in sorted(root.glob("*/metrics.json"))}
    missing = set(names) - folders.keys()
    if missing:
        raise CubsError(f"{min(missing)} is no finished run under {root}: name one that is.")
    found, skipped = [], []
    for folder in (folder for name, folder in folders.items() if name in (names or folders)):
        aside = re.fullmatch(r"(.+)~(\d+)", folder.name)
        number = aside[2] if aside and (root / aside[1]).exists() else ""
        try:
            found.append((entries.entry(folder, finished.read(folder)), number))
        except CubsError as error:
            skipped.append(str(error))
            print(f"Skipped: {error}", file=sys.stderr)
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


def _others(entry: Entry, found: list[tuple[Entry, str]]) -> dict[str, str]:
    """Return notebook → page of the run of each task that is most like `entry`'s.

    Of the same kind of data; of those, with the same preset, then seed, then what heads its task.
    """

    def unlike(one: tuple[Entry, str]) -> tuple:
        mine, theirs, aside = entry.record, one[0].record, bool(one[1])
        preset = mine["settings"].get("preset") != theirs["settings"].get("preset")
        return aside, preset, mine["seed"] != theirs["seed"], one[0].order

    alike = [one for one in found if one[0].sample == entry.sample]
    alike.sort(key=unlike, reverse=True)  # the last of a task stays
    return {f"{TASKS[one.task].notebook}.ipynb": f"{quote(one.name)}.html" for one, _ in alike}


def _run(entry: Entry, aside: str, executed: list, links: dict[str, str]) -> Shown:
    """Find a run's notebook: in its folder, else the newest that shows all of its pictures."""
    stem = TASKS[entry.task].notebook
    inside = [one for one in executed if one[0].parent == entry.folder and one[0].stem == stem]
    elsewhere = [one for one in executed if shows(one[2], entry.folder)]
    shown = None
    for path, content, _ in [*inside, *elsewhere]:
        try:
            shown = notebook.blocks(content, path, entry.folder / "figures", links)
            break
        except CubsError as error:
            print(f"Skipped: {error}", file=sys.stderr)
    address = f"runs/{quote(entry.name)}.html"
    return Shown(entry, shown, figures(entry.folder), address, aside)


def _browser(runs: list[Shown], folder: Path, data_root: Path) -> tuple[set[str], list[str]]:
    """Write the browser of the run that heads T4; return its name, or why there is none."""
    head = index.heads(runs).get("T4")
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
