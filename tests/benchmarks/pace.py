"""The machine's pace: images/s in training torchvision's ResNet-18, 7x7 stem, faster precision."""

from cubslib import machine


def rows(quick: bool) -> list[dict]:
    """Return one row: what a run's record holds as `pace`."""
    return [{"px": 64, "batch": 128, "pace": machine.pace(1 if quick else 6)}]
