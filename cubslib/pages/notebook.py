"""An executed notebook → the blocks of its page: text, folded code, outputs, figures.

What a notebook holds was written by anybody; nothing of it reaches a page uncleaned.
"""

import base64
import csv
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import nbformat
from markupsafe import Markup
from nbconvert.filters.ansi import strip_ansi
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from cubslib import CubsError
from cubslib.pages.markdown import markdown
from cubslib.pages.markup import clean, picture, webp

LARGE = 150_000  # bytes of a picture that is worth packing closer
ROWS = 300  # of a figure's numbers that the page shows; the CSV has all
KINDS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF", "image/webp": "WEBP"}
DERIVED = {"curves": "history.csv", "recall": "recall.csv"}  # figures of what the run keeps anyway


@dataclass(frozen=True)
class Numbers:
    """What a figure draws, as a table: its CSV's name, address, head and rows."""

    name: str
    address: str
    head: list[str]
    rows: list[list[str]]
    more: int


@dataclass(frozen=True)
class Figure:
    """A picture with its description and, where they are known, its numbers."""

    address: str
    alt: str
    width: int
    numbers: Numbers | None = None
    name: str = ""


@dataclass(frozen=True)
class Block:
    """One cell: `kind` is `text` or `code`; `outputs` are pairs of kind and content."""

    kind: str
    place: str
    html: Markup
    lines: int = 0
    outputs: list[tuple[str, object]] = field(default_factory=list)
    said: str = ""  # all of it as text, for those who look for a place


@dataclass(frozen=True)
class Notebook:
    """A notebook's title, blocks and headings (level, place, text)."""

    title: str
    blocks: list[Block]
    headings: list[tuple[int, str, str]]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        CubsError: there is no such notebook, or it is none.
    """
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise CubsError(f"There is no notebook {path}: name one that was run.") from None
    except Exception as error:  # many kinds for what is no notebook
        raise CubsError(f"{path} is no notebook: run it again to write it anew.") from error


def blocks(
    content: nbformat.NotebookNode,
    path: Path,
    figures: Path | None = None,
    links: Mapping[str, str] | None = None,
) -> Notebook:
    """Return what a page shows of a notebook.

    Args:
        content: the notebook.
        path: where it is; pictures beside it are taken in.
        figures: the run's folder of pictures, by which numbers are found.
        links: another notebook's file → the address of its page.

    Raises:
        CubsError: a part of it is not as a notebook's is.
    """
    known, headings, found = hashes(figures), [], []
    title = _title(content)
    try:
        for number, cell in enumerate(content.cells):
            place, source = f"cell-{number}", cell.source
            if cell.cell_type == "code":
                found.append(_code(cell, place, known, path.parent))
            elif cell.cell_type == "markdown":
                if title:
                    source = re.sub(
                        rf"^#+ +{re.escape(title)}\s*$", "", source, count=1, flags=re.M
                    )
                html = markdown(source, path.parent, cell.get("attachments"), headings, links)
                found.append(Block("text", place, html, said=cell.source))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CubsError(f"{path} is no notebook: run it again to write it anew.") from error
    return Notebook(re.sub(r"[*_`$]", "", title) or path.stem, found, headings)


def hashes(figures: Path | None) -> dict[str, Path]:
    """Return the run's pictures by the digest of their bytes."""
    files = sorted(figures.glob("*.png")) if figures else []
    return {_digest(file.read_bytes()): file for file in files}


def pictures(content: nbformat.NotebookNode) -> set[str]:
    """Return the digests of all PNGs that a notebook shows."""
    outputs = [one for cell in content.cells for one in cell.get("outputs", [])]
    found = (_decoded(one.get("data", {}).get("image/png")) for one in outputs)
    return {_digest(one) for one in found if one}


def figure(file: Path) -> Figure | None:
    """Return a picture of a run's folder; None for what is no picture."""
    return _figure(file.read_bytes(), "image/png", "", file)


def _code(cell: nbformat.NotebookNode, place: str, known: dict[str, Path], folder: Path) -> Block:
    html = Markup(highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True)))
    outputs = [found for one in cell.get("outputs", []) if (found := _output(one, known, folder))]
    said = [content.alt if kind == "figure" else Markup(content).striptags()
            for kind, content in outputs]  # fmt: skip
    return Block("code", place, html, cell.source.count("\n") + 1, outputs,
                 "\n".join([cell.source, *said]))  # fmt: skip


def _output(output: Mapping, known: dict[str, Path], folder: Path) -> tuple[str, object] | None:
    if output["output_type"] == "stream":
        return "warning" if output["name"] == "stderr" else "print", strip_ansi(output["text"])
    if output["output_type"] == "error":
        return "warning", strip_ansi("\n".join(output["traceback"]))
    data = output["data"]
    if "text/html" in data:
        return "html", clean(data["text/html"])
    if "text/markdown" in data:
        return "html", markdown(data["text/markdown"])
    for kind in KINDS:
        content = _decoded(data.get(kind))
        if content:
            alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
            file = known.get(_digest(content))
            drawn = _figure(content, kind, str(alt), file)
            return ("figure", drawn) if drawn else None
    if "image/svg+xml" in data:
        address = picture(data["image/svg+xml"].encode(), "image/svg+xml")
        return "figure", Figure(address, "A figure without description.", 0)
    return ("print", data["text/plain"]) if "text/plain" in data else None


def _figure(content: bytes, kind: str, alt: str, file: Path | None) -> Figure | None:
    try:
        with Image.open(io.BytesIO(content), formats=[KINDS[kind]]) as image:
            alt = alt or str(image.info.get("Description", ""))
            width = image.width
            if len(content) > LARGE and len(packed := webp(image, 88)) < len(content):
                content, kind = packed, "image/webp"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    shown = _numbers(file) if file else None
    name = file.stem if file else ""
    alt = alt or "A figure without description."
    return Figure(picture(content, kind), alt, width, shown, name)


def _numbers(file: Path) -> Numbers | None:
    beside, run = file.with_suffix(".csv"), file.parent.parent
    if not beside.is_file() and file.stem in DERIVED:
        beside = run / DERIVED[file.stem]
    try:
        text = beside.read_text(encoding="utf-8")
        head, *rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except (OSError, ValueError, csv.Error):
        return None
    width = len(head)
    rows = [(row + [""] * width)[:width] for row in rows]
    address = f"data:text/csv;charset=utf-8,{quote(text)}"
    return Numbers(f"{run.name}-{file.stem}.csv", address, head, rows[:ROWS], len(rows[ROWS:]))


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _title(content: nbformat.NotebookNode) -> str:
    text = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    found = re.search(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""
