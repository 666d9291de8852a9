"""Where the time of a training step of T1 and T3 goes, by torch.profiler, reading included."""

import prepared
import timing
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cubslib import machine, models
from cubslib.augment import Augmentation, augment, draws

SHOWN = 12  # operations a step; the rest is one row


def measure(name: str, model, size: int, quick: bool) -> list[dict]:
    """Return a row an operation: the time within it alone, all threads waiting for it."""
    how, count = prepared.recipe(), 8 if quick else 128
    data, _ = prepared.images("Tiny ImageNet", count, 64, quick)
    numbers, order = draws(count, 0, "fit", 0), torch.randperm(len(data))
    train = prepared.step(model, count, size, machine.precision("cpu"))

    def step() -> None:
        with record_function("reading"):
            images = data.read(order)
        with record_function("augmenting"):
            images = augment(images, numbers, Augmentation(**how.augmentation), size)
            images.contiguous(memory_format=torch.channels_last)
        train()

    repeats = 1 if quick else 5
    timing.seconds({"it": step}, 1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            step()
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    rows = [(e.key.removeprefix("aten::"), e.self_cpu_time_total, e.count) for e in events]
    rest = rows[SHOWN:]
    rows = rows[:SHOWN] + [("all else", sum(x[1] for x in rest), sum(x[2] for x in rest))]
    return [
        {
            "step": f"{name}, {size} px, batch {count}",
            "operation": key,
            "ms": taken / 1e3 / repeats,
            "share": taken / whole,
            "calls": calls // repeats,
        }
        for key, taken, calls in rows
    ]


def rows(quick: bool) -> list[dict]:
    """Return the rows of T1 and T3 at the recipe's first and last size."""
    (first, *_, last), found = (size for _, size in prepared.recipe().sizes), []
    for size in (first,) if quick else (first, last):
        found += measure("T1", models.CustomCNN(200), size, quick)
        found += measure("T3", models.cubs_resnet18(200, "serial_12"), size, quick)
    return found
