"""Markdown → HTML with pictures and formulas inside."""

import re
from collections.abc import Mapping
from html import escape
from io import BytesIO
from itertools import count
from pathlib import Path

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from cubslib.pages.markup import clean, picture

SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
SUFFIXES |= {".gif": "image/gif", ".webp": "image/webp", ".svg": "image/svg+xml"}


def slug(text: str) -> str:
    """Return the name of a heading's place.

    >>> slug("Where it <em>fails</em>: 2 of 3")
    's-where-it-fails-2-of-3'
    """
    words = re.findall(r"\w+", re.sub(r"<[^>]*>", "", text).lower())
    return "s-" + "-".join(words)


def markdown(source: str, folder: Path | None = None, attachments: Mapping | None = None,
             headings: list | None = None, links: Mapping | None = None) -> Markup:  # fmt: skip
    """Return Markdown as clean HTML.

    Args:
        source: the Markdown.
        folder: where pictures beside the notebook are; None takes none in.
        attachments: a cell's pictures, name → MIME type → base64.
        headings: filled with (level, place, text) of each heading; None writes headings as loud
            lines, as output stands below a heading already.
        links: another notebook's file → the address of its page; one that has none stays text.
    """
    links = links or {}
    renderer = _Renderer(folder, attachments or {}, headings, links)
    html = clean(MarkdownWithMath(renderer).render(source), links.values())
    for wide in ("pre", "table"):  # what scrolls sideways can be reached by keys
        scroll = Markup('<div class="scroll" role="group" aria-label="Wide content" tabindex="0">')
        html = html.replace(f"<{wide}>", scroll + Markup(f"<{wide}>"))
        html = html.replace(f"</{wide}>", Markup(f"</{wide}></div>"))
    return Markup(html)


class _Renderer(IPythonRenderer):
    def __init__(self, folder: Path | None, attachments: Mapping, headings, links: Mapping):
        super().__init__(escape=False, embed_images=True, attachments=attachments)
        self.folder, self.headings, self.links = folder, headings, links

    def heading(self, text: str, level: int, **attrs: object) -> str:
        if self.headings is None:
            return f'<p class="loud"><strong>{text}</strong></p>\n'
        first, level, taken = slug(text), max(level, 2), {found[1] for found in self.headings}
        places = (first if n == 1 else f"{first}-{n}" for n in count(1))
        place = next(place for place in places if place not in taken)
        self.headings.append((level, place, Markup(text).striptags()))
        return f'<h{level} id="{place}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        place = slug(url[1:]) and f"#{slug(url[1:])}" if url[:1] == "#" else url
        return super().link(text, self.links.get(place, place))

    def inline_math(self, body: str) -> str:
        return formula(body, "tex")

    def block_math(self, body: str) -> str:
        return formula(body, "tex display")

    def _embed_image_or_attachment(self, src: str) -> str:
        attached = self.attachments.get(src.removeprefix("attachment:"), {})
        for kind in SUFFIXES.values():
            if kind in attached:
                return f"data:{kind};base64,{attached[kind]}"
        return self._src_to_base64(src) or src

    def _src_to_base64(self, src: str) -> str | None:
        """Take in a picture that lies beside the notebook, and no other file."""
        kind = SUFFIXES.get(Path(src).suffix.lower())
        if self.folder is None or kind is None or "\0" in src:
            return None
        root = self.folder.resolve()
        path = (root / src).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return None
        return picture(path.read_bytes(), kind)


def formula(tex: str, kind: str) -> str:
    """Draw the TeX that matplotlib knows, its source as alt text; show the source of other TeX."""
    tex, drawn = " ".join(tex.split()), BytesIO()
    try:
        with rc_context({"mathtext.fontset": "cm"}):
            size = FontProperties(size=13)
            depth = math_to_image(f"${tex}$", drawn, prop=size, format="svg")
    except ValueError:
        return f"<code>{escape(tex)}</code>"
    look = f'class="{kind}" style="vertical-align: -{depth}pt" alt="{escape(tex)}"'
    return f'<img {look} src="{picture(drawn.getvalue(), "image/svg+xml")}">'
