"""An observed outcome against the oracle's and the bank's → a verdict, in words and as a table."""

import html
import inspect
from typing import NamedTuple

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
        lines = list(map(html.escape, (self.said, *self.lines)))
        if self.found is not None:
            wrong = (~(_away(self.found, self.right) <= LOOSE)).flatten().tolist()
            for who, values in (("yours", self.found), ("right", self.right)):
                numbers = [f"{value:.4g}" for value in values.flatten().tolist()]
                marked = zip(numbers, wrong, strict=True)
                lines.append(f"{who}: {' '.join(f'<mark>{n}</mark>' if w else n for n, w in marked)}")
        cells = html.escape(self.name), self.state, "<br>".join(lines)
        return "<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells)


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
    named, case = [], fails[0]
    for mistake in mistakes.bank(name):
        wrong = mistakes.outcomes(name, mistake)
        tells = _telling(wrong, right)
        if case in tells and not any(gap(found[c], wrong[c])[0] for c in tells):
            named.append((len(tells), mistake, tells, max(gap(found[c], wrong[c])[1] for c in tells)))
    computed = [c for c in fails if "raises" not in found[c]]
    if not named or not computed:
        return Verdict(name, "unknown", _failure(case, found, right),
                       *_evidence(name, case, found, right, remarks))  # fmt: skip
    _, best, tells, equal = max(named, key=lambda row: row[0])
    lines = [f"equal to {max(equal, 1e-16):.0e} to that version, on {len(tells)} inputs",
             f"the right reading stands in the hand-out, {best.place}"]  # fmt: skip
    lines += [f"besides, {_failure(c, found, right)}" for c in fails if c not in tells][:1]
    evidence, *values = _evidence(name, computed[0], found, right, remarks)
    return Verdict(name, "mistake", best.what, (*lines, *evidence), *values)


def _telling(found: dict, right: dict) -> list[str]:
    return [case for case in right if gap(found[case], right[case])[0]]


def _failure(case: str, found: dict, right: dict) -> str:
    """Say what fails at an input, and by how much."""
    entry, away = gap(found[case], right[case])
    values, wanted = found[case].get(entry), right[case].get(entry)
    if entry == "raises":
        return f"at “{case}” it raises {found[case][entry]}".split("raises cannot")[-1]
    if values is None or values.shape != wanted.shape:
        shape = "is missing" if values is None else f"has shape {tuple(values.shape)}"
        return f"at “{case}” {entry} {shape}, not {tuple(wanted.shape)}"
    if not values.isfinite().all():
        return f"at “{case}” {entry} holds {'NaN' if values.isnan().any() else 'an infinity'}"
    if _is_fact(entry, wanted):
        return f"at “{case}” this does not hold: {entry}"
    return f"fails first at “{case}”: {entry} is off by {away:.2g} of its largest number"


def _is_fact(entry: str, wanted: Tensor) -> bool:
    return wanted.ndim == 0 and entry != "output"


def _evidence(name, case, found, right, remarks):
    """Return lines on the input, the smallest that shows a difference, and both values there."""
    entry, _ = gap(found[case], right[case])
    values, wanted = found[case].get(entry), right[case].get(entry)
    if values is None or entry == "raises" or values.shape != wanted.shape:
        return tuple(remarks), None, None
    observe, inputs = held.INPUTS[name]
    given = zip(list(inspect.signature(observe).parameters)[2:], inputs[case], strict=False)
    lines = [f"smallest input that shows it, “{case}”: "
             + ", ".join(f"{argument} = {_brief(value)}" for argument, value in given)]  # fmt: skip
    if "Block" in name:
        lines.append("with the parameters that cubslib.check.known(block) sets")
    if _is_fact(entry, wanted):
        return (*lines, f"this does not hold: {entry}", *remarks), None, None
    worst = _away(values, wanted).nan_to_num(torch.inf).argmax().item()
    yours, true = (f"{x.flatten()[worst]:.6g}" for x in (values, wanted))
    lines.append(f"{entry}{f', number {worst}' if wanted.ndim else ''}: yours {yours}, right {true}")
    return (*lines, *remarks), values, wanted


def _brief(value) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    return str(value.tolist()) if value.numel() <= 16 else f"numbers of shape {tuple(value.shape)}"
