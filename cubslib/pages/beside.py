"""What T4 shows of what its second stage is held against: measures, controls, runs side by side."""

from pathlib import Path

import torch
from IPython.display import Markdown

from cubslib import CubsError, controls
from cubslib.losses import CONTROL
from cubslib.pages.table import Table
from cubslib.runs import Run, finished, parameters

# Parameters that stage 1 does not depend on
STAGE_TWO = ("margin", "alpha", "beta", "lam", "mining", "embedding_dim")


def stage_one(run: Run) -> Markdown:
    """Say where stage 1 was trained, and what the second stage of this run is."""
    theirs = run.resolved.get("classification_from")
    text = "Stage 1 is this run's own."
    if theirs is not None:
        text = (
            f"**Stage 1 is that of `{theirs}`**: recipe, first weights, seed, data and code are "
            "this run's too, so it was not trained again. Its minutes are those that it took there."
        )
    if run["mining"] == CONTROL:
        text += (" **This run is the control: its second stage goes on with cross-entropy by the "
                 "second stage's recipe**, and what stands under `embedding` are the features "
                 "after that.")  # fmt: skip
    return Markdown(text)


def measures(run: Run) -> Table | Markdown:
    """Tabulate every measure of both stages and of the rows that need no training, in percent."""
    if "measures" not in run.record:
        return Markdown("This run's record is of an older version and has no measures but recall.")
    return Table(
        [
            {"row": name}
            | {f"Recall@{k}": _percent(value) for k, value in row["recall"].items()}
            | {"MAP@R": _percent(row["map_at_r"]), "R-precision": _percent(row["r_precision"])}
            | {f"share found, {k}": _percent(value) for k, value in row["share_found"].items()}
            for name, row in run.record["measures"].items()
        ]
    )


def differences(run: Run) -> Table | Markdown:
    """Tabulate by how many points the last stage is better than what it is held against.

    The control's row is read from its run as it is now: the record has it only where the control
    was finished first.
    """
    if "differences" not in run.record:
        return Markdown("This run's record is of an older version and has no controls.")
    return Table([{"embedding against": _named(name, row)} | _points(row)
                  for name, row in _found(run).items()])  # fmt: skip


def _found(run: Run) -> dict[str, dict]:
    """Return the record's differences, the control's among them where there is one by now."""
    found = run.record.get("differences", {})
    if CONTROL in found:
        return found
    last = torch.from_numpy(run.arrays["embeddings_embedding"])
    return found | controls.against_control(run, last)


def verdict(run: Run) -> Markdown:
    """Say whether the second stage gains more than going on with cross-entropy, and how sure."""
    if run["mining"] == CONTROL:
        return Markdown("This run is the control itself.")
    found = _found(run).get(CONTROL)
    if found is None:
        return Markdown(
            "No finished run goes on with cross-entropy from this stage 1, so that nothing here "
            f"tells what the metric loss does from what more training does. {_advice(run)}"
        )
    gain, low, high = found["recall_at_1"]
    clear = "gains more than" if low > 0 else "gains less than" if high < 0 else \
        "cannot be told from"  # fmt: skip
    return Markdown(
        f"The metric loss **{clear}** as many epochs more of cross-entropy: "
        f"{_interval(gain, low, high)} points of Recall@1 (95 % interval over classes), against "
        f"`{found['run']}`; one seed."
    )


def _advice(run: Run) -> str:
    """Say how the control of a run is begun: beside it, or stage 1 would be another's."""
    other = {name: parameters.defaults("T4")[name] for name in STAGE_TWO} | {"mining": CONTROL}
    beside = run.folder.with_name(f"{run.folder.name},control")
    if run.asked["run_dir"]:
        other["run_dir"] = Path(run.asked["run_dir"]).with_name(beside.name)
    shared = not run.other_sources and finished.stage_taken(beside, run.resolved)
    time = ", in the second stage's time" if shared else ""
    return f"This one would{time}: `{parameters.command('T4', run.asked, **other)}`"


def runs(run: Run) -> Table | Markdown:
    """Put the finished runs that share this one's stage 1 beside it: what differs, and by how much.

    The differences are this run's score less the other's, on the same queries.
    """
    last, labels = torch.from_numpy(run.arrays["embeddings_embedding"]), run.test.labels
    rows = [{"run": run.folder.name} | _scores(run.record)]
    for folder, record in finished.sharing(run.folder, run.resolved):
        try:
            its = torch.from_numpy(finished.arrays(folder)["embeddings_embedding"])
        except CubsError:  # gone or damaged: the record still tells its recall
            continue
        rows.append({"run": folder.name, "differs in": ", ".join(_differs(run, record["settings"]))}
                    | _scores(record) | _points(controls.compare(last, its, labels)))  # fmt: skip
    if len(rows) == 1:
        return Markdown("No other finished run shares this one's stage 1 yet.")
    return Table(rows)


def _scores(record: dict) -> dict[str, str]:
    found = {"Recall@1": _percent(record["recall"]["embedding"]["1"])}
    if "measures" in record:
        found["MAP@R"] = _percent(record["measures"]["embedding"]["map_at_r"])
    return found


def _differs(run: Run, theirs: dict) -> list[str]:
    """Return what of stage 2 another run has otherwise, `name=value` of that run."""
    own, its = run["recipes"]["embedding"], theirs["recipes"]["embedding"]
    differ = parameters.differences(run.resolved, theirs, STAGE_TWO)
    differ += parameters.differences(own, its, own)
    codes = theirs["sources"]
    return differ + [f"code of {name}" for name in finished.STAGE_TWO_ONLY
                     if run["sources"].get(name) != codes.get(name)]  # fmt: skip


def _named(name: str, row: dict) -> str:
    return f"cross-entropy going on ({row['run']})" if name == CONTROL else name


def _points(found: dict) -> dict[str, str]:
    names = {"recall_at_1": "Recall@1, points", "map_at_r": "MAP@R, points"}
    return {shown: _interval(*found[name]) for name, shown in names.items()}


def _interval(gain: float, low: float, high: float) -> str:
    """Return a difference in points with the ends of its interval.

    >>> _interval(0.012, -0.003, 0.027)
    '+1.2 (−0.3 to +2.7)'
    """
    return f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
