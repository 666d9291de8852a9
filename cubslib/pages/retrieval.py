"""What T4 shows of its galleries: recall, similarities, mined pairs, neighbours.

Shapes: N images, D dimensions of an embedding, K neighbours of each.
"""

import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import Tensor

from cubslib import controls, losses, metrics, scoring
from cubslib.pages import pictures, plots
from cubslib.pages.table import Table
from cubslib.runs import Run
from cubslib.sampling import IMAGES_PER_CLASS, class_balanced

MARGINS = (0.0, 0.05, 0.1, 0.2, 0.5)


def recalls(run: Run) -> Markdown:
    """Show Recall@K of both stages and of a random order."""
    found = {s: {int(k): x for k, x in row.items()} for s, row in run.record["recall"].items()}
    chance = metrics.chance(run.test.labels)
    plots.show(plots.recall_bars(found, chance), run.figure("recall"))
    gains = ", ".join(f"{100 * (found['embedding'][k] - found['classification'][k]):+.1f} at {k}"
                      for k in chance)  # fmt: skip
    return Markdown(f"The second stage changes recall by {gains} (points).")


def seen_and_unseen(run: Run) -> Table:
    """Tabulate Recall@1 of both stages on classes trained on and on unseen ones.

    Both on the same number of images a class, the first ones; chance stands beside each.
    """
    rows = [{"stage": stage} for stage in controls.STAGES]
    for row in rows:
        for side in ("seen", "unseen"):
            embeddings, labels = embedded(run, row["stage"], seen=side == "seen")
            first = scoring.first_of_each(labels, scoring.FIRST)
            embeddings, labels = embeddings[first], labels[first]
            recall = metrics.recall_at_k(embeddings, labels, (1,))[1]
            row[f"Recall@1, {side} classes"] = f"{recall:.1%}"
            row[f"chance, {side}"] = f"{metrics.chance(labels, (1,))[1]:.1%}"
    return Table(rows)


def similarities(run: Run) -> Markdown:
    """Show the cosines of pairs of unseen images, of one class and of two, before and after.

    Between them those of the classifier's features centred, where the run kept their mean.
    """
    stages, told = {}, []
    shown = (*controls.STAGES[:1], "centred", *controls.STAGES[1:])
    rows = {name: row for name, *row in controls.rows(run.arrays) if name in shown}
    for stage in (name for name in shown if name in rows):
        embeddings, labels = F.normalize(rows[stage][0], dim=1), rows[stage][1]
        first = scoring.first_of_each(labels, scoring.FIRST)
        cosines, own = embeddings[first] @ embeddings[first].T, labels[first]
        same = own[:, None] == own[None, :]
        upper = torch.ones_like(same).triu(1)
        kinds = {"one class": cosines[same & upper], "two classes": cosines[~same & upper]}
        stages[stage] = {kind: values.numpy() for kind, values in kinds.items()}
        one, two = kinds.values()
        spread = ((one.var() + two.var()) / 2).sqrt()
        told.append(f"after {stage} {(one.mean() - two.mean()) / spread:.2f}")
    plots.show(plots.similarities(stages), run.figure("similarities"))
    return Markdown("Distance of the two means in standard deviations: " + ", ".join(told) + ".")


def mined(run: Run, stage: str) -> Table:
    """Tabulate which pairs of a batch the rule keeps at other margins, and the loss.

    Args:
        run: the batch is drawn as the second stage draws its own, but from the first images of
            each training class, not augmented.
        stage: whose embeddings are compared, `classification` or `embedding`.
    """
    embeddings, labels = embedded(run, stage, seen=True)
    batch = class_balanced(labels, run.recipe("embedding").batch_size, run.seed, "embedding", 0)[0]
    embeddings, labels = embeddings[batch], labels[batch]
    cosines, rows = embeddings @ embeddings.T, []
    positive, negative = losses.MultiSimilarityLoss(mining="all").mine(cosines, labels)
    how = {name: run[name] for name in ("alpha", "beta", "lam", "mining")}
    if how["mining"] == losses.CONTROL:  # it mines nothing: the paper's rule is shown
        how["mining"] = "paper"
    for margin in sorted({*MARGINS, run["margin"]}):
        criterion = losses.MultiSimilarityLoss(margin=margin, **how)
        kept = criterion.mine(cosines, labels)
        rows.append(
            {
                "margin ε": f"{margin:g}" + " (this run)" * (margin == run["margin"]),
                "positives kept": f"{kept[0].sum() / positive.sum().clamp(min=1):.0%}",
                "negatives kept": f"{kept[1].sum() / negative.sum().clamp(min=1):.0%}",
                "loss": f"{criterion(embeddings, labels).item():.3f}",
            }
        )
    return Table(rows)


def terms(run: Run) -> Markdown:
    """Show the loss's two terms and the pairs that the mining keeps, by epoch of stage 2."""
    rows = run.epochs("embedding")
    if "pull" not in rows[0]:
        return Markdown("This run's second stage has no pairs, or kept no account of them.")
    names = {"terms of the loss": ("pull", "push"),
             "pairs kept an image": ("positives_kept", "negatives_kept")}  # fmt: skip
    panels = {panel: {name.removesuffix("_kept"): [row[name] for row in rows] for name in kept}
              for panel, kept in names.items()}  # fmt: skip
    plots.show(plots.lines(panels, [row["epoch"] for row in rows], "epoch"), run.figure("terms"))
    batch = run.recipe("embedding").batch_size
    told = [f"{name.removesuffix('_kept')} {rows[0][name]:.3g} → {rows[-1][name]:.3g}"
            for kept in names.values() for name in kept]  # fmt: skip
    return Markdown(
        f"From the first epoch to the last: {', '.join(told)}; an image of a batch of {batch} has "
        f"{IMAGES_PER_CLASS - 1} positives and up to {batch - IMAGES_PER_CLASS} negatives."
    )


def neighbours(run: Run, queries: int = 6, count: int = 8) -> Markdown:
    """Show queries of unseen classes with what the final embedding finds nearest to them.

    They are spread evenly over the queries by how many of their nearest are right, from the best
    to the worst.
    """
    _, found, right = nearest(run, "embedding", count)
    order = right.sum(1).argsort(descending=True, stable=True)
    chosen = order[torch.linspace(0, len(order) - 1, queries).long()]
    images = run.test.read(found[chosen].flatten()).unflatten(0, (queries, -1))
    titles = [run.test.classes[target] for target in run.test.targets[chosen]]
    drawn = pictures.gallery(run.test.read(chosen), images, right[chosen], titles)
    plots.show(drawn, run.figure("gallery"))
    full, none = (right.all(1).sum().item(), (~right.any(1)).sum().item())
    return Markdown(
        f"From the best query to the worst. All {right.shape[1]} nearest are right for {full:,} of "
        f"{len(found):,} queries, none for {none:,}."
    )


def mistakes(run: Run, count: int = 4) -> Markdown:
    """Show the queries whose nearest other image is of another class and most similar, in pairs."""
    cosines, found, right = (x[:, 0] for x in nearest(run, "embedding", 1))
    wrong = torch.nonzero(~right)[:, 0]
    if not len(wrong):
        return Markdown("The nearest other image is always of the query's class.")
    worst = wrong[cosines[wrong].argsort(descending=True)[:count]]
    pairs = torch.stack([worst, found[worst]], dim=1).flatten()
    names = [run.test.classes[target] for target in run.test.targets[pairs]]
    titles = [f"{'query' if i % 2 == 0 else 'nearest'}: {name}" for i, name in enumerate(names)]
    plots.show(pictures.image_grid(run.test.read(pairs), titles), run.figure("mistakes"))
    return Markdown(
        f"{len(wrong):,} of {len(found):,} queries have an image of another class nearest; the "
        f"closest such pair has cosine {cosines[worst[0]]:.3f}."
    )


def nearest(run: Run, stage: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest others of each unseen image after a stage of a finished run.

    They are (N, K) each: cosines, positions, and whether they are of the image's own class.
    """
    embeddings, labels = embedded(run, stage)
    cosines, found = metrics.neighbours(embeddings, embeddings, count, torch.arange(len(labels)))
    return cosines, found, labels[found] == labels[:, None]


def embedded(run: Run, stage: str, seen: bool = False) -> tuple[Tensor, Tensor]:
    """Return a finished run's embeddings (N, D) after a stage and their labels (N,)."""
    labels = run.arrays["seen_labels" if seen else "labels"]
    return scoring.gallery(run, stage, None, seen), torch.from_numpy(labels)
