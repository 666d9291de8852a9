"""A progress bar that leaves one line behind, in a terminal as in a notebook."""

import io
import sys

from tqdm import tqdm


class Progress(tqdm):
    """tqdm whose refreshes, in a notebook, replace one text output in place.

    tqdm's own notebook bar needs a widget that an exported page cannot show, and its text bar adds
    an output at each refresh.

    Args:
        total: the number of steps to come.
        **options: tqdm's own.
    """

    def __init__(self, total: int, **options):
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        self.output = None
        if shell is not None and hasattr(shell, "kernel"):
            self.output = ipython.display.display({"text/plain": ""}, raw=True, display_id=True)
            options |= {"file": io.StringIO(), "ncols": 100}
        super().__init__(total=total, mininterval=0.5, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or `msg` in its place."""
        if self.output is None:
            super().display(msg, pos)
        else:
            self.output.update({"text/plain": str(self) if msg is None else msg}, raw=True)

    def conclude(self, text: str) -> None:
        """Close the bar and leave `text` in its place."""
        self.leave = False
        self.close()
        if self.output is None:
            print(text)
        else:
            self.output.update({"text/plain": text}, raw=True)
