"""Hold one's own code against the oracles, and hear which mistake it is.

`python -m cubslib check mine.py`, or `check.loss(MyLoss)` in a notebook, checks each of these:

    Block1(channels, features)(x): x (B, C, H, W) gated by channel; Linear query, key, value, project
    Block2(channels)(x): x gated by position; its layers are 1 × 1 Conv2d query, key, value
    parallel(block1, block2, x): both blocks joined; serial_12 and serial_21 likewise
    serial_12(block1, block2, x): block 1, then block 2
    serial_21(block1, block2, x): block 2, then block 1
    mine(similarity, labels, margin): the hard positives and hard negatives, two boolean (m, m)
    MultiSimilarityLoss(alpha, beta, lam, margin)(embeddings, labels): (m, D) and (m,) to a scalar
    recall_at_k(embeddings, labels, ks): {K: share in [0, 1]} by cosine; ties count against the
        query, a query whose class has no other image is a miss
    class_balanced(labels, batch_size, seed): batches of positions, min(batch_size / 4, classes)
        classes with 4 images each; an image repeats only where its class has fewer than 4
    TinyImageNet(root, split)[position]: (image, label), uint8 or float in [0, 1] (3, H, W), RGB
    Cars196(root, split)[position]: the same; split is train, val (not of Cars196) or test, labels
        run from 0 (Cars196: the official one - 1)
"""

import argparse
import csv
import re
import sys
from functools import partial
from pathlib import Path

from cubslib import CubsError
from cubslib.check import held, process
from cubslib.check.compare import Report, judge
from cubslib.check.held import known
from cubslib.disk import whole

__all__ = ["known", "main", "of", "template"]


def of(name: str, thing) -> Report:
    """Return the verdict on an object of a notebook, which runs in this process.

    Args:
        name: the documented name that it stands for.
        thing: the class or function.
    """
    found = held.outcomes(name, thing)
    return Report([judge(name, found, held.remarks(name, thing, found))])


block1, block2 = partial(of, "Block1"), partial(of, "Block2")
parallel, serial_12 = partial(of, "parallel"), partial(of, "serial_12")
serial_21, mine = partial(of, "serial_21"), partial(of, "mine")
loss, recall = partial(of, "MultiSimilarityLoss"), partial(of, "recall_at_k")
sampler = partial(of, "class_balanced")
tiny_imagenet, cars196 = partial(of, "TinyImageNet"), partial(of, "Cars196")


def template() -> str:
    """Return a file with all documented names, to be written by its reader."""
    text, stub = '"""My own solution."""\n\nfrom torch import nn\n', "raise NotImplementedError\n"
    page = re.sub(r"\n {8}", " ", __doc__)
    for name, made, called, what in re.findall(
        r"^    (\w+)\((.*?)\)(\(.*?\)|\[.*?\])?: (.*)", page, re.M
    ):
        if not called:
            text += f'\n\ndef {name}({made}):\n    """{what}"""\n    {stub}'
            continue
        base, call = ("(nn.Module)", "forward") if called[0] == "(" else ("", "__getitem__")
        text += f'\n\nclass {name}{base}:\n    """{what}"""\n\n    def __init__(self, {made}):\n        '
        text += f"{stub}\n    def {call}(self, {called[1:-1]}):\n        {stub}"
        text += "" if base else f"\n    def __len__(self):\n        {stub}"
    return text


def main(arguments: list[str] | None = None) -> int:
    """Check a file or a folder of files; return 0 where all is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m cubslib check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("path", type=Path, nargs="?", help="a file, or a folder of files")
    parser.add_argument("--template", type=Path, help="write a file with all names to be filled in")
    parser.add_argument("--csv", type=Path, help="write a table, a row a file and a column a name")
    parser.add_argument("--seconds", type=float, default=20, help="limit of time for each name")
    parser.add_argument("--memory", type=float, default=4, help="limit of memory in GiB")
    options = parser.parse_args(arguments)
    try:
        if options.template:
            if options.template.exists():
                raise CubsError(f"{options.template} is there already: name a new file.")
            options.template.write_text(template())
        if not options.path:
            return 0 if options.template else parser.error("give a file or a folder to check")
        return _check(options)
    except (CubsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _check(options) -> int:
    files = [options.path]
    if options.path.is_dir() and not (files := sorted(options.path.glob("*.py"))):
        raise CubsError(f"{options.path} holds no .py file: give a file, or a folder of them.")
    rows = []
    for file in files:
        try:
            report = process.check(file, options.seconds, options.memory)
            rows.append(
                {"file": file.name}
                | {
                    v.name: v.said
                    if v.state == "mistake"
                    else v.state
                    if v.state == "met"
                    else f"unknown: {v.said}"
                    for v in report
                }
            )
            print(f"{file.name}\n{report}", flush=True)
        except CubsError as error:
            if len(files) == 1 and not options.csv:
                raise
            rows.append({"file": file.name, "whole file": str(error)})
            print(error, flush=True)
    if options.csv:
        with whole(options.csv) as part, open(part, "w", newline="") as out:
            table = csv.DictWriter(out, ["file", *held.SUBJECTS, "whole file"], restval="")
            table.writeheader()
            table.writerows(rows)
    cells = [cell for row in rows for name, cell in row.items() if name != "file"]
    return int(any(cell != "met" for cell in cells))
