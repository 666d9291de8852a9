"""What may be asked: the four notebooks, and the table of their parameters.

Parameters are the notebooks' and, as `-p name value`, the command line's.
"""

import ast
import difflib
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cubslib import CubsError
from cubslib.blocks import FASHIONS
from cubslib.disk import fingerprint
from cubslib.losses import CONTROL, MININGS
from cubslib.recipes import PRESETS


@dataclass(frozen=True)
class Task:
    """What tells one of T1–T4 from the others.

    Attributes:
        notebook: its file's stem, after which its runs are named.
        data: the folder of its data set under `data_root`.
        fits: its trainings in their order: (name, kind of recipe, the parameter of its epochs).
    """

    notebook: str
    data: str
    fits: tuple[tuple[str, str, str], ...]


TASKS = {
    "T1": Task("T1_custom_cnn", "tiny-imagenet-200", (("classification", "custom_cnn", "epochs"),)),
    "T2": Task("T2_resnet18", "tiny-imagenet-200", (("classification", "recognition", "epochs"),)),
    "T3": Task(
        "T3_cubs_resnet18",
        "tiny-imagenet-200",
        tuple((fashion, "recognition", "epochs") for fashion in FASHIONS),
    ),
    "T4": Task(
        "T4_retrieval",
        "cars196",
        (
            ("classification", "classification", "classify_epochs"),
            ("embedding", "embedding", "embed_epochs"),
        ),
    ),
}
NOT_COMPARED = ("data_root", "run_dir", "restart")  # may differ when a run is continued or shown
LONGEST_NAME = 200  # bytes of a file's name; 255 are allowed
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
_T1_T3, _T3_T4, _T4 = ("T1", "T2", "T3"), ("T3", "T4"), ("T4",)


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        default: 0, "" and "auto" stand for the recipe's or the machine's. Its type is the
            parameter's: an `int` serves for `float`, a `bool` never for a number.
        meaning: what it does, with its unit.
        tasks: the notebooks that have it.
        range: what `holds` accepts, in words.
    """

    name: str
    default: object
    meaning: str
    tasks: tuple[str, ...] = tuple(TASKS)
    range: str = "any"
    holds: Callable[[object], bool] = lambda value: True


def _choice(name, default, meaning, tasks, *choices) -> Parameter:
    range = f"one of {', '.join(choices)}"
    return Parameter(name, default, meaning, tasks, range, choices.__contains__)


def _number(name, default, meaning, low, high, tasks=tuple(TASKS), zero=False, step=1) -> Parameter:
    """A number from `low` to `high`, a multiple of `step`; with `zero`, 0 as well."""
    range = f"{'0, or ' * zero}{low:,} to {high:,}" + f", a multiple of {step}" * (step > 1)

    def holds(n) -> bool:
        return (zero and n == 0) or (low <= n <= high and (step == 1 or n % step == 0))

    return Parameter(name, default, meaning, tasks, range, holds)


def _path(name, default, meaning, tasks=tuple(TASKS)) -> Parameter:
    """A path that file systems take, with room for what is added to a run's name."""
    range = f"a path without control characters, {LONGEST_NAME} bytes at most between its slashes"
    pattern = r"[^\x00-\x1f\x7f\ud800-\udfff]{0,1000}"
    holds = lambda path: re.fullmatch(pattern, path) and all(  # noqa: E731
        len(part.encode()) <= LONGEST_NAME for part in path.split("/"))  # fmt: skip
    return Parameter(name, default, meaning, tasks, range, holds)


_EPOCHS = {"low": 0, "high": 100_000}
TABLE = (
    _choice("fashion", "best", "how CUBS blocks are joined; best: chosen on val", _T3_T4, "best",
            *FASHIONS),
    _number("margin", 0.1, "ε of the loss's mining, a difference of cosines", 0, 100, _T4),
    _number("alpha", 2.0, "α, the loss's weight of positives", 0.001, 10_000, _T4),
    _number("beta", 50.0, "β, the loss's weight of negatives", 0.001, 10_000, _T4),
    _number("lam", 0.5, "λ, the cosine at which a pair weighs half", 0, 1, _T4),
    _choice("mining", "paper", "pairs the loss keeps; cross_entropy: stage 1 goes on", _T4,
            *MININGS, CONTROL),
    _number("embedding_dim", 512, "length of an embedding", 2, 65_536, _T4),
    _path("init_from", "auto", "auto: T3's weights if any; random; published; or a path", _T4),
    _path("data_root", "data", "folder of the data sets"),
    _choice("dataset", "auto", "auto: the real one if it is there", tuple(TASKS), "auto", "real",
            "sample"),
    _choice("preset", "auto", "the recipe; auto: by data and device", tuple(TASKS), "auto",
            *PRESETS),
    _number("epochs", 0, "passes over train; 0: the recipe's", tasks=_T1_T3, **_EPOCHS),
    _number("classify_epochs", 0, "passes of the first stage; 0: the recipe's", tasks=_T4,
            **_EPOCHS),
    _number("embed_epochs", 0, "passes of the second stage; 0: the recipe's", tasks=_T4, **_EPOCHS),
    _number("batch_size", 0, "images in a step, over all processes; 0: the recipe's", 2, 1_000_000,
            _T1_T3, zero=True),
    _number("batch_size", 0, "images in a step, over all processes; 0: the recipe's", 8, 1_000_000,
            _T4, zero=True, step=4),
    _number("lr", 0.0, "largest learning rate; 0: the recipe's", 0, 1000),
    _number("image_size", 0, "pixels a side that T4 reads at test; 0: the recipe's", 32, 4096, _T4,
            zero=True),
    Parameter("crop", False, "cut cars to their annotated box", _T4),
    _number("val_classes", 0, "training classes held back to choose a recipe by", 2, 98, _T4,
            zero=True),
    _number("limit_classes", 0, "first n classes only; 0: all", 2, 1_000_000, _T1_T3, zero=True),
    _number("limit_classes", 0, "first n classes of each side only; 0: all", 4, 1_000_000, _T4,
            zero=True),
    _number("seed", 0, "of the weights, the order and the augmentation", 0, 2**63 - 1),
    _path("run_dir", "", "folder of the results; empty: named after what is not at its default"),
    Parameter("restart", False, "begin anew and set the old results aside"),
)  # fmt: skip


def table(task: str) -> dict[str, Parameter]:
    """Return the parameters of `task` (`T1` … `T4`) by name, in the table's order."""
    return {row.name: row for row in TABLE if task in row.tasks}


def defaults(task: str) -> dict[str, object]:
    """Return the values of all parameters of `task` where none is given."""
    return {name: row.default for name, row in table(task).items()}


def changed(task: str, asked: dict[str, object]) -> dict[str, object]:
    """Return those of `asked` that are not at their default."""
    default = defaults(task)
    return {name: value for name, value in asked.items() if value != default.get(name)}


def check(task: str, given: dict[str, object]) -> dict[str, object]:
    """Return all parameters of `task`, those `given` in place of the defaults.

    Raises:
        CubsError: a name is unknown, or a value has a wrong type or is out of range.
    """
    rows, values = table(task), defaults(task)
    for name, value in given.items():
        _refuse_unknown(task, name, rows)
        values[name] = _checked(rows[name], value)
    return values


def of_all(given: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return for each of T1–T4 those `given` that it has; `run_dir` holds a folder for each.

    Raises:
        CubsError: as `check`; a name is unknown where none of the four has it.
    """
    for name in given:
        _refuse_unknown("run all", name, {row.name: row for row in TABLE})
    found = {}
    for task in TASKS:
        own = {name: value for name, value in given.items() if name in table(task)}
        asked = check(task, own)
        if asked["run_dir"]:
            own["run_dir"] = f"{asked['run_dir']}/{run_name(task, asked)}"
        found[task] = own
    return found


def _refuse_unknown(who: str, name: str, rows: dict[str, Parameter]) -> None:
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1)
        hint = f"did you mean {near[0]}" if near else f"it has {', '.join(rows)}"
        shown = name if name.isidentifier() else _short(name)
        raise CubsError(f"{who} has no parameter {shown}: {hint}.")


def _checked(row: Parameter, value: object) -> object:
    wanted, kind = f"{row.name} is {_short(value)}; it must be", type(row.default)
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise CubsError(f"{wanted} {_KINDS[kind]}.")
    if not row.holds(value):  # a number that is none (NaN) lies in no range
        raise CubsError(f"{wanted} {row.range}.")
    return kind(value)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def given(task: str, namespace: dict) -> dict[str, object]:
    """Return the parameters that a notebook's namespace sets.

    Names are those of the table and, so that a mistyped one is refused, those of the cell that
    papermill injects; its own `PAPERMILL_*` are let through.
    """
    names = [name for name in table(task) if name in namespace]
    injected = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    for cell in injected[-1:]:  # an earlier one was run again, corrected
        targets = (getattr(node, "targets", [None])[0] for node in ast.parse(cell).body)
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    names = [name for name in dict.fromkeys(names) if not name.startswith("PAPERMILL_")]
    return {name: namespace[name] for name in names}


def compared(asked: dict) -> dict[str, object]:
    """Return those of `asked` that say which run is meant, not where it or its data are."""
    return {name: value for name, value in asked.items() if name not in NOT_COMPARED}


def run_name(task: str, asked: dict) -> str:
    """Return how a run is called: the notebook and what is not at its default.

    Past 200 characters a fingerprint stands in place of the rest.

    >>> run_name("T4", check("T4", {"margin": 0.2}))
    'T4_retrieval,margin=0.2'
    """
    parts = [
        f"{name}={re.sub(r'[^A-Za-z0-9.+_-]', '_', str(value))}"
        for name, value in compared(changed(task, asked)).items()
    ]
    name = ",".join([TASKS[task].notebook, *parts])
    return name if len(name) <= LONGEST_NAME else f"{name[:183]},{fingerprint(name)}"


def command(task: str, asked: dict, **changes: object) -> str:
    """Return the command of a new run: as `asked`, with `changes`, in a folder of its own.

    >>> command("T1", check("T1", {"seed": 1, "run_dir": "mine"}), lr=0.05)
    'python -m cubslib run T1 -p lr 0.05 -p seed 1'
    """
    told = changed(task, asked | {"run_dir": "", "restart": False} | changes)
    pairs = [f" -p {name} {shlex.quote(str(value))}" for name, value in told.items()]
    return f"python -m cubslib run {task}" + "".join(pairs)


def differences(one: dict, other: dict, names: Iterable[str]) -> list[str]:
    """Return `name=value` of `other` for each of `names` whose value differs from that of `one`."""
    return [f"{name}={other.get(name)!r}" for name in names if one.get(name) != other.get(name)]
