"""An executed notebook, a finished run, or both → one page.

A run's page is made from its record and figures; an executed notebook that shows it is its body.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from cubslib import CubsError, machine
from cubslib.pages import entries, markup, notebook
from cubslib.pages.entries import Entry
from cubslib.pages.notebook import Figure, Notebook
from cubslib.runs import finished

# The picture that tells most of a run, by the name of its file; the first that is there
LEAD = ("gallery", "mistakes", "classes", "recall", "curves", "data")


@dataclass(frozen=True)
class Shown:
    """A run of the site: its entry, notebook and where its page is."""

    entry: Entry
    notebook: Notebook | None
    figures: list[Figure]
    address: str  # as seen from the index
    aside: str = ""


def page(path: Path, html: Path | None = None) -> Path:
    """Write the executed notebook `path` as one HTML file, `html` or beside it; return where it is.

    Where it shows a finished run, of its own folder or of the project, the page says what came out.

    Raises:
        CubsError: there is no such notebook, or it is none; `html` holds something else.
    """
    path = Path(path)
    content = notebook.read(path)
    try:
        entry = _run_of(path, notebook.pictures(content))
    except (AttributeError, TypeError):  # a cell that is none; `blocks` says so
        entry = None
    shown = notebook.blocks(content, path, entry.folder / "figures" if entry else None)
    drawn = figures(entry.folder) if entry else []
    return write(Path(html or path.with_suffix(".html")), entry, shown, drawn)


def shows(pictures: set[str], folder: Path) -> bool:
    """Say whether a notebook with these pictures shows the run in `folder`.

    More than half of the run's pictures must be among them: runs on the same data share a few.
    """
    own = notebook.hashes(folder / "figures").keys()
    return 2 * len(own & pictures) > len(own)


def _run_of(path: Path, pictures: set[str]) -> Entry | None:
    """Return the finished run that a notebook shows: its folder's, or one of the project's."""
    for home in (path.parent, *sorted((machine.project_root() / "runs").glob("*/"))):
        try:
            if home.resolve() == path.parent.resolve() or shows(pictures, home):
                return entries.entry(home, finished.read(home))
        except CubsError:
            continue
    return None


def figures(folder: Path) -> list[Figure]:
    """Return the pictures of a run's folder."""
    files = sorted((folder / "figures").glob("*.png"))
    return [drawn for file in files if (drawn := notebook.figure(file))]


def write(
    html: Path,
    entry: Entry | None,
    shown: Notebook | None,
    figures: list[Figure],
    browser: str = "",
    around: dict | None = None,
) -> Path:
    """Write the page of a run, of a notebook, or of both.

    Args:
        html: where it goes.
        entry: the run, where there is one.
        shown: the notebook, where there is one.
        figures: the run's.
        browser: the address of the run's browser.
        around: the site's links, `previous` and `next`; None for a page that stands alone.
    """
    blocks = shown.blocks if shown else []
    contents = [one for one in shown.headings if one[0] < 4] if shown else [
        (2, f"s-figure-{drawn.name}", drawn.name.replace("_", " ").capitalize())
        for drawn in figures
    ]  # fmt: skip
    return markup.write(
        html, "run.html.j2", title=shown.title if shown else entry.name, contents=contents,
        blocks=blocks, figures=figures, picture=lead(figures, blocks), entry=entry, browser=browser,
        around=around, entries=entries, finished=finished, plain=_plain,
    )  # fmt: skip


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text.translate(str.maketrans("", "", '{}"')) if isinstance(value, dict) else text


def lead(figures: list[Figure], blocks: list) -> SimpleNamespace | None:
    """Return the figure that tells most, small, and where it stands in full."""
    by_name = {drawn.name: drawn for drawn in figures}
    name = next((name for name in LEAD if name in by_name), None)
    if name is None:
        return None
    places = [block.place for block in blocks for kind, content in block.outputs
              if kind == "figure" and content.name == name]  # fmt: skip
    place = places[0] if places else "" if blocks else f"s-figure-{name}"
    address = _small(by_name[name].address)
    return SimpleNamespace(address=address, alt=by_name[name].alt, place=place)


def _small(address: str, width: int = 720) -> str:
    """Return a picture's address again, at most `width` pixels wide."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        image = image.convert("RGB")
    image.thumbnail((width, 2 * width))
    return markup.picture(markup.webp(image, 75), "image/webp")
