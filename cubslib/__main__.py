"""The command line: `python -m cubslib run | report | results | search | classify | check`."""

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
    search = commands.add_parser("search", help="find the gallery's nearest images to a photograph")
    search.set_defaults(command=lambda o: look_up("search", o, ("T4",)))
    classify = commands.add_parser("classify", help="name the likeliest classes of a photograph")
    classify.set_defaults(command=lambda o: look_up("classify", o, ("T3", "T2", "T1")))
    for command, count in ((search, 8), (classify, 5)):
        command.add_argument("photo", type=Path)
        command.add_argument(
            "--run", type=Path, help="a finished run or `published`; default: the newest"
        )
        command.add_argument("--count", type=int, default=count, help="default: %(default)s")
    return parser


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

    for name in names:
        folder = Path(name) if Path(name).is_dir() else machine.project_root() / "runs" / name
        print(f"published: {published.publish(folder.resolve(), weights).name}")
    print(f"remade: {', '.join(results.remake())}")


def look_up(what: str, options: argparse.Namespace, tasks: tuple[str, ...]) -> None:
    """Print what a finished run knows about one photograph, a line a match, best first.

    Args:
        what: `search` or `classify`.
        options: `photo`; `run`, None for the newest of `tasks`, else a published one; `count`.
        tasks: whose runs serve.

    Raises:
        CubsError: there is no such run, or the photograph cannot be read.
    """
    from cubslib import machine, scoring, training
    from cubslib.runs import finished

    if options.count < 1:
        raise CubsError(f"--count is {options.count}; it must be 1 or more.")
    run_dir = options.run
    if run_dir in (None, Path("published")):
        run_dir = _serving(tasks, run_dir is None)
    if what == "search" and (run_dir / "best.ckpt").is_file():  # published, without its gallery
        print(scoring.rebuild_gallery(run_dir, machine.project_root() / "data"), file=sys.stderr)
    if what == "search":
        found = scoring.search(run_dir, options.photo, options.count)
        lines = [f"{cosine:7.3f}  {of_class}  ({name})" for name, of_class, cosine in found]
    else:
        found = scoring.classify(training.load(run_dir), options.photo, options.count)
        lines = [f"{probability:7.1%}  {of_class}" for of_class, probability in found]
    if run_dir.is_dir() and finished.read(run_dir)["dataset"] == "sample":
        print("SAMPLE DATA: this run was trained on pictures drawn by the library; what it says of "
              "a photograph means nothing.")  # fmt: skip
    print("\n".join([f"by {run_dir.name}:", *lines]))


def _serving(tasks: tuple[str, ...], own: bool) -> Path:
    """Return the newest finished run of `tasks`, if `own` may serve; else a published one."""
    from cubslib import machine
    from cubslib.losses import CONTROL  # T4's control embeds nothing
    from cubslib.runs import finished, published

    found = finished.find(machine.project_root() / "runs") if own else []
    run_dir = next((folder for folder, record in found if record["task"] in tasks
                    and record["settings"].get("mining") != CONTROL), None)  # fmt: skip
    if run_dir is None:
        run_dir = next((folder for folder, _ in published.find(*tasks)), None)
        if run_dir and own:
            print("There is no finished run of your own: a published one serves.", file=sys.stderr)
    if run_dir is None:
        where = "there is no finished run" if own else "notebooks/results/ holds no weights"
        raise CubsError(f"{where} of {' or '.join(tasks)}: run one first.")
    return run_dir


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
