"""The four notebooks in their order, by one command."""

from collections.abc import Callable

from cubslib import machine, processes
from cubslib.pages import site
from cubslib.pages.table import table
from cubslib.runs import finished, folder, parameters, settle


def run(given: dict[str, object], run_notebook: Callable[[str, dict], None]) -> None:
    """Run T1 to T4; end with a table of the four, and a site of all runs beside them.

    The first that fails ends it; called again, it shows what is finished and goes on.

    Args:
        given: parameters by name; each notebook gets those that it has.
        run_notebook: runs one, by its task and parameters.

    Raises:
        CubsError: none of the four has a parameter, a data set is not as it must be, or as of
            `run_notebook`.
    """
    of_task, done = parameters.of_all(given), []
    for task in ("T1", "T4"):  # both data sets are looked through first: T4's turn comes late
        asked = parameters.check(task, of_task[task])
        data_root = machine.project_root() / asked["data_root"]
        _, data = settle.find_data(task, data_root, asked["dataset"])
        settle.open_data(task, data, asked, size=64)
    for task, own in of_task.items():
        if not processes.rank():
            print(f"\n{task}, {len(done) + 1} of {len(of_task)}:", flush=True)
        run_notebook(task, own)
        place = folder.locate(task, parameters.check(task, own))
        done.append((place, finished.read(place)))
    if not processes.rank():
        print(f"\n{table(done)}\nreport: {site.site(place.parent)}")
