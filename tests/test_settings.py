import math

import pytest
import torch

from cubslib import CubsError, settings
from cubslib.augment import Augmentation
from cubslib.losses import MININGS
from cubslib.models import STEMS
from cubslib.settings import RECIPES, check, recipe

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
    assert settings.defaults(task) == check(task, {}) == COMMON | OWN[task]
    for name, value in check(task, {}).items():
        assert type(value) is settings.PARAMETERS[name].type
        assert settings.PARAMETERS[name].meaning


def test_what_is_given_stands_in_place_of_the_defaults():
    given = {"margin": 0, "seed": 2**40}
    values = check("T4", given)
    assert values == COMMON | OWN["T4"] | {"margin": 0.0, "seed": 2**40}
    assert type(values["margin"]) is float
    assert type(given["margin"]) is int  # what was given is left as it was


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [
        ("T1", "epochs", 1), ("T1", "batch_size", 2), ("T1", "batch_size", 7), ("T1", "lr", 1e-9),
        ("T4", "batch_size", 8), ("T4", "batch_size", 100), ("T1", "limit_classes", 2),
        ("T4", "limit_classes", 4), ("T4", "val_classes", 2), ("T4", "lam", 1), ("T4", "lam", 0),
        ("T4", "embedding_dim", 2), ("T4", "image_size", 32), ("T4", "mining", "hardest"),
        ("T3", "fashion", "serial_21"), ("T2", "run_dir", "any, text"), ("T2", "restart", True),
    ],
)  # fmt: skip
def test_the_ends_of_a_range_are_within(task, name, value):
    assert check(task, {name: value})[name] == value


@pytest.mark.parametrize(
    ("task", "name", "value", "sentence"),
    [
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
        ("T1", "epochs", -3, "epochs is -3; it must be 0 or more"),
        ("T1", "seed", -1, "seed is -1; it must be 0 or more"),
        ("T1", "lr", -0.1, "lr is -0.1; it must be 0 or more"),
        ("T1", "lr", math.inf, "lr is inf; it must be 0 or more"),
        ("T1", "lr", math.nan, "lr is nan; it must be 0 or more"),
        ("T4", "alpha", math.inf, "alpha is inf; it must be more than 0"),
        ("T1", "batch_size", 1, "batch_size is 1; it must be 0 or at least 2"),
        ("T1", "batch_size", -4, "batch_size is -4; it must be 0 or at least 2"),
        ("T4", "batch_size", 4, "batch_size is 4; .* a multiple of 4 from 8"),
        ("T4", "batch_size", 10, "batch_size is 10; .* a multiple of 4 from 8"),
        ("T1", "limit_classes", 1, "limit_classes is 1; it must be 0 or at least 2"),
        ("T4", "limit_classes", 3, "limit_classes is 3; .* at least 4"),
        ("T4", "classify_epochs", -1, "classify_epochs is -1; it must be 0 or more"),
        ("T4", "embed_epochs", -1, "embed_epochs is -1; it must be 0 or more"),
        ("T4", "val_classes", 1, "val_classes is 1; it must be 0, or 2 to half"),
        ("T4", "margin", -1, "margin is -1; it must be 0 or more"),
        ("T4", "alpha", 0, "alpha is 0; it must be more than 0"),
        ("T4", "beta", -50, "beta is -50; it must be more than 0"),
        ("T4", "lam", 1.01, "lam is 1.01; it must be 0 to 1"),
        ("T4", "embedding_dim", 1, "embedding_dim is 1; it must be 2 or more"),
        ("T4", "image_size", 31, "image_size is 31; it must be 0 or at least 32"),
        ("T4", "mining", "hard", "mining is 'hard'; it must be one of paper, all, hardest"),
        ("T3", "fashion", "serial", "fashion is 'serial'; it must be one of best, parallel"),
        ("T1", "dataset", "Real", "dataset is 'Real'; it must be one of auto, real, sample"),
        ("T1", "preset", "tpu", "preset is 'tpu'; it must be one of auto, sample, cpu, gpu"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(task, name, value, sentence):
    with pytest.raises(CubsError, match=rf"^{sentence}[^\n]*\.$"):
        check(task, {name: value})


def test_a_recipe_keeps_its_own_where_0_is_asked():
    own = RECIPES["embedding", "cpu"]
    assert recipe("embedding", "cpu") == own
    changed = recipe("embedding", "cpu", epochs=7, lr=0.25)
    assert (changed.epochs, changed.lr, changed.batch_size) == (7, 0.25, own.batch_size)
    assert changed.augmentation == own.augmentation


@pytest.mark.parametrize("kind", ["recognition", "classification", "embedding"])
@pytest.mark.parametrize("preset", ["sample", "cpu", "gpu"])
def test_every_recipe_can_be_followed(kind, preset):
    found = RECIPES[kind, preset]
    shares = [share for share, _ in found.sizes]
    assert shares[0] == 0
    assert shares == sorted(set(shares))
    assert shares[-1] < 1
    assert min(side for _, side in found.sizes) >= 32
    assert found.test_size >= found.sizes[-1][1]
    assert found.stem in STEMS
    assert Augmentation(**found.augmentation).flip
    task = "T1" if kind == "recognition" else "T4"
    check(task, {"batch_size": found.batch_size, "lr": found.lr})


def test_the_tables_texts_are_those_of_the_modules():
    assert settings.PARAMETERS["mining"].choices == MININGS
    assert set(settings.PARAMETERS["preset"].choices[1:]) == {preset for _, preset in RECIPES}


@pytest.mark.parametrize(
    ("cuda", "mps", "name"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert settings.device() == name


@pytest.mark.parametrize(
    ("device", "can", "name"),
    [("cuda", True, "bf16-mixed"), ("cuda", False, "16-mixed"), ("cpu", True, "bf16-mixed"),
     ("cpu", False, "32-true"), ("mps", True, "32-true")],
)  # fmt: skip
def test_half_precision_is_used_where_the_hardware_has_it(monkeypatch, device, can, name):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: can)
    assert settings.precision(device) == name
