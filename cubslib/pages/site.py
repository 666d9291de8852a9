"""Finished runs → pages to hand in: one for each notebook, and an index with a table over T1–T4.

A page needs nothing but its own file: figures, style and formulas are inside it.
"""

import base64
import re
from html import escape
from io import BytesIO
from pathlib import Path
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

from cubslib import CubsError
from cubslib.disk import whole
from cubslib.pages.table import SAMPLE, table
from cubslib.runs import finished

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
    found = sorted(finished.find(Path(root)), key=lambda run: run[1]["task"])
    if not found:
        raise CubsError(f"{root} holds no finished run: `python -m cubslib run T4` makes one.")
    folder, links = Path(root) / "report", {}
    for run, _ in found:
        for notebook in run.glob("T*.ipynb"):
            links[run.name] = quote(page(notebook, folder / f"{run.name}.html").name)
    with whole(folder / "index.html") as draft:
        draft.write_text(_index(table(found).html(links)), encoding="utf-8")
    return folder / "index.html"


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
