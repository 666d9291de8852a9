"""Finished runs → pages to hand in: one for each notebook, and an index with a table over T1–T4.

A page needs nothing but its own file: figures, style and formulas are inside it.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from urllib.parse import quote

import nbformat
from matplotlib import rc_context
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from cubslib import CubsError, runs
from cubslib.disk import whole

STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 0 }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
main.wide { max-width: 90rem }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .5em }
h1 { font-size: 1.9rem } h2 { font-size: 1.4rem; border-bottom: 1px solid #d1d9e0 }
a { color: #0059a3 } a.anchor-link { display: none }
img { max-width: 100%; height: auto } img.tex { vertical-align: middle }
img.display { display: block; margin: 1rem auto }
pre { font: .85rem/1.45 ui-monospace, Consolas, monospace; overflow-x: auto; margin: .6em 0 }
.input pre, .text_cell pre { background: #f6f8fa; padding: .6rem .9rem; border-radius: 6px }
.input .highlight { background: none }
.output_stderr pre { background: #fff4e0; padding: .6rem .9rem }
.output_error pre { background: #ffebe9; padding: .6rem .9rem }
.output_html, .output_markdown, .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; margin: 1rem 0 }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #d1d9e0; text-align: left }
th { border-bottom: 2px solid #59636e; vertical-align: bottom }
td { vertical-align: top; font-variant-numeric: tabular-nums }
mark { background: #ffd33d; color: #000; font-weight: bold; padding: 0 .35em }
"""
# nbconvert's `classic`, the template that keeps the figures' alt text, without its style and scripts
TEMPLATE = """{% extends "classic/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block notebook_css %}<style>{{ resources.house_style }}</style>{% endblock %}
"""
SAMPLE = "SAMPLE, drawn by us"


def page(notebook: Path, html: Path | None = None) -> Path:
    """Write the executed `notebook` as one HTML file, `html` or beside it; return where it is.

    Raises:
        CubsError: there is no such notebook, or it is none.
    """
    notebook = Path(notebook)
    html = Path(html or notebook.with_suffix(".html"))
    try:
        content = nbformat.read(notebook, as_version=4)
    except FileNotFoundError:
        raise CubsError(f"There is no notebook {notebook}.") from None
    except (ValueError, nbformat.ValidationError, nbformat.reader.NotJSONError):
        raise CubsError(f"{notebook} is no notebook: run it again to have it written.") from None
    content.metadata["title"] = _title(content) or notebook.stem
    content.metadata.pop("widgets", None)
    exporter = HTMLExporter(raw_template=TEMPLATE, filters={"markdown2html": _markdown})
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    text, _ = exporter.from_notebook_node(content, {"house_style": STYLE})
    with whole(html) as draft:
        draft.write_text(text, encoding="utf-8")
    return html


def site(root: Path) -> Path:
    """Write `root`/report: a page for each finished run's notebook and the index; return the index.

    Raises:
        CubsError: no run under `root` is finished.
    """
    found = sorted(runs.find(root), key=lambda run: run[1]["task"])
    if not found:
        raise CubsError(f"{root} holds no finished run: `python -m cubslib run T4` makes one.")
    folder, links = Path(root) / "report", {}
    for run, _ in found:
        for notebook in sorted(run.glob("*.ipynb"))[:1]:
            links[run.name] = quote(page(notebook, folder / f"{run.name}.html").name)
    with whole(folder / "index.html") as draft:
        draft.write_text(_index(table(found), links), encoding="utf-8")
    return folder / "index.html"


@dataclass(frozen=True)
class Table:
    """Rows of text under the names of their columns; HTML in a notebook, plain in a terminal.

    Empty cells show a dash, a column without any cell is left out, `links` make of a cell's
    text a link.
    """

    rows: Sequence[dict[str, str]]

    def columns(self) -> list[str]:
        """Return the names of the columns that hold something, in the order of the rows."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if any(row.get(name) for row in self.rows)]

    def html(self, links: dict[str, str] | None = None) -> str:
        """Return the table as HTML, cells whose text is in `links` linked to that address."""
        lines = ["".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns())]
        for row in self.rows:
            cells = (_cell(row.get(name) or "–", links or {}) for name in self.columns())
            lines += ["".join(f"<td>{cell}</td>" for cell in cells)]
        return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"

    def __str__(self) -> str:
        """Return the table in columns of at most 18 characters."""
        columns = self.columns()
        grid = [columns, *([row.get(name) or "–" for name in columns] for row in self.rows)]
        cells = [[wrap(cell, 18) for cell in line] for line in grid]
        widths = [max(len(part) for cell in column for part in cell) for column in zip(*cells)]
        lines = []
        for line in cells:
            for i in range(max(map(len, line))):
                parts = (cell[i] if i < len(cell) else "" for cell in line)
                text = "  ".join(part.ljust(w) for part, w in zip(parts, widths, strict=True))
                lines.append(text.rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html()


def table(found: Iterable[tuple[Path, dict]]) -> Table:
    """Tabulate runs, pairs of folder and record as `runs.find` gives them: T4 has a row a stage."""
    return Table([row for folder, record in found for row in _rows(folder.name, record)])


def _rows(name: str, record: dict) -> list[dict[str, str]]:
    settings = record["settings"]
    start = {"Task": record["task"], "Run": name, "Data": _data(record)}
    start["Fashion"] = str(settings.get("fashion") or "")
    end = {
        "Parameters": f"{record['num_parameters'] / 1e6:.2f} M",
        "Minutes": f"{record['seconds'] / 60:.1f}",
        "Hardware": _words(record["hardware"]),
        "Seed": str(record["seed"]),
    }
    scores = {
        f"{split.capitalize()} {top[:3]}-{top[3:]}": _percent(record[split][top])
        for split in ("val", "test")
        for top in ("top1", "top5")
        if split in record
    }
    if "recall" not in record:
        return [start | {"Epochs": _words(settings.get("epochs"))} | scores | end]
    return [
        start
        | {"Stage": stage, "Epochs": _words(settings.get(epochs))}
        | {f"Recall@{k}": _percent(value) for k, value in record["recall"][stage].items()}
        | end
        for stage, epochs in (("classification", "classify_epochs"), ("embedding", "embed_epochs"))
    ]


def _data(record: dict) -> str:
    name = "Cars196" if record["task"] == "T4" else "Tiny ImageNet"
    limit = record["settings"].get("limit_classes")
    part = f", first {limit} classes" if limit else ""
    start = f"{SAMPLE}: " if record["dataset"] == "sample" else f"{name}, "
    return f"{start}{record['protocol']}{part}"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(str(part) for part in value.values() if part not in (None, ""))
    return "" if value is None else str(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _cell(text: str, links: dict[str, str]) -> str:
    if text in links:
        return f'<a href="{escape(links[text])}">{escape(text)}</a>'
    return escape(text).replace(SAMPLE, f"<mark>{SAMPLE}</mark>")


def _index(results: Table, links: dict[str, str]) -> str:
    notes = [
        "Val chose the weights; test was read once, after that. Recall is that of classes never "
        "trained on: the share of images with one of their own class among the K nearest others.",
    ]
    if any(SAMPLE in row["Data"] for row in results.rows):
        notes.insert(
            0,
            f"<mark>{SAMPLE}</mark> marks runs on small data sets of drawn pictures: they show "
            "that everything works, and say nothing about photographs.",
        )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recognition and retrieval: results</title>
<style>{STYLE}</style>
</head>
<body>
<main class="wide">
<h1>Recognition and retrieval: results</h1>
{"".join(f"<p>{note}</p>" for note in notes)}
<div class="scroll">{results.html(links)}</div>
</main>
</body>
</html>
"""


def _title(content: nbformat.NotebookNode) -> str:
    texts = (cell.source for cell in content.cells if cell.cell_type == "markdown")
    found = re.search(r"^#+ +(.+?) *$", "\n".join(texts), re.MULTILINE)
    return re.sub(r"[*_`$]", "", found[1]) if found else ""


def _markdown(source: str) -> str:
    return MarkdownWithMath(_Renderer(escape=False)).render(source)


class _Renderer(IPythonRenderer):
    """Draws the formulas, which otherwise wait for a script from the network."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "tex")

    def block_math(self, body: str) -> str:
        return _formula(body, "tex display")


def _formula(tex: str, kind: str) -> str:
    """Draw TeX as far as matplotlib knows it as a picture with its source as alt text."""
    tex, picture = " ".join(tex.split()), BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm"}):
            math_to_image(f"${tex}$", picture, format="svg")
    except ValueError:
        return f"<code>{escape(tex)}</code>"
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img class="{kind}" alt="{escape(tex)}" src="data:image/svg+xml;base64,{data}">'
