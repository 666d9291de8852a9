"""Finished runs → pages to hand in: one for each notebook, and an index with a table over T1–T4.

A page needs nothing but its own file: figures, style and formulas are inside it.
"""

import base64
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from urllib.parse import quote

import nbformat
from jinja2 import pass_context
from jinja2.runtime import Context
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from cubslib import CubsError, records
from cubslib.disk import whole

STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 0 }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
.text_cell_render p, .text_cell_render li { max-width: 62rem }
main.index { max-width: 110rem }
.index p { max-width: 62rem }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .5em }
h2 { border-bottom: 1px solid #d1d9e0 }
a { color: #0059a3 }
a.anchor-link { display: none }
img { max-width: 100%; height: auto }
img.display { display: block; margin: 1rem auto }
pre { font: .85rem/1.45 ui-monospace, Consolas, monospace; overflow-x: auto; margin: .6em 0 }
.input pre, .text_cell pre, .output_stderr pre { padding: .6rem .9rem; background: #f6f8fa }
.output_stderr pre { background: #fff4e0 }
.output_html, .output_markdown, .text_cell_render, .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; line-height: 1.4; margin: 1rem 0 }
th, td { padding: .35rem .5rem; border-bottom: 1px solid #d1d9e0; text-align: left }
th { border-bottom: 2px solid #59636e; vertical-align: bottom }
td { vertical-align: top; font-variant-numeric: tabular-nums }
mark { background: #ffd33d; color: #000; font-weight: bold; padding: 0 .35em }
"""
# nbconvert's `classic`, which keeps the figures' alt text, without its style and scripts
NOTEBOOK = """{% extends "classic/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block notebook_css %}<style>{{ resources.house_style }}</style>{% endblock %}
"""
SAMPLE = "SAMPLE"
COLUMNS = (
    *("Task", "Run", "Data", "Fashion", "Stage", "Epochs"),
    *("Val top-1 %", "Val top-5 %", "Test top-1 %", "Test top-5 %"),
    *("Recall @1 %", "Recall @2 %", "Recall @4 %", "Recall @8 %"),
    *("Weights from", "Parameters", "Minutes", "Hardware", "Seed"),
)


@dataclass(frozen=True)
class Table:
    """Rows of values under the names of their columns; HTML in a notebook, plain in a terminal.

    An empty cell shows a dash; a column without any content is left out.
    """

    rows: Sequence[Mapping[str, object]]

    def grid(self) -> list[list[str]]:
        """Return the lines of the table, the names of the columns first."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        text = [{name: str(row.get(name, "")) for name in names} for row in self.rows]
        names = [name for name in names if any(row[name] for row in text)]
        return [names, *([row[name] or "–" for name in names] for row in text)]

    def html(self, links: Mapping[str, str] | None = None) -> str:
        """Return the table as HTML; `links` are the addresses that a cell's text leads to."""
        names, *rows = self.grid()
        lines = ["".join(f'<th scope="col">{escape(name)}</th>' for name in names)]
        lines += ["".join(f"<td>{_cell(cell, links or {})}</td>" for cell in row) for row in rows]
        return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"

    def __str__(self) -> str:
        """Return the table as text, its cells broken at spaces after 18 characters."""
        cells = [[wrap(cell, 18, break_long_words=False) for cell in line] for line in self.grid()]
        widths = [max(map(len, sum(column, []))) for column in zip(*cells, strict=True)]
        lines = []
        for line in cells:
            for i in range(max(map(len, line), default=0)):
                parts = (" ".join(cell[i : i + 1]) for cell in line)
                pairs = zip(parts, widths, strict=True)
                lines.append("  ".join(part.ljust(width) for part, width in pairs).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html()


def table(found: Iterable[tuple[Path, dict]]) -> Table:
    """Tabulate runs, pairs of folder and record as `records.find` gives them; T4 by stage."""
    return Table([row for folder, record in found for row in _rows(folder, record)])


def page(notebook: Path, html: Path | None = None) -> Path:
    """Write the executed `notebook` as one HTML file, `html` or beside it; return where it is.

    Raises:
        CubsError: there is no such notebook, or it is none.
    """
    notebook = Path(notebook)
    html = Path(html or notebook.with_suffix(".html"))
    try:
        content = nbformat.read(notebook, as_version=4)
    except OSError:
        raise CubsError(f"There is no notebook {notebook}: name one that was run.") from None
    except Exception as error:  # many kinds for what is no notebook
        raise CubsError(f"{notebook} is no notebook: run it again to write it anew.") from error
    content.metadata["title"] = _title(content) or notebook.stem
    content.metadata.pop("widgets", None)  # a page without scripts shows their text
    exporter = HTMLExporter(
        template_name="classic",
        raw_template=NOTEBOOK,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": _markdown},
        config=Config(CSSHTMLHeaderPreprocessor={"style": "default"}),
    )
    resources = {"house_style": STYLE, "metadata": {"path": str(notebook.parent)}}
    with whole(html) as draft:
        draft.write_text(exporter.from_notebook_node(content, resources)[0], encoding="utf-8")
    return html


def site(root: Path) -> Path:
    """Write `root`/report, a page for each finished run's notebook and the index; return the index.

    Raises:
        CubsError: no run under `root` is finished.
    """
    found = sorted(records.find(Path(root)), key=lambda run: run[1]["task"])
    if not found:
        raise CubsError(f"{root} holds no finished run: `python -m cubslib run T4` makes one.")
    folder, links = Path(root) / "report", {}
    for run, _ in found:
        for notebook in run.glob("T*.ipynb"):
            links[run.name] = quote(page(notebook, folder / f"{run.name}.html").name)
    with whole(folder / "index.html") as draft:
        draft.write_text(_index(table(found).html(links)), encoding="utf-8")
    return folder / "index.html"


def _rows(folder: Path, record: dict) -> list[dict[str, str]]:
    settings = record["settings"]
    name = "Cars196" if record["task"] == "T4" else "Tiny ImageNet"
    name = f"{SAMPLE} in place of {name}" if record["dataset"] == "sample" else name
    fashion = settings.get("fashion", "")
    row = dict.fromkeys(COLUMNS, "") | {
        "Task": record["task"],
        "Run": folder.name,
        "Data": f"{name}: {record['protocol']}",
        "Fashion": fashion,
        "Weights from": settings.get("origin", ""),
        "Parameters": f"{record['num_parameters'] / 1e6:.2f} M",
        "Minutes": f"{record['seconds'] / 60:.1f}",
        "Hardware": record["hardware"],
        "Seed": str(record["seed"]),
    }
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        epochs = {line["fit"]: line["epoch"] for line in csv.DictReader(file)}  # the last of each
    if record["task"] == "T4":
        stages = record["recall"]
        return [row | _recalls(record, stage) | {"Epochs": epochs[stage]} for stage in stages]
    return [row | _accuracies(record) | {"Epochs": epochs[fashion or "classification"]}]


def _accuracies(record: dict) -> dict[str, str]:
    places = [(split, k) for split in ("val", "test") for k in (1, 5)]
    return {f"{split.title()} top-{k} %": _percent(record[split][f"top{k}"]) for split, k in places}


def _recalls(record: dict, stage: str) -> dict[str, str]:
    recall = record["recall"][stage].items()
    return {"Stage": stage} | {f"Recall @{k} %": _percent(value) for k, value in recall}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _index(results: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recognition and retrieval: results</title>
<style>{STYLE}</style>
</head>
<body>
<main class="index">
<h1>Recognition and retrieval: results</h1>
<p>T1 to T3 name the object in a photograph; T4 finds other photographs of the same car model. Val
chose the weights where there is one; test was read once, after that. Recall@K, on classes never
trained on, is the share of images with one of their own class among their K nearest others. A run's
name leads to its notebook. <mark>{SAMPLE}</mark> marks small data sets of drawn pictures: such a
run shows that everything works, and says nothing about photographs.</p>
<div class="scroll">{results}</div>
</main>
</body>
</html>
"""


def _cell(text: str, links: Mapping[str, str]) -> str:
    shown = re.sub(r",(?=[^\s\d])", ",<wbr>", escape(text))  # runs have long names
    if text in links:
        return f'<a href="{links[text]}">{shown}</a>'
    return re.sub(rf"^{SAMPLE}\b", f"<mark>{SAMPLE}</mark>", shown)


def _title(content: nbformat.NotebookNode) -> str:
    text = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    found = re.search(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return re.sub(r"[*_`$]", "", found[1]) if found else ""


@pass_context
def _markdown(context: Context, source: str) -> str:
    """Turn Markdown into HTML with its pictures inside."""
    path = context["resources"]["metadata"]["path"]
    attachments = context["cell"].get("attachments")
    renderer = _Renderer(escape=False, embed_images=True, attachments=attachments, path=path)
    return MarkdownWithMath(renderer).render(source)


class _Renderer(IPythonRenderer):
    """Draws the formulas, which otherwise wait for a script from the network."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "tex")

    def block_math(self, body: str) -> str:
        return _formula(body, "tex display")


def _formula(tex: str, kind: str) -> str:
    """Draw the TeX that matplotlib knows, its source as alt text; show the source of other TeX."""
    tex, picture = " ".join(tex.split()), BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm"}):
            size = FontProperties(size=13)
            depth = math_to_image(f"${tex}$", picture, prop=size, format="svg")
    except ValueError:
        return f"<code>{escape(tex)}</code>"
    data = base64.b64encode(picture.getvalue()).decode()
    look = f'class="{kind}" style="vertical-align: -{depth}pt" alt="{escape(tex)}"'
    return f'<img {look} src="data:image/svg+xml;base64,{data}">'
