"""What T4 shows query by query: easy and hard classes, both stages, where the gates look, mix-ups.

Shapes: N test images, C channels, H × W positions.
"""

import re

import numpy as np
import torch
from IPython.display import Markdown
from torch import Tensor

from cubslib import inside, metrics
from cubslib.augment import prepare
from cubslib.blocks import CubsBlock1
from cubslib.controls import STAGES
from cubslib.pages import browser, pictures, plots
from cubslib.pages.retrieval import embedded, nearest
from cubslib.pages.table import Table
from cubslib.runs import Run
from cubslib.training import load

NEAREST = 8


def classes(run: Run) -> Markdown:
    """Show Recall@1 of the classes that the final embedding finds best and worst."""
    hits = (metrics.nearer_negatives(*embedded(run, "embedding")) < 1).double()
    targets = run.test.targets
    recall = torch.zeros(len(run.test.classes)).double().index_add_(0, targets, hits)
    recall /= targets.bincount()
    plots.show(plots.worst_classes(recall, run.test.classes), run.figure("classes"))
    best, worst = (run.test.classes[i] for i in (recall.argmax(), recall.argmin()))
    return Markdown(
        f"Recall@1 by class lies between {recall.min():.0%} ({worst}) and {recall.max():.0%} "
        f"({best}); the median is {recall.median():.0%}."
    )


def before_and_after(run: Run, queries: int = 2) -> Markdown:
    """Show the nearest of the same queries after either stage: most gained, then most lost.

    Args:
        run: a finished run.
        queries: of each kind.
    """
    stages = [nearest(run, stage, NEAREST) for stage in STAGES]
    _, found, right = (torch.stack(both, 1) for both in zip(*stages, strict=True))  # (N, 2, 8)
    before, after = right.sum(2).unbind(1)
    order = (after - before).argsort(descending=True, stable=True)
    chosen = torch.cat([order[:queries], order[-queries:].flip(0)])
    rows, nearest_rows = chosen.repeat_interleave(2), found[chosen].flatten(0, 1)
    names = [run.test.classes[target] for target in run.test.targets[rows]]
    titles = [f"{('before', 'after')[i % 2]}: {name}" for i, name in enumerate(names)]
    images = run.test.read(nearest_rows.flatten()).unflatten(0, nearest_rows.shape)
    hits = right[chosen].flatten(0, 1)
    drawn = pictures.gallery(run.test.read(rows), images, hits, titles)
    plots.show(drawn, run.figure("before_and_after"))
    one, two = right[:, :, 0].unbind(1)
    both, lost, won = (x.sum().item() for x in (one & two, one & ~two, ~one & two))
    return Markdown(
        "The same queries before and after the second stage, first those that gained most, then "
        f"those that lost most. Of {len(one):,} queries the nearest is right after both stages for "
        f"{both:,}, after the first alone for {lost:,}, after the second alone for {won:,}."
    )


def gates(run: Run) -> Markdown:
    """Show where both gates look on a query and its nearest, one pair that is right, one wrong.

    Each is the pair of highest cosine. Block 2's gate is shown as it is; block 1's, which has no
    places, as the share of the activation that it lets through at each place,
    Σ_c gate_c x_c / Σ_c x_c. Both are of the residual block where they vary most over places.
    """
    cosines, found, right = (x[:, 0] for x in nearest(run, "embedding", 1))
    pairs, titles = [], []
    for kind, those in (("right", right), ("wrong", ~right)):
        if those.any():
            query = cosines.where(those, -2).argmax()
            pairs += [query.item(), found[query].item()]
            titles += [f"{kind}: query", f"{kind}: nearest"]
    images, told = run.test.read(pairs), []
    maps = _maps(load(run.folder), prepare(images, run["image_size"]))
    for block, name, places in maps:
        plots.show(pictures.gate_maps(images, places, titles), run.figure(f"gates_block_{block}"))
        told.append(f"block {block} after {name}, {places.min():.3f} to {places.max():.3f}")
    return Markdown(
        "Where both gates look on a query and its nearest, a pair that is right and one that is "
        f"wrong: {'; then '.join(told)}."
    )


def _maps(model, images: Tensor) -> list[tuple[int, str, Tensor]]:
    """Return for either block where it looks: its number, the residual block, (N, H, W)."""
    best: dict[int, tuple[float, str, Tensor]] = {}
    for name, block, x in inside.block_inputs(model, images):
        number, gate = 2 - isinstance(block, CubsBlock1), block.gate(x).detach().float()
        if number == 1:
            gate = (gate[..., None, None] * x).sum(1) / x.sum(1).clamp(min=1e-6)
        spread = gate.flatten(1).std(1, correction=0).mean().item()
        if number not in best or spread > best[number][0]:
            best[number] = spread, name, gate
    return [(number, *best[number][1:]) for number in sorted(best)]


def mixed_up(run: Run) -> Table | Markdown:
    """Tabulate in what a wrong nearest image still agrees: make, body type, year; draw the bodies.

    They are read from the classes' names; a part that fewer than half of the classes tell is left
    out. Chance is an image of another class, drawn at random.
    """
    _, found, right = (x[:, 0] for x in nearest(run, "embedding", 1))
    labels, names, rows = run.test.labels, run.test.classes, []
    parts = {"make": browser.make, "body type": browser.body, "year": _year}
    for part, read in parts.items():
        kinds, number = np.unique([read(name) for name in names], return_inverse=True)
        told = torch.from_numpy((kinds != "")[number])  # of each class
        if told.float().mean() < 0.5 or right.all():
            continue
        kind = torch.from_numpy(number)[run.test.targets]  # (N,)
        known = ~right & told[run.test.targets]
        same = kind[known, None] == kind
        other = labels[known, None] != labels
        rows.append({
            "part of the name": part, "kinds": len(kinds),
            "same though the class is wrong": f"{(kind[found] == kind)[known].double().mean():.0%}",
            "by chance": f"{((same & other).sum(1) / other.sum(1)).mean():.0%}",
        })  # fmt: skip
        if part == "body type":
            counts = metrics.confusion(kind[found], kind, len(kinds))
            shown = [kind or "none told" for kind in kinds.tolist()]
            plots.show(plots.confusion(counts, shown), run.figure("bodies"))
    return Table(rows) if rows else Markdown("The classes' names tell no make, body type or year.")


def _year(name: str) -> str:
    """Return the year that ends the name of a class, "" where there is none.

    >>> _year("Fiat 500 Abarth 2012"), _year("class 7")
    ('2012', '')
    """
    found = re.search(r"\b(19|20)\d\d$", name)
    return found[0] if found else ""
