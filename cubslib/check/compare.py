"""An observed outcome against the oracle's and the bank's → a verdict, in words and as a table."""

import html
import inspect
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cubslib.check import held, mistakes

LOOSE, LOOSE_GRADIENT = 1e-4, 2e-3  # what single precision may differ by, of the largest number


def gap(found: dict, right: dict) -> tuple[str, float]:
    """Return at which entry two outcomes differ first, and by how much; "" where they agree.

    The distance is the largest of an entry's numbers, as a part of the largest in `right`; where
    the outcomes agree, gradients are not counted.
    """
    largest = 0.0
    if "raises" in found or "raises" in right:
        return ("", 0.0) if found.keys() == right.keys() else ("raises", torch.inf)
    for entry, wanted in right.items():
        if entry not in found or found[entry].shape != wanted.shape:
            return entry, torch.inf
        away, gradient = _away(found[entry], wanted).max().item(), entry.startswith("gradient")
        if not away <= (LOOSE_GRADIENT if gradient else LOOSE):
            return entry, away
        largest = max(largest, 0.0 if gradient else away)
    return "", largest


def _away(found: Tensor, right: Tensor) -> Tensor:
    size = right.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-2)
    alike = (found == right) | (found.isnan() & right.isnan())
    return (found - right).abs().div(size).masked_fill(alike, 0)  # inf - inf is NaN


class Verdict(NamedTuple):
    """What is said of one documented name.

    `state` is `met`, `mistake` or `unknown`; `said` the mistake, or what fails first; `lines` the
    evidence; `found` and `right` the two values at the smallest input.
    """

    name: str
    state: str
    said: str
    lines: tuple[str, ...] = ()
    found: Tensor | None = None
    right: Tensor | None = None

    def __str__(self):
        return "\n".join([f"{self.name:20} {self.state:8} {self.said}",
                          *(f"{'':29} {line}" for line in self.lines)])  # fmt: skip

    def _repr_html_(self):
        lines = [f"<b>{html.escape(self.said)}</b>", *map(html.escape, self.lines)]
        if self.found is not None:
            wrong = (~(_away(self.found, self.right) <= LOOSE)).flatten().tolist()
            for who, values in (("yours", self.found), ("right", self.right)):
                texts = [f"{value:.4g}" for value in values.flatten().tolist()]
                texts = [f"<mark>{t}</mark>" if w else t for t, w in zip(texts, wrong, strict=True)]
                width = values.shape[-1] if values.ndim else 1
                rows = (" ".join(texts[i : i + width]) for i in range(0, len(texts), width))
                lines.append(f"{who}:<br>{'<br>'.join(rows)}")
        cells = html.escape(self.name), self.state, "<br>".join(lines)
        style = "text-align: left; vertical-align: top"
        return "".join(["<tr>", *(f'<td style="{style}">{cell}</td>' for cell in cells), "</tr>"])


class Report(tuple):
    """The verdicts on a file or an object: prints as lines, shows as a table in a notebook."""

    def __repr__(self):
        return "\n".join(map(str, self))

    def _repr_html_(self):
        return f"<table>{''.join(verdict._repr_html_() for verdict in self)}</table>"


def judge(name: str, found: dict[str, dict], remarks=()) -> Verdict:
    """Return the verdict on what `held.outcomes` found.

    A mistake is named where all that tells it from the oracle, the first failure among it, is
    found just so; of several such mistakes it is the one that the most inputs tell.
    """
    right = mistakes.outcomes(name)
    fails = _telling(found, right)
    if not fails:
        return Verdict(name, "met", f"on all of: {', '.join(right)}", tuple(remarks))
    computed = [case for case in fails if "raises" not in found[case]]
    named = []
    for mistake in mistakes.bank(name) if computed else ():
        wrong = mistakes.outcomes(name, mistake)
        tells = _telling(wrong, right)
        if fails[0] in tells and not set(_telling(found, wrong)) & set(tells):
            equal = max(gap(found[case], wrong[case])[1] for case in tells)
            named.append((len(tells), mistake, tells, equal))
    if not named:
        said, lines, *values = _failure(name, fails[0], found, right)
        return Verdict(name, "unknown", said, (*lines, *remarks), *values)
    _, best, tells, equal = max(named, key=lambda row: row[0])
    _, lines, *values = _failure(name, computed[0], found, right)
    beside = [_failure(name, case, found, right)[0] for case in fails if case not in tells][:1]
    lines = [f"equal to {max(equal, 1e-16):.0e} to that version on {len(tells)} inputs",
             f"the right reading stands in the hand-out, {best.place}",
             *(f"besides, {said}" for said in beside), *lines, *remarks]  # fmt: skip
    return Verdict(name, "mistake", best.what, tuple(lines), *values)


def _telling(found: dict, right: dict) -> list[str]:
    return [case for case in right if gap(found[case], right[case])[0]]


def _failure(name: str, case: str, found: dict, right: dict):
    """Return what fails at an input, and by how much; lines of evidence; both values there."""
    entry, away = gap(found[case], right[case])
    values, wanted, at = found[case].get(entry), right[case].get(entry), f"at “{case}”"
    if entry == "raises":
        how = found[case][entry]
        return how if how.startswith("cannot") else f"{at} it raises {how}", (), None, None
    if values is None or values.shape != wanted.shape:
        shape = "none" if values is None else tuple(values.shape)
        return f"{at} {entry} has shape {shape}, not {tuple(wanted.shape)}", (), None, None
    observe, inputs = held.INPUTS[name]
    given = zip(list(inspect.signature(observe).parameters)[2:], inputs[case], strict=False)
    shown = ", ".join(f"{argument} = {_brief(value)}" for argument, value in given)
    lines = [f"smallest input that shows it, {case}: {shown}"]
    if "Block" in name:
        lines.append("with the parameters that cubslib.check.known(block) sets")
    if wanted.ndim == 0 and entry != "output":  # a fact
        said = f"{at} this does not hold: {entry}"
        return said, (*lines, said), None, None
    worst = _away(values, wanted).nan_to_num(torch.inf).argmax().item()
    yours, true = (f"{x.flatten()[worst]:.6g}" for x in (values, wanted))
    place = [int(i) for i in np.unravel_index(worst, wanted.shape)] or ""
    lines.append(f"{entry}{place}: yours {yours}, right {true}")
    if not values.isfinite().all():
        said = f"{at} {entry} holds {'NaN' if values.isnan().any() else 'an infinity'}"
    else:
        said = f"fails first {at}: {entry} is off by {away:.2g} of its largest number"
    return said, lines, values, wanted


def _brief(value) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    return str(value.tolist()) if value.numel() <= 16 else f"numbers of shape {tuple(value.shape)}"
