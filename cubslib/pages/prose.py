"""Sentences about runs, computed from their records: true whatever the numbers are.

Every function returns Markdown, or a table, that a notebook displays.
"""

import contextlib

from IPython.display import Markdown

from cubslib import machine, processes
from cubslib.pages import entries
from cubslib.pages.table import Table
from cubslib.runs import Run, finished, published
from cubslib.runs.history import from_csv

COURSE_BAR = 0.40  # top-1 that T1 must pass on test
COURSE_DROP = 0.02  # that T3 may lose to T2
HIDDEN = ("task", "recipes", "sources", "pace")  # told elsewhere, or too long to tell


def banner(run: Run) -> Markdown:
    """Say what data a page is made from, loudly where they are drawn, and if it is shown again."""
    kind, protocol = run["dataset"], run["protocol"]
    text = f"{run['title']}, {protocol}."
    if kind == "sample":
        text = (
            "# ⚠ SAMPLE DATA\n**Everything on this page is made from pictures drawn by the "
            "library. It shows that the code runs; no number here is a result.**"
        )
    elif run["title"] == "Cars196":
        text += (
            " Cars196 holds byte-identical photographs under two different labels "
            "(near-twin models)."
        )
    if "cropped copy" in protocol:
        text += (
            " These copies are cut to the car already: an easier task than the standard one, "
            "whose photographs are whole."
        )
    if run.finished:
        text += (
            f"\n\n**This run was finished earlier: `{run.folder.name}` is shown from its files.**"
        )
        if run.other_sources:
            names = ", ".join(f"`cubslib/{name}.py`" for name in run.other_sources)
            text += f" **It was made by other code than this page shows: {names} differ.**"
    elif (began := run.resolved.get("processes", 1)) != processes.count():  # older runs: 1
        text += (
            f"\n\n**Processes at the beginning: {began}; now: {processes.count()}. The images "
            "and their order are the same, but bits may differ.**"
        )
    return Markdown(text)


def in_force(run: Run) -> Table:
    """Tabulate every parameter at its final meaning, and what the run was computed with."""
    settled, here = run.resolved, {}
    if run.finished:  # it may have run elsewhere
        settled, here = run.record["settings"], run.record
    hardware = here.get("hardware") or machine.hardware(run["device"])
    versions = here.get("versions") or machine.versions()
    shown = {key: value for key, value in settled.items() if key not in HIDDEN}
    shown |= {"hardware": hardware, "versions": versions}
    return Table([{"setting": key, "in force": _plain(value)} for key, value in shown.items()])


def recipes(run: Run) -> Table:
    """Tabulate how each fit is trained, a column a fit; fits on equal terms share one."""
    by_fit = run["recipes"]
    if all(recipe == next(iter(by_fit.values())) for recipe in by_fit.values()):
        by_fit = {", ".join(by_fit): next(iter(by_fit.values()))}
    return Table([{"recipe": name} | {fit: _plain(recipe[name]) for fit, recipe in by_fit.items()}
                  for name in next(iter(by_fit.values()))])  # fmt: skip


def _plain(value: object) -> object:
    """Return a setting as a reader would write it; `sizes` as what is read from when on."""
    if isinstance(value, dict):
        return ", ".join(f"{part} {_plain(x)}" for part, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{side} px from {share:.0%}" for share, side in value)
    return f"{value:g}" if isinstance(value, float) else value


def classifier(run: Run) -> Markdown:
    """Say how right the network is on test, how sure that is, and how it stands to the course."""
    record = run.record
    timed = finished.timed_by(record["settings"])
    text = (
        f"{entries.answer(entries.entry(run.folder, record))} The right class is among its first "
        f"five for {record['test']['top5']:.1%}.{_mirrored(record)} On val, which chose the "
        f"epoch, top-1 was {record['val']['top1']:.1%}. One run, seed {record['seed']}, "
        f"{finished.minutes(record, record['settings']):.1f} minutes of {timed} on "
        f"{finished.processor(record)}."
    )
    if run.task == "T1" and record["protocol"] == "complete":
        passed = "passes" if record["test"]["top1"] > COURSE_BAR else "does not pass"
        text += f" It {passed} the {COURSE_BAR:.0%} that the course asks for."
    return Markdown(text)


def _mirrored(record: dict) -> str:
    if "test_mirrored" not in record:  # older records
        return ""
    share = record["test_mirrored"]["top1"]
    return f" With logits averaged over each image and its mirror image top-1 is {share:.1%}."


def with_earlier(run: Run, *tasks: str) -> list[tuple]:
    """Return the rows of a table: the earlier notebooks' runs with what differs, then this run.

    Where no run fits, the nearest published one of the same kind of data takes its place and is
    marked.
    """
    rows = []
    for task in tasks:
        found = run.earlier(task)[0] or published.nearest(run.resolved, task)
        if found is not None:
            rows.append((found.folder, found.record, ", ".join(found.remarks)))
    return [*rows, (run.folder, run.record, "")]


def not_found(run: Run, *tasks: str) -> Markdown:
    """Name the earlier notebooks of which no run fits, and in what the nearest differs."""
    missing = [why for found, why in map(run.earlier, tasks) if found is None]
    return Markdown(" ".join(missing) or "Every earlier notebook has a run that fits.")


def against(run: Run, task: str) -> Markdown:
    """Compare a classifier with an earlier notebook's, on the same test images."""
    other, why = run.earlier(task)
    if other is None:
        return Markdown(f"{why} The two are not compared image by image.")
    arrays = finished.arrays(other.folder)
    gain, error = entries.paired(*(hits["logits"].argmax(1) == hits["labels"] for hits in
                                   (run.arrays, arrays)))  # fmt: skip
    text = (
        f"Against {task} (`{other.folder.name}`) that is {entries.told(gain, error)}. Each is one "
        "run with one seed"
    )
    own, its = (next(iter(r["settings"]["recipes"].values())) for r in (run.record, other.record))
    differ = [f"{key} {_plain(own[key])} against {_plain(its[key])}"
              for key in own if key in its and own[key] != its[key]]  # fmt: skip
    differ += [remark for remark in other.remarks if remark.partition("=")[0] not in own]
    text += f"; {task} differs in more than the network: {', '.join(differ)}." if differ else "."
    if (run.task, task) == ("T3", "T2"):
        kept = "within" if gain >= -COURSE_DROP else "beyond"
        text += f" A drop of {COURSE_DROP:.0%} is allowed: this is {kept} it."
    return Markdown(text)


def half_way(run: Run, task: str) -> Markdown:
    """Say when this network had half of its final val top-1, and when an earlier notebook's had."""
    fit = next(iter(run["recipes"]))
    told = [f"This network had half of its final val top-1 {_half(run.history(), fit)}"]
    other, _ = run.earlier(task)
    if other is not None:
        with contextlib.suppress(OSError, ValueError):  # a history that is gone stops no page
            history = from_csv((other.folder / "history.csv").read_text())
            told.append(f"that of {task} {_half(history, history[-1]['fit'])}")
    return Markdown(", ".join(told) + ".")


def _half(history: list[dict], fit: str) -> str:
    scores = [row["val_top1"] for row in history if row["fit"] == fit]
    epoch = next(i for i, score in enumerate(scores, 1) if score >= scores[-1] / 2)
    return f"after {epoch} of {len(scores)} epochs"


def fashions(run: Run) -> Markdown:
    """Say which fashion val chose, and by how much."""
    scores = run.record["fashions"]
    order = sorted(scores, key=lambda fashion: -scores[fashion]["top1"])
    listed = ", ".join(f"{name} {scores[name]['top1']:.1%}" for name in order)
    text = f"Top-1 on {len(run.val):,} val images: {listed}."
    if len(order) == 1 and run.asked["fashion"] == "best":
        text += (
            f" With the preset {run['preset']} `best` trains {order[0]} alone, so that all four "
            "notebooks fit into an hour: nothing was chosen."
        )
    if len(order) > 1:
        best, second = (scores[fashion]["top1"] for fashion in order[:2])
        error = (2 * best * (1 - best) / len(run.val)) ** 0.5
        told = entries.told(best - second, error)
        text += f" The best, **{order[0]}**, against the second: {told}; one seed each."
    return Markdown(text)


def retrieval(run: Run) -> Markdown:
    """Say what training with the metric loss brought, and how both stand to chance."""
    found = entries.entry(run.folder, run.record)
    return Markdown(f"{entries.answer(found)} One run, seed {run.seed}.")
