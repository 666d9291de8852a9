"""What was asked and what came out, on one screen: cards, tables of all runs, the hand-out."""

from pathlib import Path
from urllib.parse import quote

from cubslib.pages import entries, handout, markup
from cubslib.pages.charts import charts
from cubslib.pages.entries import Entry
from cubslib.pages.page import Shown, lead
from cubslib.runs.parameters import TASKS


def write(
    path: Path, runs: list[Shown], browsed: set[str], skipped: list[str], remarks: list[str]
) -> Path:
    """Write the index.

    Args:
        path: where it goes.
        runs: by task; each has its page already.
        browsed: the names of those with a browser.
        skipped: what could not be shown, a sentence each.
        remarks: what else there is to say.
    """
    best = heads(runs)
    real, drawn = ([run for run in runs if run.entry.sample == sample] for sample in (False, True))
    pages = {task: run.notebook for task, run in best.items() if run.notebook}
    return markup.write(
        path,
        "index.html.j2",
        ("index.js",),
        title="Recognition and retrieval: results",
        cards=[_card(task, best.get(task), runs, browsed) for task in TASKS],
        real=_group(real),
        drawn=_group(drawn),
        evidence=handout.evidence(pages),
        best=best,
        skipped=skipped,
        remarks=remarks,
    )


def heads(runs: list[Shown]) -> dict[str, Shown]:
    """Return the run that heads each task."""
    ordered = sorted(runs, key=lambda run: (bool(run.aside), run.entry.order))
    return {run.entry.task: run for run in reversed(ordered)}  # the first of a task stays


def _card(task: str, head: Shown | None, runs: list[Shown], browsed: set[str]) -> dict:
    card = {"task": task, "question": entries.QUESTIONS[task], "entry": None}
    if head is None:
        return card
    entry = head.entry
    alike = entries.seeds([run.entry for run in runs if run.entry.task == task])
    look = f"browser/{quote(entry.name)}.html" if entry.name in browsed else ""
    return card | {
        "entry": entry,
        "address": head.address,
        "error": entry.error(entry.headline),
        "picture": lead(head.figures, []),
        "browser": look,
        "seeds": [row for row in alike if entry in row["runs"]],
    }


def _group(runs: list[Shown]) -> dict:
    """Return what the index shows of real runs, or of those on the sample."""
    parts = [[run for run in runs if (run.entry.task == "T4") == last] for last in (False, True)]
    titles = "T1 to T3: top-1 on test, %", "T4: Recall@K on unseen classes, %"
    shown = [_table(title, part) for title, part in zip(titles, parts, strict=True) if part]
    found = [run.entry for run in runs if not run.aside]
    return {"tables": shown, "seeds": entries.seeds(found), "charts": charts(found)}


def _table(title: str, runs: list[Shown]) -> dict:
    """Return the rows of one table: numbers first, then what is not at its default."""
    retrieval = runs[0].entry.task == "T4"
    first = ("R@1", "R@2", "R@4", "R@8", "R@1 before") if retrieval else ("Test", "Top-5", "Val")
    names = dict.fromkeys(name for run in runs for name in run.entry.changed)
    names = [name for name in names if len({str(run.entry.changed.get(name)) for run in runs}) > 1]
    names = names if len(names) <= 4 else []  # the chips tell them where there are more
    columns = [*first, "±", "Images", "Minutes", *names]
    rows = []
    for run in runs:
        entry, numbers = run.entry, _numbers(run.entry)
        error = entry.error(entry.headline)
        cells = [(value, f"{100 * value:.1f}") for value in numbers]
        cells += [(error or 0, "–" if error is None else f"{100 * error:.1f}")]
        cells += [(entry.images, f"{entry.images:,}" if entry.images else "–")]
        cells += [(entry.minutes, f"{entry.minutes:.1f}")]
        cells += [(str(entry.changed.get(name, "")),) * 2 for name in names]
        rows.append({"entry": entry, "address": run.address, "cells": cells, "aside": run.aside})
    tasks = sorted({run.entry.task for run in runs})
    return {"title": title, "columns": columns, "rows": rows, "names": tasks}


def _numbers(entry: Entry) -> list[float]:
    rows = [values for _, values in entries.table(entry)[1]]
    shown, beside = rows[1::-1] if entry.task == "T4" else rows[:2]
    return [*shown, beside[0]]
