"""The command line: `python -m cubslib run | report | search | classify | check`."""

import argparse
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from cubslib import CubsError, records, settings
from cubslib.disk import whole


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 for what cannot be done, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["check"]:
        from cubslib import check

        return check.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m cubslib", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run a notebook; leave it and its HTML in its run_dir")
    run.add_argument("task", choices=list(settings.NOTEBOOKS))
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                     dest="parameters", help="set a parameter, as papermill does")  # fmt: skip
    run.set_defaults(command=lambda o: run_notebook(o.task, dict(map(_parsed, o.parameters))))
    report = commands.add_parser("report", help="make one site of all finished runs")
    report.add_argument("notebook", type=Path, nargs="?", help="instead, a page of one notebook")
    report.set_defaults(command=lambda o: make_report(o.notebook))
    for name, tasks, what in (
        ("search", ("T4",), "find the gallery's nearest images to a photograph"),
        ("classify", ("T3", "T2", "T1"), "name the likeliest classes of a photograph"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("photo", type=Path)
        command.add_argument("--run", type=Path, help="a finished run; by default the newest")
        command.set_defaults(
            command=lambda o, name=name, tasks=tasks: look_up(name, o.photo, o.run, tasks)
        )
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def run_notebook(task: str, parameters: dict) -> None:
    """Run a notebook by papermill, a line an epoch in the terminal.

    All is checked before a kernel starts. The notebook and its HTML are left in the run's folder.

    Args:
        task: `T1` … `T4`.
        parameters: by name.

    Raises:
        CubsError: what was asked cannot be done, or a cell failed.
    """
    from papermill import execute_notebook  # these two take seconds to import
    from papermill.exceptions import PapermillExecutionError

    from cubslib import report, runs

    stem = settings.NOTEBOOKS[task]
    source = records.project_root() / "notebooks" / f"{stem}.ipynb"
    if not source.exists():
        raise CubsError(
            f"notebooks/{stem}.ipynb is not here: call this within the project's folder."
        )
    settings.check(task, parameters)  # unknown names too: `start` has only a namespace to go by
    run = runs.start(task, parameters)  # every other check; it also sets aside what is replaced
    run.release()
    parameters = {name: value for name, value in parameters.items() if name != "restart"}
    with tempfile.TemporaryDirectory() as scratch, _Watch(run):
        draft = Path(scratch) / f"{stem}.ipynb"
        try:
            execute_notebook(source, draft, parameters, progress_bar=False)
        except PapermillExecutionError as error:
            raise CubsError(
                f"{error.evalue}" if error.ename == "CubsError" else str(error)
            ) from None
        except KeyboardInterrupt:
            rows = run.history()
            saved = (
                f"{rows[-1]['fit']} is saved to epoch {rows[-1]['epoch']}"
                if rows
                else "no epoch is saved yet"
            )
            print(f"{saved}; the same command goes on from there.", file=sys.stderr)
            raise
        finally:
            if draft.exists():
                with whole(run.folder / f"{stem}.ipynb") as part:
                    shutil.copyfile(draft, part)
    print(f"finished: {report.page(run.folder / f'{stem}.ipynb')}")


class _Watch(threading.Thread):
    """Prints a run's history while another process writes it, a line an epoch."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self.run_watched, self.ended, self.shown = run, threading.Event(), len(run.history())

    def __enter__(self):
        self.start()

    def __exit__(self, *exception):
        self.ended.set()
        self.join()

    def run(self):
        while not self.ended.wait(1):
            self.show()
        self.show()

    def show(self):
        rows = self.run_watched.history()
        for row in rows[self.shown :]:
            scores = "".join(f", {k} {v:.1%}" for k, v in row.items() if k.startswith("val_"))
            total = self.run_watched.resolved["recipes"][row["fit"]]["epochs"]
            print(f"{row['fit']}, epoch {row['epoch']} of {total}: loss {row['loss']:.3f}{scores}, "
                  f"{row['images_per_second']:.0f} images/s", flush=True)  # fmt: skip
        self.shown = len(rows)


def make_report(notebook: Path | None) -> None:
    """Make the site of all finished runs and print its table; or a page of one `notebook`."""
    from cubslib import report

    if notebook is not None:
        print(f"page: {report.page(notebook)}")
        return
    root = records.project_root() / "runs"
    index = report.site(root)
    print(report.table(records.find(root)))
    print(f"report: {index}")


def look_up(what: str, photo: Path, run_dir: Path | None, tasks: tuple[str, ...]) -> None:
    """Print what a finished run knows about one photograph, a line a match, best first.

    Args:
        what: `search` or `classify`.
        photo: an image file.
        run_dir: the run; None for the newest of `tasks`.
        tasks: whose runs serve.

    Raises:
        CubsError: there is no such run, or the photograph cannot be read.
    """
    from cubslib import retrieval, scoring, training

    if run_dir is None:
        found = records.find(records.project_root() / "runs")
        run_dir = next((folder for folder, record in found if record["task"] in tasks), None)
        if run_dir is None:
            raise CubsError(f"there is no finished run of {' or '.join(tasks)}: run one first.")
    print(f"by {run_dir.name}:")
    if what == "search":
        for name, of_class, cosine in retrieval.search(run_dir, photo):
            print(f"{cosine:7.3f}  {of_class}  ({name})")
    else:
        for of_class, probability in scoring.classify(training.load(run_dir), photo):
            print(f"{probability:7.1%}  {of_class}")


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
