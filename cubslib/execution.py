"""One notebook run by papermill: watched, kept with its page, and its end told in a sentence."""

import shutil
import sys
import tempfile
import threading
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from cubslib import CubsError, machine, processes, runs
from cubslib.budget import EXPECTED
from cubslib.disk import whole
from cubslib.pages import site
from cubslib.pages.table import table
from cubslib.runs import parameters as asked


def run_notebook(task: str, parameters: dict) -> None:
    """Run a notebook by papermill, a line an epoch in the terminal.

    All is checked before a kernel starts. The notebook and its HTML are left in the run's folder.
    Each process of torchrun runs the notebook in a kernel of its own; the first alone keeps it.

    Args:
        task: `T1` … `T4`.
        parameters: by name.

    Raises:
        CubsError: what was asked cannot be done, or a cell failed, here or in another process.
    """
    stem = asked.TASKS[task].notebook
    source = machine.project_root() / "notebooks" / f"{stem}.ipynb"
    if not source.exists():
        raise CubsError(
            f"notebooks/{stem}.ipynb is not here: call this within the project's folder."
        )
    asked.check(task, parameters)  # unknown names too: `start` has only a namespace to go by
    with processes.together(task), tempfile.TemporaryDirectory() as scratch:
        _run(task, source, parameters, Path(scratch) / source.name)


def _run(task: str, source: Path, parameters: dict, draft: Path) -> None:
    """Run the notebook `source`; of several processes all but the first only execute it."""
    own = {name: value for name, value in parameters.items() if name != "restart"}
    if processes.rank():
        _execute(source, draft, own)
        return
    run = runs.start(task, parameters)  # every other check; it also sets aside what is replaced
    run.release()
    kept = run.folder / source.name
    _keep(run, kept, source, draft, own)
    print(table([(run.folder, run.record)]))
    print(f"page: {site.page(kept)}")


def _keep(run, kept: Path, source: Path, draft: Path, parameters: dict) -> None:
    """Execute the notebook `source`; leave at `kept` what came of it, to the cell that failed."""
    shown, whole_draft = run.finished, False
    try:
        with _Watch(run):
            _execute(source, draft, parameters)
        whole_draft = True
    except KeyboardInterrupt:
        rows = run.history()
        saved = f"{rows[-1]['fit']} is saved to epoch {rows[-1]['epoch']}" if rows else ""
        print(f"{saved or 'no epoch is saved yet'}; the same command goes on from there.",
              file=sys.stderr)  # fmt: skip
        raise
    finally:
        # What shows a finished run is replaced only by a whole page.
        if draft.exists() and (whole_draft or not (shown and kept.exists())):
            with whole(kept) as part:
                shutil.copyfile(draft, part)


def _execute(source: Path, draft: Path, parameters: dict) -> None:
    """Execute the notebook `source` into `draft`; say in a sentence why it ended early."""
    try:
        papermill.execute_notebook(
            source, draft, parameters, progress_bar=False, stdout_file=_Said()
        )
    except PapermillExecutionError as error:
        if processes.lost(error.ename, error.evalue):
            raise ConnectionError(processes.LOST) from None
        raise CubsError(f"{error.evalue}" if error.ename == "CubsError" else str(error)) from None
    except DeadKernelError:
        raise CubsError(
            "The notebook's kernel was killed, most likely for want of memory: ask for a "
            "smaller batch_size, or close other programs; the same command goes on."
        ) from None


class _Said:
    """A file that takes what a notebook prints, and passes on how long the run will take."""

    def write(self, text):
        for line in text.splitlines():
            if line.startswith(EXPECTED):
                print(line, flush=True)

    def flush(self):
        pass


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
            total = self.run_watched.recipe(row["fit"]).epochs
            print(f"{row['fit']}, epoch {row['epoch']} of {total}: loss {row['loss']:.3f}{scores}, "
                  f"{row['images_per_second']:.0f} images/s", flush=True)  # fmt: skip
        self.shown = len(rows)
