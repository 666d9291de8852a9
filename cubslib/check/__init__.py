"""Hold one's own code against the oracles, and hear which mistake it is.

`python -m cubslib check mine.py`, or `check.loss(MyLoss)` in a notebook, checks each of these:

    Block1(channels, features)(x)  x (B, C, H, W) gated by channel; Linear layers query, key, value
        and project are all its parameters
    Block2(channels)(x)  x gated by position; 1 × 1 Conv2d layers query, key, value
    parallel(block1, block2, x), serial_12(...), serial_21(...)  x through both blocks, joined
    mine(similarity, labels, margin)  the hard positives and hard negatives, both boolean (m, m)
    MultiSimilarityLoss(alpha, beta, lam, margin)(embeddings, labels)  (m, D), (m,) → a scalar
    recall_at_k(embeddings, labels, ks)  {K: share in [0, 1]}, by cosine; ties count against the
        query, and a query whose class has no other image is a miss
    class_balanced(labels, batch_size, seed)  batches of positions: min(batch_size / 4, classes)
        classes, 4 images of each; an image repeats only where its class has fewer than 4
    TinyImageNet(root, split)[position]  (image, label): RGB (3, H, W), uint8 or float in [0, 1];
        split is train, val or test
    Cars196(root, split)[position]  the same; split is train or test, label the official one - 1

Blocks get the parameters that `cubslib.check.known(block)` sets. Images come as the files hold
them (`train` may be varied), Tiny ImageNet's classes are numbered from 0 by sorted wnid, and which
tenth of the train images is `val` is free.
"""

import argparse
import ast
import csv
import inspect
import sys
from functools import partial
from pathlib import Path

from cubslib import CubsError
from cubslib.check import held, oracles, process
from cubslib.check.compare import Report, judge
from cubslib.check.held import known

__all__ = ["check", "known", "main", "template"]


def check(name: str, thing) -> Report:
    """Return the verdict on an object of a notebook, which runs in this process.

    Args:
        name: the documented name that it stands for.
        thing: the class or function.
    """
    return Report([judge(name, *held.observed(name, thing))])


_checks = [partial(check, name) for name in held.INPUTS]
block1, block2, parallel, serial_12, serial_21, mine = _checks[:6]
loss, recall, sampler, tiny_imagenet, cars196 = _checks[6:]


def template() -> str:
    """Return a file with all documented names, their bodies left to its reader."""
    tree = ast.parse(inspect.getsource(oracles))
    tree.body = [node for node in tree.body if getattr(node, "name", "") in held.INPUTS]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            said = node.body[:1] if ast.get_docstring(node) else []
            node.body = [*said, *ast.parse("raise NotImplementedError").body]
    text = ast.unparse(tree).replace("\nclass", "\n\nclass")
    return f'"""{__doc__}"""\n\nfrom torch import nn\n\n{text}\n'


def main(arguments: list[str] | None = None) -> int:
    """Check a file or a folder of files; return 0 where all is met, else 1."""
    parser = argparse.ArgumentParser("python -m cubslib check", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("path", type=Path, help="a file, or a folder of files")
    parser.add_argument("--template", action="store_true", help="write the file, to be filled in")
    parser.add_argument("--csv", type=Path, help="a table: one row per file, one column per name")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of time for a name")
    asked = parser.parse_args(arguments)
    path, files = asked.path, sorted(asked.path.glob("*.py")) or [asked.path]
    if asked.template and path.exists():
        print(f"{path} is there already: name a new file.", file=sys.stderr)
        return 1
    if asked.template:
        path.write_text(template())
        return 0
    rows = [{"file": file.name} | _cells(file, asked.seconds) for file in files]
    if asked.csv:
        with open(asked.csv, "w", newline="") as out:
            table = csv.DictWriter(out, ["file", *held.INPUTS, "whole file"])
            table.writeheader()
            table.writerows(rows)
    return int(any(cell != "met" for row in rows for cell in list(row.values())[1:]))


def _cells(file, seconds):
    """Check a file and print the report; return a name → its verdict, or what is wrong with all."""
    try:
        report = process.check(file, seconds)
    except CubsError as error:
        print(error, file=sys.stderr, flush=True)
        return {"whole file": str(error)}
    print(f"{file.name}\n{report}", flush=True)
    return {verdict.name: verdict.said for verdict in report}
