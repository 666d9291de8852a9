"""Memory and minutes reckoned before a training: against what can be counted by hand."""

import pytest
import small
import torch
from refusals import refused
from torch import nn

from cubslib import budget, inside, machine, optimizers, recipes, training
from cubslib.blocks import FASHIONS


@pytest.fixture
def real(begin):
    """Start a run that takes its drawn data for real ones."""

    def start(task, **asked):
        run = begin(task, **asked)
        run.resolved["dataset"] = "real"
        return run

    return start


def test_kept_bytes_are_each_storage_once_and_leave_the_network_as_it_is():
    """A convolution keeps its input and weights, a ReLU its output, which the next one shares."""
    first, second = (nn.Conv2d(channels, 8, 1, bias=False) for channels in (3, 8))
    layers = nn.Sequential(first, nn.ReLU(), second)
    for batch in (2, 5):
        images = 4 * batch * 16**2
        assert inside.kept_bytes(layers, 16, batch) == images * (3 + 8) + 4 * (3 * 8 + 8 * 8)
    normalised = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: x.clone() for name, x in normalised.state_dict().items()}
    drawn = torch.random.get_rng_state()
    inside.kept_bytes(normalised, 8, 2)
    inside.step_seconds(normalised, 8, 2)
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert 0 < optimizers.step_seconds(normalised, recipes.recipe("recognition", "cpu")) < 60
    assert all(torch.equal(x, before[name]) for name, x in normalised.state_dict().items())
    assert not normalised.training


def test_a_step_too_large_for_the_memory_is_refused_before_training(real, monkeypatch):
    run = real("T1", seed=3)
    model = small.small(run)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    monkeypatch.setattr(machine, "free_memory", lambda device: 100_000)
    refused(
        lambda: training.fit(run, "classification", model, nn.CrossEntropyLoss(), None),
        "classification needs about ",
        "for a step of 16 images of 48 pixels, and 0.0 GiB are free",
        f"-p data_root {run.asked['data_root']} -p batch_size 8 -p seed 3`",
    )
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert not list(run.folder.rglob("*.ckpt"))


def test_the_memory_of_a_step_is_that_of_its_images_and_the_optimizer(real, monkeypatch):
    run = real("T1")
    model, count = small.small(run, plain=True), 16
    few, more = (inside.kept_bytes(model, 48, batch) for batch in (1, 2))
    fixed = 12 * sum(x.numel() for x in model.parameters())
    free = iter(fixed + count * (more - few) + spare for spare in (1, -1))
    monkeypatch.setattr(machine, "free_memory", lambda _: next(free))
    reckon = lambda: budget.refuse_too_large(run, "classification", model, count)  # noqa: E731
    reckon()
    refused(reckon, "needs about")


def test_the_minutes_are_of_what_is_left_of_the_run(real, monkeypatch):
    """An image of S pixels takes S seconds: 3 epochs, 32 pixels for 0.6 of them, then 48.

    The optimizer takes 7 seconds a step.
    """
    monkeypatch.setattr(inside, "step_seconds", lambda model, side, batch, repeats: side * batch)
    monkeypatch.setattr(optimizers, "step_seconds", lambda model, recipe: 7)
    run = real("T3")
    train, val, size = len(run.train), len(run.val), run["image_size"]
    whole = 3 * train * (0.6 * 32 + 0.4 * 48) + 3 * val / 3 * size + 3 * train / 16 * 7
    last = train * 48 + val / 3 * size + train / 16 * 7
    for fit, done, expected in (
        (FASHIONS[0], 0, 3 * whole), (FASHIONS[0], 2, last + 2 * whole), (FASHIONS[2], 0, whole),
    ):  # fmt: skip
        found = budget.seconds_left(run, list(run["recipes"])[FASHIONS.index(fit)], None, 16, done)
        assert found == pytest.approx(expected)
    t4 = real("T4")  # without val
    work = 2 * 3 * len(t4.train) * (0.6 * 32 + 0.4 * 48 + 7 / 16)
    assert budget.seconds_left(t4, "classification", None, 16, 0) == pytest.approx(work)


@pytest.mark.parametrize(("seconds", "told"), [(1, "1 min"), (4800, "80 min"), (9000, "2.5 hours")])
def test_a_long_run_says_beforehand_how_long_it_takes(
    seconds, told, real, begin, monkeypatch, capsys
):
    monkeypatch.setattr(budget, "seconds_left", lambda *_: seconds)
    monkeypatch.setattr(machine, "free_memory", lambda device: None)  # it cannot be told
    run = real("T3", fashion="parallel")
    budget.reckon(run, "parallel", small.small(run), 10**6, 0)
    assert capsys.readouterr().out == (
        f"Expected: about {told} on this machine for parallel, reckoned from 3 measured steps at "
        "each size.\n"
    )
    run.resolved["dataset"] = "sample"
    budget.reckon(run, "parallel", None, 10**6, 0)
    assert capsys.readouterr().out == ""


def test_free_memory_is_told_or_not():
    free = machine.free_memory("cpu")
    assert free is None or 2**20 < free < 2**50
    assert machine.free_memory("mps") is None
