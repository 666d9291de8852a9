"""An observed outcome against the oracle's and the bank's → a verdict, in words and as a table."""

from html import escape
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cubslib.check import held, mistakes

BRIEF = {"threshold": 16, "edgeitems": 1, "separator": ", ", "max_line_width": 1000}
LOOSE = 1e-3  # what single precision may differ by, as a part of the largest number


def distances(found: dict, right: dict) -> dict[str, Tensor]:
    """Return each entry's differences, as parts of the largest number in `right`.

    They are infinite where two entries cannot be compared.
    """
    if "raises" in found or "raises" in right:
        return {"raises": torch.tensor(0.0 if found.keys() == right.keys() else torch.inf)}
    away = dict.fromkeys(right, torch.tensor(torch.inf))
    for entry, wanted in right.items():
        if found[entry].shape == wanted.shape:
            size = wanted.double().abs().max().clamp(min=1e-2)
            difference = (found[entry].double() - wanted.double()).abs() / size
            away[entry] = difference.nan_to_num(torch.inf, torch.inf)
    return away


def first_far(found: dict, right: dict) -> str:
    """Return the first entry at which two outcomes differ; "" where they agree."""
    return next((e for e, away in distances(found, right).items() if away.max() > LOOSE), "")


class Verdict(NamedTuple):
    """What is said of a documented name: "met", the mistake, or "unknown: …"; and the evidence."""

    name: str
    said: str
    lines: tuple[str, ...] = ()


class Report(tuple):
    """The verdicts on a file or an object: prints as lines, shows as a table in a notebook.

    Differing entries stand between › and ‹, in the table they are marked.
    """

    def __repr__(self):
        return "\n".join(f"{v.name:20} " + f"\n{'':21}".join([v.said, *v.lines]) for v in self)

    def _repr_html_(self):
        cell, rows = '<td style="text-align: left; vertical-align: top">', ""
        for name, *said in ((v.name, v.said, *v.lines) for v in self):
            rows += f"<tr>{cell}{name}</td>{cell}{'<br>'.join(map(escape, said))}</td></tr>"
        return f"<table>{rows}</table>".replace("›", "<mark>").replace("‹", "</mark>")


def judge(name: str, found: dict[str, dict], remarks=()) -> Verdict:
    """Return the verdict on what `held.observed` found; a mistake is named if all is equal."""
    right = mistakes.outcomes(name)
    fails = [case for case in right if first_far(found[case], right[case])]
    if not fails:
        return Verdict(name, "met", tuple(remarks))
    first, *lines = _failure(name, fails[0], found[fails[0]], right[fails[0]])
    first = f"fails first at “{fails[0]}”: {first}"
    for mistake in mistakes.bank(name):
        wrong = mistakes.outcomes(name, mistake)
        if not any(first_far(found[case], wrong[case]) for case in right):
            away = (distances(found[case], wrong[case]).values() for case in fails)
            equal = max(x.max().item() for entries in away for x in entries)
            lines = [f"equal to {max(equal, 1e-16):.0e} to that version on every input",
                     f"the right reading stands in the hand-out, {mistake.place}",
                     first, *lines, *remarks]  # fmt: skip
            return Verdict(name, mistake.what, tuple(lines))
    return Verdict(name, f"unknown: {first}", (*lines, *remarks))


def _failure(name: str, case: str, found: dict, right: dict):
    """Return what fails at an input, and the evidence: the input, and both values."""
    given = held.INPUTS[name][1][case].items()
    shown = ", ".join(f"{k} = {np.array2string(np.asarray(x), **BRIEF)}" for k, x in given)
    shown = f"smallest input that shows it, {case}: {' '.join(shown.split())}"
    entry = first_far(found, right)
    if entry == "raises":
        return f"it {found[entry]}", shown
    yours, wanted, away = found[entry], right[entry], distances(found, right)[entry]
    if yours.shape != wanted.shape:
        return f"{entry} has shape {tuple(yours.shape)}, not {tuple(wanted.shape)}", shown
    if wanted.dtype == torch.bool and wanted.ndim == 0:
        return f"this does not hold: {entry}", shown
    far = (away > LOOSE).flatten().nonzero().flatten().tolist()
    listed = range(wanted.numel()) if wanted.numel() <= 36 else far[:6]
    values = []
    for who, x in (("yours", yours), ("right", wanted)):
        texts = [f"›{x.flatten()[i]:.4g}‹" if i in far else f"{x.flatten()[i]:.4g}" for i in listed]
        values.append(f"{who}, {entry}: {' '.join(texts)}")
    off = (yours.double() - wanted.double()).abs().max()
    how = "holds NaN" if off.isnan() else f"is off by up to {off:.2g}"
    return f"{entry} {how}", shown, *values
