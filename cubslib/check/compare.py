"""An observed outcome against the oracle's and the bank's → a verdict, in words and as a table."""

import html
import inspect
from typing import NamedTuple

import torch
from torch import Tensor

from cubslib.check import held, mistakes

LOOSE, LOOSE_GRADIENT = 1e-4, 2e-3  # what single precision may differ by, of the largest number


def gap(found: dict, right: dict) -> tuple[str, float]:
    """Return at which entry two outcomes differ first, and how far; "" where they agree.

    The distance is the largest of an entry's numbers, relative to the largest in `right`; where
    they agree, gradients are not counted.
    """
    if "raises" in found or "raises" in right:
        return ("", 0.0) if found.keys() == right.keys() else ("raises", torch.inf)
    largest = 0.0
    for entry, values in right.items():
        if entry not in found or found[entry].shape != values.shape:
            return entry, torch.inf
        away = _away(found[entry], values).max().item()
        if not away <= (LOOSE_GRADIENT if entry.startswith("gradient") else LOOSE):
            return entry, away
        largest = max(largest, 0.0 if entry.startswith("gradient") else away)
    return "", largest


def _away(found: Tensor, right: Tensor) -> Tensor:
    size = right[right.isfinite()].abs().amax().clamp(min=1e-3) if right.isfinite().any() else 1.0
    return (found - right).abs().div(size).masked_fill(found == right, 0)  # inf - inf is NaN


class Verdict(NamedTuple):
    """What is said of one documented name; `state` is `met`, `mistake` or `unknown`.

    `said` is the mistake's name or what fails first, `lines` the evidence, `remarks` what is said
    of speed and memory; `found` and `right` are the two values at the smallest input.
    """

    name: str
    state: str
    said: str
    lines: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    found: Tensor | None = None
    right: Tensor | None = None

    def __str__(self):
        head = f"{self.name:20} {self.state:8} {self.said}"
        lines = *self.lines, *(f"({remark})" for remark in self.remarks)
        return "\n".join([head, *(f"{'':29} {line}" for line in lines)])

    def _repr_html_(self) -> str:
        rows = [f"<b>{html.escape(self.said)}</b>"]
        rows += map(html.escape, (*self.lines, *self.remarks))
        if self.found is not None:
            wrong = ~(_away(self.found, self.right) <= LOOSE)
            for who, values in (("yours", self.found), ("right", self.right)):
                numbers = (f"<mark>{v:.4g}</mark>" if bad else f"{v:.4g}"
                           for v, bad in zip(values.flatten().tolist(), wrong.flatten().tolist(),
                                             strict=True))  # fmt: skip
                rows.append(f"{who}: {' '.join(numbers)}")
        cells = (html.escape(self.name), self.state, "<br>".join(rows))
        return (
            "<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells) + "</tr>"
        )


class Report(tuple):
    """The verdicts on one file or object: prints as lines, shows as a table in a notebook."""

    def __repr__(self):
        return "\n".join(map(str, self))

    def _repr_html_(self):
        return f"<table>{''.join(verdict._repr_html_() for verdict in self)}</table>"


def judge(name: str, found: dict[str, dict], remarks: list[str] = ()) -> Verdict:
    """Return the verdict on what `held.outcomes` found."""
    right, remarks = mistakes.outcomes(name), tuple(remarks)
    fails = [case for case in right if gap(found[case], right[case])[0]]
    if not fails:
        return Verdict(name, "met", f"on all {len(right)} inputs: {', '.join(right)}", (), remarks)
    best, explained = None, []
    for mistake in mistakes.bank(name):
        wrong = mistakes.outcomes(name, mistake)
        shows = [case for case in right if gap(wrong[case], right[case])[0]]
        alike = all(not gap(found[case], wrong[case])[0] for case in shows)
        computed = any("raises" not in found[case] for case in shows)
        if alike and computed and fails[0] in shows and len(shows) > len(explained):
            best, explained = mistake, shows
    if best is None:
        return _evidence(
            name, "unknown", _first(fails[0], found, right), [], fails[0], found, right, remarks
        )
    wrong = mistakes.outcomes(name, best)
    equal = max(gap(found[case], wrong[case])[1] for case in explained)
    lines = [f"equal to {max(equal, 1e-16):.0e} to that version, on {len(explained)} inputs",
             f"the right reading stands in the hand-out, {best.place}"]  # fmt: skip
    if beside := [case for case in fails if case not in explained]:
        lines.append(f"besides, {_first(beside[0], found, right)}")
    case = next(case for case in explained if "raises" not in found[case])
    return _evidence(name, "mistake", best.what, lines, case, found, right, remarks)


def _first(case: str, found: dict, right: dict) -> str:
    """Say what fails at an input, and by how much."""
    entry, away = gap(found[case], right[case])
    values, wanted = found[case].get(entry), right[case].get(entry)
    if entry == "raises":
        how = found[case]["raises"]
        return how if how.startswith("cannot") else f"at “{case}” it raises {how}"
    if values is None or values.shape != wanted.shape:
        shape = None if values is None else tuple(values.shape)
        return f"at “{case}” {entry} has shape {shape}, not {tuple(wanted.shape)}"
    if values.isnan().any():
        return f"at “{case}” {entry} holds NaN"
    if _is_fact(entry, wanted):
        return f"at “{case}” this does not hold: {entry}"
    return f"fails first at “{case}”: {entry} is off by {away:.2g} of its largest number"


def _evidence(name, state, said, lines, case, found, right, remarks):
    """Return a verdict with the smallest input that shows the difference, and both values."""
    entry = gap(found[case], right[case])[0]
    values, wanted = found[case].get(entry), right[case].get(entry)
    if entry == "raises" or values is None or values.shape != wanted.shape:
        return Verdict(name, state, said, tuple(lines), remarks)
    subject = held.SUBJECTS[name]
    names = list(inspect.signature(subject.observe).parameters)[2:]
    given = ", ".join(
        f"{n} = {_brief(v)}" for n, v in zip(names, subject.inputs[case], strict=False)
    )
    lines = [*lines, f"smallest input that shows it, “{case}”: {given}"]
    if "Block" in name:
        lines.append("with the parameters of cubslib.check.known(block)")
    if _is_fact(entry, wanted):
        return Verdict(name, state, said, (*lines, f"does not hold: {entry}"), remarks)
    worst = _away(values, wanted).nan_to_num(torch.inf).argmax().item()
    where = "" if wanted.ndim == 0 else f", number {worst}"
    lines.append(
        f"{entry}{where}: yours {values.flatten()[worst]:.6g}, right {wanted.flatten()[worst]:.6g}"
    )
    return Verdict(name, state, said, tuple(lines), remarks, values, wanted)


def _is_fact(entry: str, wanted: Tensor) -> bool:
    return wanted.ndim == 0 and entry != "output"


def _brief(value) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    return f"numbers of shape {tuple(value.shape)}" if value.numel() > 16 else str(value.tolist())
