"""`cubslib check`: the bank is told apart, wrong solutions are named, bad files get a sentence."""

import csv
import inspect
import itertools
import os
import re
import sys

import pytest
import torch
from submissions import PUBLIC, UNKNOWN
from torch import nn

from cubslib import blocks, check, datasets, losses, metrics, sampling
from cubslib.__main__ import main
from cubslib.check import held, mistakes, oracles
from cubslib.check.compare import LOOSE, distances, judge

NAMES = pytest.mark.parametrize("name", held.INPUTS)
LIBRARY = {
    "Block1": blocks.CubsBlock1, "Block2": blocks.CubsBlock2,
    "mine": lambda s, labels, margin: losses.MultiSimilarityLoss(margin=margin).mine(s, labels),
    "MultiSimilarityLoss": losses.MultiSimilarityLoss, "recall_at_k": metrics.recall_at_k,
    "class_balanced": lambda *how: sampling.class_balanced(*how, "embedding", 0),
    "TinyImageNet": datasets.TinyImageNet, "Cars196": datasets.Cars196,
}  # fmt: skip


def joined(fashion):
    """The library's fashion, of two blocks that are handed in."""

    def join(block1, block2, x):
        attention = blocks.CubsAttention(x.shape[1], fashion)
        attention.channel, attention.spatial = block1, block2
        return attention(x)

    return join


LIBRARY |= {fashion: joined(fashion) for fashion in blocks.FASHIONS}


@NAMES
def test_the_library_meets_every_demand(name):
    (verdict,) = check.check(name, LIBRARY[name])
    assert verdict.said == "met", verdict


@NAMES
def test_each_mistake_is_named_as_itself(name):
    """The confusion matrix of the bank, in single precision against double."""
    bank = mistakes.bank(name)
    versions = [mistakes.version(name), *(mistakes.version(name, mistake) for mistake in bank)]
    said = [judge(name, held.observed(name, version)[0]).said for version in versions]
    assert said == ["met", *(mistake.what for mistake in bank)]


@NAMES
def test_two_versions_differ_ten_times_more_than_single_precision_may(name):
    every = [mistakes.outcomes(name, mistake) for mistake in (None, *mistakes.bank(name))]
    for one, other in itertools.combinations(every, 2):
        away = [
            part.max()
            for case in one
            if "raises" not in one[case] | other[case]  # that one fails would not do
            for part in distances(one[case], other[case]).values()
        ]
        assert max(away) > 10 * LOOSE


def test_the_bank_is_as_large_as_promised():
    bank = {mistake for name in held.INPUTS for mistake in mistakes.bank(name)}
    assert len(bank) >= 40
    for mistake in bank:
        source = inspect.getsource(getattr(oracles, mistake.oracle))
        assert mistake.edits[0] in source, mistake


@pytest.mark.parametrize(("name", "thing", "word"), PUBLIC)
@pytest.mark.filterwarnings("ignore")
def test_mistakes_of_public_solutions_are_named(name, thing, word):
    (verdict,) = check.check(name, thing)
    assert word in verdict.said
    assert not verdict.said.startswith("unknown")
    for told in ("hand-out", "smallest input", "yours, ", "right, "):
        assert any(told in line for line in verdict.lines)


@pytest.mark.parametrize(("name", "thing"), UNKNOWN)
def test_what_the_bank_does_not_hold_is_called_unknown(name, thing):
    (verdict,) = check.check(name, thing)
    assert verdict.said.startswith("unknown: fails first at ")


class Scaled(oracles.Block2):
    def __init__(self, channels):
        super().__init__(channels)
        self.gamma = nn.Parameter(torch.zeros(1))


def block(forward):
    return type("Wrong", (oracles.Block2,), {"forward": forward})


@pytest.mark.parametrize(("name", "thing", "sentence"), [
    ("Block2", lambda: oracles.Block2(3), "raises TypeError.* takes 0 positional arguments"),
    ("Block2", 7, "raises TypeError: 'int' object is not callable"),
    ("Block2", Scaled, "parameters are gamma, query.weight.*, not those of query, key, value"),
    ("Block2", lambda channels: nn.Identity(), "parameters are none, not those of query"),
    ("Block2", block(lambda self, x: x.mean(1)), r"shape \(1, 1, 1\), not \(1, 2, 1, 1\)"),
    ("Block2", block(lambda self, x: None), "returns NoneType, not a tensor"),
    ("recall_at_k", lambda embeddings, labels, ks: dict.fromkeys(ks, torch.nan), "holds NaN"),
    ("recall_at_k", lambda embeddings, labels, ks: {}, "raises KeyError"),
    ("mine", lambda similarity, labels, margin: sys.exit(3), "raises SystemExit in line"),
    ("mine", lambda similarity, labels, margin: torch.zeros(2**30, 2**30), "allocate memory"),
    ("Cars196", lambda root, split: [(torch.zeros(9, 9, 3), 1)], "not \\(3, H, W\\)"),
])  # fmt: skip
def test_what_cannot_be_compared_gets_one_sentence(name, thing, sentence):
    (verdict,) = check.check(name, thing)
    assert verdict.said.startswith("unknown: ")
    assert re.search(sentence, verdict.said), verdict


def test_the_matrix_that_need_not_be_held_is_said_and_not_failed():
    for thing, kept in ((oracles.Block2, "65,536 numbers, the"), (blocks.CubsBlock2, "512")):
        (verdict,) = check.block2(thing)
        assert verdict.said == "met"
        assert kept in verdict.lines[-1]


def test_a_notebooks_table_marks_the_differing_entries():
    wrong = next(m for m in mistakes.bank("mine") if "anchor" in m.what)
    page = check.mine(mistakes.version("mine", wrong))._repr_html_()
    assert page.count("<mark>1</mark>") == page.count("<mark>0</mark>") > 0
    assert "<lambda>" not in check.mine(lambda: 0)._repr_html_()


FILES = {
    "broken.py": "def mine(:",
    "stops.py": """
import os, time
os.environ["SEEN"] = "1"
def mine(similarity, labels, margin): os.kill(os.getpid(), 11)
def recall_at_k(embeddings, labels, ks):
    while True: pass
def parallel(block1, block2, x): return block1(x) + block2(x) + bytearray(8 << 30)
def serial_12(block1, block2, x): return block1(block2(x))
def serial_21(block1, block2, x): return block1(block2(x))
""",
    "trains.py": "def mine(): pass\nwhile True: pass",
    "useless.py": "x = 1",
    "wants.py": "import nothing_such\ndef mine(): pass",
}


def test_a_folder_of_submissions_becomes_a_table(tmp_path, capsys):
    """A crash, an endless loop, too much memory: a sentence each, and the rest is still checked."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    table = tmp_path / "marks.csv"
    assert main(["check", str(tmp_path), "--csv", str(table), "--seconds", "3"]) == 1
    rows = {row["file"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert "broken.py: its import raises SyntaxError" in rows["broken.py"]["whole file"]
    stops = rows["stops.py"]
    assert stops["mine"] == "unknown: it ends the process (SIGSEGV)"
    assert "unknown: it still runs after 3 s" in stops["recall_at_k"]
    assert "raises MemoryError in line 7" in stops["parallel"]
    assert stops["serial_12"] == "the blocks come in the other order"
    assert stops["serial_21"] == "met"
    assert stops["Cars196"] == ""
    assert "its import still runs after 3 s" in rows["trains.py"]["whole file"]
    assert "none of the documented names" in rows["useless.py"]["whole file"]
    assert "ModuleNotFoundError in line 1" in rows["wants.py"]["whole file"]
    assert "serial_21            met" in capsys.readouterr().out
    assert "SEEN" not in os.environ


def test_the_template_has_every_name_and_is_not_written_over(tmp_path, capsys):
    file = tmp_path / "mine.py"
    assert main(["check", "--template", str(file)]) == 0
    exec(file.read_text(), written := {})
    for name in held.INPUTS:
        assert "raises NotImplementedError" in check.check(name, written[name])[0].said
    assert main(["check", "--template", str(file)]) == 1
    assert main(["check", str(tmp_path / "none.py")]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{file} is there already: name a new file.",
        f"{tmp_path / 'none.py'} is not there: give a Python file or a folder of them.",
        f"{tmp_path / 'empty'} is not there: give a Python file or a folder of them.",
    ]
