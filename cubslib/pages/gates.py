"""What T3 shows of its gates: where they look, how they are spread, what attention does to them."""

import torch
from IPython.display import Markdown

from cubslib import inside, models
from cubslib.augment import prepare
from cubslib.blocks import FASHIONS, GATE_BIAS, CubsBlock1
from cubslib.pages import pictures, plots
from cubslib.pages.table import Table
from cubslib.pages.views import spaced
from cubslib.runs import Run
from cubslib.training import load

SHOWN = 8  # images under their gates
JUDGED = 128  # images that the numbers are made from


def statistics(run: Run) -> Table:
    """Tabulate what each gate does on val images, and how much of it is attention's work."""
    return Table(inside.gate_statistics(load(run.folder), _images(run, run.val, JUDGED)))


def positions(run: Run) -> Markdown:
    """Show block 2's gates on test images, after the first residual block."""
    shown = run.test.read(spaced(len(run.test), SHOWN))
    _, spatial = inside.gates(load(run.folder), prepare(shown, run["image_size"]))
    name, maps = next(iter(spatial.items()))
    titles = [f"image {i + 1}" for i in range(len(shown))]
    plots.show(pictures.gate_maps(shown, maps, titles), run.figure("gate_maps"))
    return Markdown(
        f"After {name} the gates of these places lie between {maps.min():.3f} and {maps.max():.3f}."
    )


def channels(run: Run) -> Markdown:
    """Show how block 1's gates are spread over images and channels, by residual block."""
    channel, _ = inside.gates(load(run.folder), _images(run, run.val, JUDGED))
    plots.show(plots.channel_gates(channel), run.figure("channel_gates"))
    widest = max(channel, key=lambda name: channel[name].std())
    return Markdown(f"The gates differ most after {widest} (standard deviation "
                    f"{channel[widest].std():.3f}).")  # fmt: skip


def functions(run: Run) -> Markdown:
    """Draw what attention over scalars is: for one image a function f of the query, by block."""
    inputs = inside.block_inputs(load(run.folder), _images(run, run.val, 1))
    panels, ranges = {}, []
    for name, block, x in inputs[:2]:
        queries, found = (values[0] for values in inside.attended(block, x))
        order = queries.argsort()
        grid = torch.linspace(0, len(order) - 1, 64).long()
        kind = "block 1" if isinstance(block, CubsBlock1) else "block 2"
        panels[f"{kind} after {name}"] = {"f": found[order[grid]]}
        ranges.append(f"{kind}: queries from {queries.min():.2f} to {queries.max():.2f} give "
                      f"{found.min():.3f} to {found.max():.3f}")  # fmt: skip
    share = torch.linspace(0, 1, 64)
    plots.show(plots.lines(panels, share, "rank of the query"), run.figure("functions"))
    return Markdown(f"One image, {'; '.join(ranges)}.")


def _images(run: Run, data, count: int) -> torch.Tensor:
    return prepare(data.read(spaced(len(data), count)), run["image_size"])


@torch.no_grad()
def near_identity(run: Run) -> Table:
    """Put an untrained ResNet-18's weights under untrained blocks: how far do the logits move?

    A column a start of the gates: the one that trains, and 5.
    """
    stem, count = run["stem"], len(run.train.classes)
    torch.manual_seed(run.seed)
    plain = models.resnet18(count, stem).eval()
    images, rows = _images(run, run.val, JUDGED), []
    wanted = plain(images)
    for fashion in FASHIONS:
        rows.append({"fashion": fashion})
        for bias in (GATE_BIAS, 5.0):
            attending = models.cubs_resnet18(count, fashion, stem, bias).eval()
            attending.load_state_dict(plain.state_dict(), strict=False)
            moved = ((attending(images) - wanted).norm() / wanted.norm()).item()
            rows[-1][f"change of the logits, bias {bias:g}"] = f"{moved:.3f}"
    return Table(rows)
