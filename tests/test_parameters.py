import math

import pytest

from cubslib import CubsError
from cubslib.losses import CONTROL, MININGS
from cubslib.recipes import PRESETS
from cubslib.runs import parameters
from cubslib.runs.parameters import check

COMMON = {
    "data_root": "data", "dataset": "auto", "preset": "auto", "batch_size": 0, "lr": 0.0,
    "limit_classes": 0, "seed": 0, "run_dir": "", "restart": False,
}  # fmt: skip
OWN = {
    "T1": {"epochs": 0},
    "T2": {"epochs": 0},
    "T3": {"epochs": 0, "fashion": "best"},
    "T4": {
        "classify_epochs": 0, "embed_epochs": 0, "fashion": "best", "init_from": "auto",
        "embedding_dim": 512, "margin": 0.1, "alpha": 2.0, "beta": 50.0, "lam": 0.5,
        "mining": "paper", "image_size": 0, "crop": False, "val_classes": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("task", OWN)
def test_every_task_has_the_agreed_parameters_at_their_defaults(task):
    assert parameters.defaults(task) == check(task, {}) == COMMON | OWN[task]
    for name, row in parameters.table(task).items():
        assert type(check(task, {})[name]) is type(row.default)
        assert row.meaning
        assert row.range


def test_what_is_given_stands_in_place_of_the_defaults():
    given = {"margin": 0, "seed": 2**40}
    values = check("T4", given)
    assert values == COMMON | OWN["T4"] | {"margin": 0.0, "seed": 2**40}
    assert type(values["margin"]) is float
    assert type(given["margin"]) is int  # what was given is left as it was


@pytest.mark.parametrize(("task", "name", "values"), [
    ("T1", "epochs", (1, 100_000)), ("T1", "batch_size", (2, 7)), ("T1", "lr", (1e-9, 1000)),
    ("T4", "batch_size", (8, 100)), ("T1", "limit_classes", (2,)), ("T4", "lam", (0, 1)),
    ("T4", "limit_classes", (4,)), ("T4", "val_classes", (2, 98)), ("T1", "seed", (2**63 - 1,)),
    ("T4", "embedding_dim", (2,)), ("T4", "image_size", (32,)), ("T2", "run_dir", ("a, b",)),
    ("T2", "restart", (True,)), ("T4", "margin", (0,)), ("T3", "fashion", ("serial_21",)),
    ("T4", "mining", (*MININGS, CONTROL)), ("T1", "preset", PRESETS),
])  # fmt: skip
def test_the_ends_of_a_range_are_within(task, name, values):
    for value in values:
        assert check(task, {name: value})[name] == value


@pytest.mark.parametrize(("task", "name", "value", "sentence"), [
    ("T1", "margin", 0.2, "T1 has no parameter margin: it has"),
    ("T4", "epochs", 3, "T4 has no parameter epochs: "),
    ("T4", "marginn", 3, "T4 has no parameter marginn: did you mean margin"),
    ("T1", "restart", "false", "restart is 'false'; it must be True or False"),
    ("T1", "restart", 1, "restart is 1; it must be True or False"),
    ("T1", "epochs", 1e3, "epochs is 1000.0; it must be a whole number"),
    ("T1", "epochs", True, "epochs is True; it must be a whole number"),
    ("T1", "epochs", None, "epochs is None; it must be a whole number"),
    ("T1", "lr", True, "lr is True; it must be a number"),
    ("T1", "lr", "1e-3", "lr is '1e-3'; it must be a number"),
    ("T1", "run_dir", 7, "run_dir is 7; it must be a text"),
    ("T1", "data_root", ["x" * 99], "data_root is .{57}[.]{3}; it must be a text"),
    pytest.param("T1", "epochs", 10**5000, "epochs is a number of thousands of digits; it must",
                 id="an integer that Python does not write out"),
    ("T1", "epochs", -3, "epochs is -3; it must be 0 to 100,000"),
    ("T1", "epochs", 100_001, "epochs is 100001; it must be 0 to 100,000"),
    ("T1", "seed", -1, "seed is -1; it must be 0 to"),
    ("T1", "seed", 2**63, "seed is 9223372036854775808; it must be 0 to"),
    ("T1", "lr", -0.1, "lr is -0.1; it must be 0 to 1,000"),
    ("T1", "lr", 10**400, "lr is 10{56}[.]{3}; it must be 0 to 1,000"),
    ("T1", "lr", math.inf, "lr is inf; it must be 0 to 1,000"),
    ("T1", "lr", math.nan, "lr is nan; it must be 0 to 1,000"),
    ("T1", "batch_size", 1, "batch_size is 1; it must be 0, or 2 to"),
    ("T1", "batch_size", -4, "batch_size is -4; it must be 0, or 2 to"),
    ("T4", "batch_size", 4, "batch_size is 4; .* 0, or 8 to .*, a multiple of 4"),
    ("T4", "batch_size", 10, "batch_size is 10; .* a multiple of 4"),
    ("T1", "limit_classes", 1, "limit_classes is 1; it must be 0, or 2 to"),
    ("T4", "limit_classes", 3, "limit_classes is 3; it must be 0, or 4 to"),
    ("T4", "classify_epochs", -1, "classify_epochs is -1; it must be 0 to"),
    ("T4", "embed_epochs", -1, "embed_epochs is -1; it must be 0 to"),
    ("T4", "val_classes", 1, "val_classes is 1; it must be 0, or 2 to 98"),
    ("T4", "val_classes", 99, "val_classes is 99; it must be 0, or 2 to 98"),
    ("T4", "margin", -1, "margin is -1; it must be 0 to"),
    ("T4", "margin", False, "margin is False; it must be a number"),
    ("T4", "alpha", 0, "alpha is 0; it must be 0.001 to"),
    ("T4", "alpha", math.inf, "alpha is inf; it must be 0.001 to"),
    ("T4", "beta", -50, "beta is -50; it must be 0.001 to"),
    ("T4", "lam", 1.01, "lam is 1.01; it must be 0 to 1"),
    ("T4", "embedding_dim", 1, "embedding_dim is 1; it must be 2 to"),
    ("T4", "embedding_dim", 10**7, "embedding_dim is 10000000; it must be 2 to"),
    ("T4", "image_size", 31, "image_size is 31; it must be 0, or 32 to"),
    ("T4", "mining", "hard", "mining is 'hard'; it must be one of paper, all, hardest"),
    ("T3", "fashion", "serial", "fashion is 'serial'; it must be one of best, parallel"),
    ("T1", "dataset", "Real", "dataset is 'Real'; it must be one of auto, real, sample"),
    ("T1", "preset", "tpu", "preset is 'tpu'; it must be one of auto, sample, tour, cpu, gpu"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_what_would_be_right(task, name, value, sentence):
    with pytest.raises(CubsError, match=rf"^{sentence}[^\n]*\.$"):
        check(task, {name: value})


def test_only_the_table_and_the_cell_injected_last_are_asked():
    injected = "# Parameters\nmargin = 0.2\nPAPERMILL_OUTPUT_PATH = 'x'\n"
    cells = ["", "import os\nmargn = 1", "# Parameters\nmargn = 1", injected, "margin: float = 0.1"]
    namespace = {"In": cells, "run": None, "margin": 0.2, "margn": 1, "crop": False}
    namespace["PAPERMILL_OUTPUT_PATH"] = "x"
    assert parameters.given("T4", namespace) == {"margin": 0.2, "crop": False}
    cells[3] += "margn = 1"
    assert parameters.given("T4", namespace) == {"margin": 0.2, "crop": False, "margn": 1}


@pytest.mark.parametrize(("asked", "name"), [
    ({}, "T4_retrieval"),
    ({"data_root": "else/where", "restart": True, "run_dir": "x"}, "T4_retrieval"),
    ({"margin": 0.1, "lr": 0}, "T4_retrieval"),
    ({"margin": 0.2, "dataset": "sample"}, "T4_retrieval,margin=0.2,dataset=sample"),
    ({"crop": True, "lr": 1e-5}, "T4_retrieval,lr=1e-05,crop=True"),
    ({"init_from": "../a run~1,/é"}, "T4_retrieval,init_from=.._a_run_1___"),
])  # fmt: skip
def test_a_run_is_named_after_what_is_not_at_its_default(asked, name):
    assert parameters.run_name("T4", check("T4", asked)) == name
