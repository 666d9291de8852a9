"""The command line: `python -m cubslib` with the commands below."""

import argparse
import os
import sys
from pathlib import Path

from cubslib import CubsError

# All else takes seconds to import and is imported where it is used.


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 for what cannot be done, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["check"]:
        from cubslib import check

        return check.main(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
        sys.stdout.flush()
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cubslib", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("check", help="hold one's own code against the hand-out, name the mistake")
    run = commands.add_parser("run", help="run a notebook; leave it and its HTML in its run_dir")
    run.add_argument("task", choices=("T1", "T2", "T3", "T4", "all"),
                     help="all: the four in their order, each with those parameters that it has; "
                     "run_dir then holds a folder for each")  # fmt: skip
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     dest="parameters", help="set a parameter, as papermill does")  # fmt: skip
    usage = run.format_help
    run.format_help = lambda: f"{usage()}\n{_parameters()}"
    run.set_defaults(command=lambda o: run_task(o.task, dict(map(_parsed, o.parameters))))
    report = commands.add_parser("report", help="make one site of all finished runs")
    report.add_argument("names", nargs="*", metavar="RUN",
                        help="only these runs; or one .ipynb, of which a page is made")  # fmt: skip
    report.set_defaults(command=lambda o: make_report(o.names))
    results = commands.add_parser("results", help="publish runs; remake the README's table of them")
    results.add_argument("names", nargs="*", metavar="RUN", help="finished runs to publish")
    results.add_argument("--weights", action="store_true", help="of T1 or T4: their weights too")
    results.set_defaults(command=lambda o: publish_results(o.names, o.weights))
    _add_photograph(commands)
    return parser


def _add_photograph(commands) -> None:
    """Add the commands about photographs."""
    search = commands.add_parser("search", help="find the gallery's nearest images to a photograph")
    search.set_defaults(command=lambda o: look_up("search", o))
    classify = commands.add_parser("classify", help="name the likeliest classes of a photograph")
    classify.set_defaults(command=lambda o: look_up("classify", o))
    for command, count in ((search, 8), (classify, 5)):
        command.add_argument("photo", type=Path)
        command.add_argument("--count", type=int, default=count, help="default: %(default)s")
    search.add_argument("--gallery", type=Path, metavar="FILE", help="what `gallery` has made")
    search.add_argument("--box", metavar="LEFT,TOP,RIGHT,BOTTOM",
                        help="look only at this part, in pixels of the photograph")  # fmt: skip
    search.add_argument("--sheet", type=Path, metavar="PNG",
                        help="save the photograph and what was found as one picture")  # fmt: skip
    gallery = commands.add_parser("gallery", help="embed a folder of images, to be searched")
    gallery.add_argument("folder", type=Path, help="sub-folders are taken for classes")
    gallery.add_argument("--out", type=Path, metavar="FILE", help="default: FOLDER.npz beside it")
    gallery.set_defaults(command=lambda o: look_up("gallery", o))
    for command in (search, classify, gallery):
        command.add_argument(
            "--run", type=Path, help="a finished run or `published`; default: the newest"
        )


def _parameters() -> str:
    """List every parameter with its meaning and range, and the notebooks that have it."""
    from cubslib.runs import parameters

    lines = ["parameters (default; what it may be; notebooks that have it):"]
    for row in parameters.TABLE:
        where = "" if len(row.tasks) == 4 else f"; {', '.join(row.tasks)}"
        lines.append(f"  {row.name:16} {row.meaning} ({row.default!r}; {row.range}{where})")
    return "\n".join(lines) + "\n"


def run_task(task: str, parameters: dict) -> None:
    """Run one notebook, or `all`."""
    from cubslib import course
    from cubslib.execution import run_notebook

    course.run(parameters, run_notebook) if task == "all" else run_notebook(task, parameters)


def make_report(names: list[str]) -> None:
    """Make the site of all finished runs, or of those named; or a page of one `.ipynb`."""
    from cubslib import machine
    from cubslib.pages import site, table
    from cubslib.runs import finished

    if len(names) == 1 and names[0].endswith(".ipynb"):
        print(f"page: {site.page(Path(names[0]))}")
        return
    root, names = machine.project_root() / "runs", tuple(Path(name).name for name in names)
    index = site.site(root, names)
    print(table.table(run for run in finished.find(root) if not names or run[0].name in names))
    print(f"report: {index}")


def publish_results(names: list[str], weights: bool) -> None:
    """Copy finished runs to notebooks/results/; remake the README's table and curves from there.

    Args:
        names: the runs' folders, or their names under `runs/`.
        weights: publish the named runs' weights as well.
    """
    from cubslib import machine
    from cubslib.pages import results
    from cubslib.runs import published

    if weights and not names:
        raise CubsError("--weights is given without a run: name those whose weights to publish.")
    try:
        for name in names:
            folder = Path(name) if Path(name).is_dir() else machine.project_root() / "runs" / name
            print(f"published: {published.publish(folder.resolve(), weights).name}")
    finally:  # one that is refused keeps none before it out of the README
        print(f"remade: {', '.join(results.remake())}")


def look_up(what: str, options: argparse.Namespace) -> None:
    """Do `search`, `gallery` or `classify`: see `photograph`, which takes seconds to import."""
    from cubslib import photograph

    getattr(photograph, what)(options)


def _parsed(pair: list[str]) -> tuple[str, object]:
    """Read a value as papermill does: True, False, None, a whole number, a number, else a text."""
    name, value = pair
    words = {"True": True, "False": False, "None": None}
    if value in words:
        return name, words[value]
    for number in (int, float):
        try:
            return name, number(value)
        except ValueError:
            continue
    return name, value


if __name__ == "__main__":
    sys.exit(main())
