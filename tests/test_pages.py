import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from cubslib import CubsError
from cubslib.pages import site
from cubslib.pages.table import Table, table

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
TITLE = "# T4: does an *embedding* win?\n\n"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


class _Page(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def _notebook(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=list(cells), metadata={"widgets": {}}), path)
    return path


def _figure(alt):
    output = v4.new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": alt}})
    return v4.new_code_cell("show(figure)", outputs=[output])


def _run(root, name, **changes):
    record = {
        "schema": 2,
        "finished": "2026-01-01T00:00:00+00:00",
        "task": name[:2],
        "dataset": "real",
        "protocol": "complete",
        "seed": 3,
        "settings": {"epochs": 2, "title": "Tiny ImageNet"},
        "hardware": "a CPU <8>",
        "num_parameters": 1_234_567,
        "seconds": 90,
        "val": {"top1": 0.5, "top5": 0.75},
        "test": {"top1": 0.25, "top5": 0.625},
    } | changes
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    fits = "classification", "embedding", "serial_12"
    lines = [f"{fit},{epoch}" for i, fit in enumerate(fits) for epoch in range(1, i + 3)]
    (folder / "history.csv").write_text("\n".join(["fit,epoch", *lines]))
    _notebook(folder / f"{name.split(',')[0]}.ipynb", v4.new_markdown_cell(f"# Notebook {name}"))
    return folder, record


RECALL = {
    stage: {str(k): start + k / 100 for k in (1, 2, 4, 8)}
    for stage, start in (("classification", 0.5), ("embedding", 0.25))
}


def test_a_page_keeps_title_alt_text_and_code_and_asks_the_network_for_nothing(tmp_path):
    cells = v4.new_markdown_cell(TITLE + r"$x_i > 1$ and `$5`"), _figure('two "bars" & <a> line')
    page = site.page(_notebook(tmp_path / "out.ipynb", *cells))
    text = page.read_text()
    tags = _Page(text)
    assert page == tmp_path / "out.html"
    assert "<title>T4: does an embedding win?</title>" in text
    assert [image["alt"] for image in tags.all("img")] == ["x_i > 1", 'two "bars" & <a> line']
    assert "$5" in text
    assert ">figure<" in text
    assert not tags.all("script") + tags.all("link")
    assert not re.search(r"(?i)\b(src|href)=.?(?!.?data:|.?#)\w|url\(|@import", text)


def test_formulas_are_drawn_and_others_shown_as_they_are_written(tmp_path):
    source = "# a\n\n$$\\frac{1}{m}\n\\sum_{i} S_{ij}$$\n\n$\\nosuch<b>$"
    page = site.page(_notebook(tmp_path / "out.ipynb", v4.new_markdown_cell(source)))
    (image,) = _Page(page.read_text()).all("img")
    assert image["alt"] == r"\frac{1}{m} \sum_{i} S_{ij}"
    assert image["src"].startswith("data:image/svg+xml;base64,")
    assert r"<code>\nosuch&lt;b&gt;</code>" in page.read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_can_be_drawn(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    formulas = []

    class Collector(site.IPythonRenderer):
        def inline_math(self, body):
            formulas.append(body)
            return ""

        block_math = inline_math

    for cell in cells:
        if cell.cell_type == "markdown":
            site.MarkdownWithMath(Collector(escape=False)).render(cell.source)
    assert [tex for tex in formulas if "<img" not in site._formula(tex, "tex")] == []


def test_pictures_beside_and_attached_are_taken_in(tmp_path):
    (tmp_path / "beside.png").write_bytes(base64.b64decode(PNG))
    cell = v4.new_markdown_cell("![one](beside.png) ![two](attachment:two.png)")
    cell["attachments"] = {"two.png": {"image/png": PNG}}
    page = site.page(_notebook(tmp_path / "in.ipynb", cell), tmp_path / "out" / "page.html")
    images = _Page(page.read_text()).all("img")
    assert [image["src"] for image in images] == [f"data:image/png;base64,{PNG}"] * 2
    assert "<title>in</title>" in page.read_text()


def test_what_is_no_notebook_is_refused_and_the_old_page_kept(tmp_path):
    (tmp_path / "out.html").write_text("old")
    with pytest.raises(CubsError, match=r"no notebook .*out\.ipynb"):
        site.page(tmp_path / "out.ipynb")
    for text in ("{", "[]", '{"cells": 3}'):
        (tmp_path / "out.ipynb").write_text(text)
        with pytest.raises(CubsError, match="is no notebook"):
            site.page(tmp_path / "out.ipynb")
    assert (tmp_path / "out.html").read_text() == "old"


def test_a_table_has_a_row_a_run_and_for_t4_one_a_stage(tmp_path):
    found = [
        _run(tmp_path, "T1_custom_cnn"),
        _run(
            tmp_path,
            "T3_cubs_resnet18",
            settings={"fashion": "serial_12", "epochs": 4},
            dataset="sample",
        ),
        _run(tmp_path, "T4_retrieval", recall=RECALL, settings={"init_from": "random"}),
    ]
    first, third, *stages = table(found).rows
    assert first["Data"] == "Tiny ImageNet: complete"
    assert (first["Test top-1 %"], first["Val top-5 %"]) == ("25.0", "75.0")
    assert (first["Parameters"], first["Minutes"], first["Seed"]) == ("1.23 M", "1.5", "3")
    assert third["Data"].startswith("SAMPLE in place of Tiny ImageNet")
    assert [row["Epochs"] for row in (first, third, *stages)] == ["2", "4", "2", "3"]
    assert [row["Stage"] for row in stages] == ["classification", "embedding"]
    assert [row["Recall @8 %"] for row in stages] == ["58.0", "33.0"]
    assert {row["Weights from"] for row in stages} == {"random"}


def test_a_table_reads_as_text_and_as_html():
    found = Table([{"a": "1", "b": "", "c": "SAMPLE <x>"}, {"a": "22", "c": ""}])
    assert str(found) == repr(found) == "a   c\n1   SAMPLE <x>\n22  –"
    html = found._repr_html_()
    assert "<td><mark>SAMPLE</mark> &lt;x&gt;</td>" in html
    assert html.count("<tr>") == 3
    assert "b</th>" not in html
    assert str(Table([])) == ""


def test_the_site_links_a_page_for_each_notebook_and_marks_the_sample(tmp_path):
    _run(tmp_path, "T4_retrieval,margin=0.2", recall=RECALL, dataset="sample")
    _run(tmp_path, "T1_custom_cnn,run_dir=<b>")[0].joinpath("T1_custom_cnn.ipynb").unlink()
    (tmp_path / "T2_resnet18").mkdir()  # unfinished
    index = site.site(tmp_path)
    text = index.read_text()
    assert index == tmp_path / "report" / "index.html"
    links = {link["href"] for link in _Page(text).all("a")}
    assert links == {"T4_retrieval%2Cmargin%3D0.2.html"}
    assert "Notebook T4" in (index.parent / "T4_retrieval,margin=0.2.html").read_text()
    assert text.count("<mark>SAMPLE</mark> in place of Cars196") == 2
    assert "&lt;b&gt;" in text
    assert "a CPU &lt;8&gt;" in text
    assert "T2_resnet18" not in text
    assert text.index("T1_custom") < text.index("T4_retrieval")
    assert not re.search(r"https?://|<script", text)


def test_without_a_finished_run_there_is_no_site(tmp_path):
    with pytest.raises(CubsError, match="no finished run"):
        site.site(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
