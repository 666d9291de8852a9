"""The machine's pace: images/s in training torchvision's ResNet-18, 7x7 stem, faster precision."""

import prepared
import timing
from torchvision.models import resnet18


def rows(quick: bool) -> list[dict]:
    """Return one row."""
    batch, size = (4, 32) if quick else (128, 64)
    steps = {
        precision: prepared.step(resnet18(num_classes=200), batch, size, precision)
        for precision in timing.precisions()
    }
    times = timing.seconds(steps, 1 if quick else 5)
    rates = {f"{name} images/s": batch / taken for name, taken in times.items()}
    return [{"px": size, "batch": batch, "pace": max(rates.values())} | rates]
