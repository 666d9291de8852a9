"""What strangers wrote → markup that runs and loads nothing; templates → whole pages.

A page needs nothing but its own file: style, script, pictures and formulas are inside it, and its
Content-Security-Policy lets a browser run no script but ours.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Collection
from pathlib import Path

import nh3
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from cubslib import CubsError
from cubslib.disk import whole

GENERATOR = '<meta name="generator" content="cubslib">'  # marks the pages that we may overwrite
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption "
    "figure hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table "
    "tbody td tfoot th thead tr tt u ul var wbr"
)
TAGS = {*_TAGS.split(" "), *HEADINGS}
_WITHOUT_CONTENT = (
    "script style iframe object embed template noscript svg math title textarea select audio video "
    "frameset noframes xmp"
)
CELLS = {"scope", "colspan", "rowspan"}
ATTRIBUTES = {"*": {"class"}, "a": {"href"}, "img": {"src", "alt", "style"}, "ol": {"start"}}
ATTRIBUTES |= {"th": CELLS, "td": CELLS} | dict.fromkeys(HEADINGS, {"id"})
PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
# What we draw and pygments' short names; no class that the page's own parts are styled by
CLASSES = re.compile(r"tex|display|loud|highlight|[a-z][a-z0-9]{0,2}")

_environment = Environment(
    loader=PackageLoader("cubslib.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def clean(html: str, pages: Collection[str] = ()) -> Markup:
    """Return `html` without what runs, loads, sends or poses as a part of the page.

    Scripts, frames, forms and handlers go; pictures stay where they are inside the text (`data:`);
    links lead to headings of the page, to `pages`, to the web or to a mail address.

    >>> clean('<p onclick="x()">a<script>b</script> <img src="//c/d"><a href="javascript:e">f</a>')
    Markup('<p>a <img><a rel="noopener noreferrer">f</a></p>')
    """
    return Markup(
        nh3.clean(
            html,
            tags=TAGS,
            clean_content_tags=set(_WITHOUT_CONTENT.split(" ")),
            attributes=ATTRIBUTES,
            attribute_filter=lambda tag, name, value: _attribute(name, value, pages),
            url_schemes={"http", "https", "mailto", "data"},
            filter_style_properties={"vertical-align"},
        )
    )


def _attribute(name: str, value: str, pages: Collection[str]) -> str | None:
    if name == "class":
        return " ".join(filter(CLASSES.fullmatch, value.split())) or None
    if name == "src":
        return value if PICTURE.fullmatch(value) else None
    if name == "href":
        return value if value in pages or re.match(r"#s-|https?://|mailto:", value) else None
    if name == "id":
        return value if value.startswith("s-") else None
    return value


def picture(content: bytes, kind: str) -> str:
    """Return the address that holds a picture, `kind` being its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def webp(image: Image.Image, quality: int) -> bytes:
    """Return a picture packed as WebP; `quality` is 0 to 100."""
    packed = io.BytesIO()
    image.convert("RGB").save(packed, "WEBP", quality=quality)
    return packed.getvalue()


def block(value: object) -> Markup:
    """Return `value` as JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def write(path: Path, template: str, scripts: tuple[str, ...] = (), **values: object) -> Path:
    """Write a page: `templates`/`template` with `values`, the page's script and `scripts`.

    Raises:
        CubsError: `path` holds something that is no page of ours.
    """
    if path.exists() and not is_ours(path):
        raise CubsError(f"{path} was not made by this library: move it away or rename it.")
    script = "\n".join(_asset(name) for name in ("page.js", *scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": Markup(script), "digest": digest, "style": Markup(_asset("page.css"))}
    own["generator"] = Markup(GENERATOR)
    text = _environment.get_template(template).render(own | values)
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return path


def is_ours(path: Path) -> bool:
    """Say whether the file is a page that `write` made."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(2000)
    except OSError:
        return False


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
