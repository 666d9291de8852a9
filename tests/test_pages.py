import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import finished_runs as made
import hostile
import nbformat
import numpy as np
import pytest
import torch
from nbformat import v4

from cubslib import CubsError, losses, metrics
from cubslib.pages import browser, handout, markdown, site
from cubslib.pages.entries import answer, entry, seeds
from cubslib.pages.notebook import blocks
from cubslib.pages.table import Table, table
from cubslib.runs import finished

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("T*.ipynb"))
VOID = {"br", "hr", "img", "input", "line", "circle", "polyline", "meta", "wbr", "col"}


class Page(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.path = [], "", path
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project; its runs are in `runs`."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "cubslib"\n')
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cubslib.machine.project_root", lambda: tmp_path)
    return tmp_path


def link(project, cars):
    """Lay out the data set in `cars` as the project's real one."""
    (project / "data").mkdir()
    (project / "data/cars196").symlink_to(cars)


def read(folder):
    return entry(folder, finished.read(folder))


def test_a_page_begins_with_what_came_out_and_folds_the_code(project):
    folder = made.run(project / "runs", "T1_custom_cnn")
    page = Page(site.page(folder / "T1_custom_cnn.ipynb"))
    assert page.path == folder / "T1_custom_cnn.html"
    assert "Of 40 test images of 8 classes, 25.0\xa0% are classified correctly" in page.text
    assert page.text.index("classified correctly") < page.text.index("one epoch <done>")
    assert [one for one in page.all("details") if one.get("class") == "code"] == [
        {"class": "code"}
    ] * 3
    assert {"s-training", "s-where-it-fails", "main"} <= {one.get("id") for _, one in page.tags}
    assert "#s-training" in {one["href"] for one in page.all("a")}


def test_every_figure_says_what_it_shows_and_offers_its_numbers(project):
    folder = made.run(project / "runs", "T1_custom_cnn")
    page = Page(site.page(folder / "T1_custom_cnn.ipynb"))
    drawn = {one["alt"] for one in page.all("img")}
    assert {"Curves of T1_custom_cnn", "Classes of T1_custom_cnn", "x_i > 1"} == drawn
    saved = {one["download"]: one["href"] for one in page.all("a") if "download" in one}
    assert {name.rpartition("-")[2] for name in saved} == {"curves.csv", "classes.csv"}
    content = {name: unquote(href.partition(",")[2]) for name, href in saved.items()}
    assert made.rows_of(content["T1_custom_cnn-classes.csv"])[1] == ["<b>cat</b>", "0.5"]
    assert content["T1_custom_cnn-curves.csv"] == (folder / "history.csv").read_text()


@pytest.mark.parametrize("where", ["runs/T1_custom_cnn/T1_custom_cnn.ipynb", "out.ipynb",
                                   "notebooks/T1_custom_cnn.ipynb", None])  # fmt: skip
def test_every_finished_run_has_its_page_however_it_was_run(project, where):
    folder = made.run(project / "runs", "T1_custom_cnn")
    own = folder / "T1_custom_cnn.ipynb"
    if where is None:
        own.unlink()
    elif project / where != own:
        (project / where).parent.mkdir(exist_ok=True)
        own.rename(project / where)
    page = Page(site.site(project / "runs").parent / "runs/T1_custom_cnn.html")
    assert ("one epoch <done>" in page.text) == (where is not None)
    assert ("No executed notebook" in page.text) == (where is None)
    assert {"Curves of T1_custom_cnn", "Classes of T1_custom_cnn"} <= {
        one["alt"] for one in page.all("img")
    }


def test_the_index_has_cards_tables_and_several_seeds(project):
    runs = project / "runs"
    for asked, top1 in (({}, 0.25), ({"seed": 1}, 0.35), ({"lr": 0.1}, 0.9)):
        name = ",".join(["T1_custom_cnn", *asked])
        made.run(runs, name, asked=asked, test={"top1": top1, "top5": 0.95})
    made.run(runs, "T4_retrieval,dataset=sample", asked={"dataset": "sample"}, dataset="sample")
    index = Page(site.site(runs))
    assert "30.0\xa0% ± 7.1" in index.text
    assert all(chip in index.text for chip in ("lr 0.1", "seed 1", "all at default"))
    tables = [one["id"] for one in index.all("table") if one.get("class") == "results"]
    assert tables == ["real-1", "drawn-1"]
    assert [one for one in index.all("details") if one.get("class") == "drawn"][0].keys() == {
        "class"
    }
    assert "No finished run yet." in index.text
    assert len(index.path.read_bytes()) < 1_000_000


def test_test_chooses_no_card(project):
    made.run(project / "runs", "T1_custom_cnn,lr=0.1", asked={"lr": 0.1},
             test={"top1": 0.9, "top5": 1}, val={"top1": 0.4, "top5": 1})  # fmt: skip
    made.run(project / "runs", "T1_custom_cnn")
    text = Page(site.site(project / "runs")).text
    assert re.search(r"25\.0\xa0%\s*± 6\.8\s*top-1 on test", text)


def test_links_lead_to_pages_and_places_that_are_there(project):
    for task, stem in made.STEMS.items():
        made.run(project / "runs", stem, notebook=task != "T2")
    index = site.site(project / "runs")
    pages = {path.resolve(): Page(path) for path in index.parent.rglob("*.html")}
    assert len(pages) == 5
    for page in pages.values():
        for href in (one["href"] for one in page.all("a") if not one["href"].startswith("data:")):
            path, _, place = href.partition("#")
            target = (page.path.parent / unquote(path)).resolve() if path else page.path.resolve()
            assert target in pages, href
            assert not place or place in {one.get("id") for _, one in pages[target].tags}, href


def test_a_link_between_notebooks_leads_to_the_run_most_like_this_one(project):
    text = "[T1](T1_custom_cnn.ipynb), [T3](T3_cubs_resnet18.ipynb), [x](mine.ipynb)"
    for name in ("T1,seed=1", "T1,seed=1~1", "T1,lr=0.1"):
        made.run(project / "runs", name, asked={"seed": 1} if "seed" in name else {"lr": 0.1})
    made.run(project / "runs", "T3,drawn", dataset="sample")
    folder = made.run(project / "runs", "T2,seed=1", asked={"seed": 1})
    curves = (folder / "figures/curves.png").read_bytes()
    made.save(folder / "T2_resnet18.ipynb", v4.new_markdown_cell(text), made.shown(curves))
    page = Page(site.site(project / "runs").parent / "runs/T2,seed=1.html")
    links = [one.get("href") for one in page.all("a") if one.get("rel") == "noopener noreferrer"]
    assert links == ["T1%2Cseed%3D1.html", None, None]  # no run of T3 on such data
    alone = Page(site.page(folder / "T2_resnet18.ipynb"))
    assert "T1, T3, x" in alone.text
    assert not [one for one in alone.all("a") if "ipynb" in one.get("href", "")]


def test_pages_of_runs_that_are_gone_go_and_others_stay(project):
    runs = project / "runs"
    folder = made.run(runs, "T1_custom_cnn")
    made.run(runs, "T1_custom_cnn~1")
    made.run(runs, "index", task="T2")
    report = site.site(runs).parent
    (report / "runs/mine.html").write_text("my own")
    made_pages = {path.name for path in report.glob("runs/*.html")}
    assert made_pages == {"T1_custom_cnn.html", "T1_custom_cnn~1.html", "index.html", "mine.html"}
    assert "set aside: 1" in Page(report / "index.html").text
    folder.rename(project / "elsewhere")
    site.site(runs, ("index",))
    assert {path.name for path in report.glob("runs/*.html")} == {"index.html", "mine.html"}
    with pytest.raises(CubsError, match="T3 is no finished run"):
        site.site(runs, ("T3",))


@pytest.mark.parametrize("damage", [{"test": None}, {"seconds": "long"}, {"hardware": 3},
                                    {"test": {"top1": "<b>", "top5": 1}}])  # fmt: skip
def test_a_bad_record_is_named_and_the_rest_is_shown(project, damage, capsys):
    made.run(project / "runs", "T1_custom_cnn", **damage)
    made.run(project / "runs", "T2_resnet18")
    text = Page(site.site(project / "runs")).text
    assert re.search("T1_custom_cnn(/metrics.json is no record| cannot be shown)", text)
    assert "Skipped: T1_custom_cnn" in capsys.readouterr().err


def test_a_page_that_is_not_ours_is_not_overwritten(project):
    folder = made.run(project / "runs", "T1_custom_cnn")
    (folder / "T1_custom_cnn.html").write_text("my own")
    with pytest.raises(CubsError, match="was not made by this library"):
        site.page(folder / "T1_custom_cnn.ipynb")
    assert (folder / "T1_custom_cnn.html").read_text() == "my own"


def test_what_is_no_notebook_is_refused(tmp_path):
    with pytest.raises(CubsError, match=r"no notebook .*out\.ipynb"):
        site.page(tmp_path / "out.ipynb")
    odd = '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [%s]}'
    output = '{"cell_type": "code", "source": "", "outputs": [%s]}'
    for text in ("{", "[]", '{"cells": 3}', odd % "3", odd % '{"cell_type": "code"}',
                 odd % (output % '{"output_type": "display_data"}')):  # fmt: skip
        (tmp_path / "out.ipynb").write_text(text)
        with pytest.raises(CubsError, match="is no notebook"):
            site.page(tmp_path / "out.ipynb")
    with pytest.raises(CubsError, match="no finished run"):
        site.site(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def hostile_cells():
    texts, run = (*hostile.HTML, *hostile.MARKDOWN), hostile.RUN
    cells = [v4.new_markdown_cell(text) for text in texts]
    kinds = "text/html", "text/markdown"
    outputs = [v4.new_output("display_data", {kind: text}) for text in texts for kind in kinds]
    xmlns = "xmlns='http://www.w3.org/2000/svg'"
    script = f"<svg {xmlns} onload='{run}'><script>{run}</script></svg>"
    outputs += [
        v4.new_output("display_data", {"application/javascript": run, "text/plain": "js"}),
        v4.new_output("display_data", {"image/svg+xml": script}),
        v4.new_output("display_data", {"image/png": "'><script>"}),
        v4.new_output("stream", name="stdout", text=hostile.HTML[0]),
        v4.new_output("error", ename="E", evalue="", traceback=[hostile.HTML[0]]),
    ]
    return [*cells, v4.new_code_cell(hostile.HTML[0], outputs=outputs)]


def hostile_site(project):
    """A site with a notebook, a name, a protocol and class names that are all hostile."""
    (project / "secret.png").write_bytes(b"secret")
    markup = {"protocol": hostile.HTML[0], "hardware": hostile.HTML[2]}
    markup["versions"] = dict([hostile.HTML[:2]])
    folder = made.run(project / "runs", hostile.NAME, **markup)
    (folder / "secret.txt").write_text("secret")
    (folder / "link.png").symlink_to("/etc/passwd")
    notebook = folder / "T1_custom_cnn.ipynb"
    cells = nbformat.read(notebook, as_version=4).cells
    figure = made.png(folder / "figures/classes.png", f"'\"><script>{hostile.RUN}</script>")
    made.save(notebook, *cells[:1], *hostile_cells(), cells[1], made.shown(figure))
    (folder / "figures/classes.csv").write_text(f"{hostile.HTML[0]},{hostile.HTML[2]}\n1,2\n")
    return site.site(project / "runs")


def test_a_foreign_page_runs_and_loads_nothing(project):
    index = hostile_site(project)
    for path in index.parent.rglob("*.html"):
        page = Page(path)
        assert len(page.all("script")) == 1
        (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "'unsafe-eval'" not in policy
        assert not {"iframe", "object", "embed", "form", "link", "base"} & {t for t, _ in page.tags}
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            assert re.match("data:image/", attributes.get("src", "data:image/"))
            assert not re.match(r"(?i)\s*(javascript|vbscript|data:text/html|file)",
                                attributes.get("href", ""))  # fmt: skip
            assert "evil" not in attributes.get("style", "") + attributes.get("srcset", "")
        ids = [one["id"] for _, one in page.tags if "id" in one]
        assert len(ids) == len(set(ids))
        text = path.read_text()
        for stolen in (b"secret", b"root:x"):
            assert base64.b64encode(stolen).decode()[:7] not in text


def test_formulas_are_drawn_and_others_shown_as_they_are_written():
    html = markdown.markdown("# a\n\n$$\\frac{1}{m}\n\\sum_{i} S_{ij}$$\n\n$\\nosuch<b>$ and `$5`")
    assert r'alt="\frac{1}{m} \sum_{i} S_{ij}"' in html
    assert 'src="data:image/svg+xml;base64,' in html
    assert r"<code>\nosuch&lt;b&gt;</code>" in html
    assert "<code>$5</code>" in html


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_can_be_drawn(notebook, monkeypatch):
    drawn, real = [], markdown.formula
    monkeypatch.setattr(markdown, "formula", lambda *given: drawn.append(real(*given)) or drawn[-1])
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            markdown.markdown(cell.source)
    assert [html for html in drawn if "<img" not in html] == []


def test_pictures_beside_and_attached_are_taken_in(tmp_path):
    made.png(tmp_path / "beside.png")
    attached = {"two.png": {"image/png": "QUJD"}}
    source = "![one](beside.png) ![two](attachment:two.png) ![three](attachment:none.png)"
    html = markdown.markdown(source, tmp_path, attached)
    assert len(re.findall('src="data:image/png;base64,[A-Za-z0-9+/=]+"', html)) == 2
    assert 'alt="three"' in html


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_hand_outs_lines_are_found_in_the_notebooks(notebook):
    task = notebook.stem[:2]
    page = blocks(nbformat.read(notebook, as_version=4), notebook)
    found = [line for line in handout.evidence({task: page}) if line.task == task]
    assert [line.asked for line in found if not line.place] == []


def test_a_table_has_a_row_a_run_and_for_t4_one_a_stage(tmp_path):
    folders = [made.run(tmp_path, stem) for stem in made.STEMS.values()]
    first, _, third, *stages = table([(one, finished.read(one)) for one in folders]).rows
    assert (first["Test top-1 %"], first["Val top-1 %"]) == ("25.0", "50.0")
    assert (first["Parameters"], first["Minutes"], first["Seed"]) == ("1.23 M", "1.5", "0")
    assert third["Fashion"] == "serial_12"
    assert [row["Stage"] for row in stages] == ["classification", "embedding"]
    assert list(first)[:3] == ["Task", "Stage", "Test top-1 %"]  # numbers first


def test_a_table_reads_as_text_and_as_html():
    one = Table([{"a": "1", "b": "", "c": "SAMPLE <x>"}, {"a": "22", "c": ""}])
    assert str(one) == repr(one) == "a   c\n1   SAMPLE <x>\n22  –"
    html = one._repr_html_()
    assert "<td><mark>SAMPLE</mark> &lt;x&gt;</td>" in html
    assert html.count("<tr>") == 3
    assert "b</th>" not in html
    assert str(Table([])) == ""


def test_sentences_hold_when_the_embedding_loses_and_without_arrays(tmp_path):
    better = {"1": 0.9, "2": 0.9, "4": 0.9, "8": 0.9}
    worse = dict.fromkeys(better, 0.1)
    folder = made.run(
        tmp_path, "T4_retrieval", recall={"classification": better, "embedding": worse}
    )
    assert "−80.0 points, more than two standard errors" in answer(read(folder))
    (folder / "arrays.npz").unlink()
    assert answer(read(folder)).endswith("by the embedding: −80.0 points.")
    made.change(folder, {"mining": losses.CONTROL})
    assert "by the features after more cross-entropy: −80.0" in answer(read(folder))


def test_only_runs_that_differ_in_the_seed_are_gathered(tmp_path):
    asked = [{}, {"seed": 1}, {"seed": 2, "lr": 0.1}, {"seed": 1}]
    folders = [made.run(tmp_path, f"T1,{i}", asked=one) for i, one in enumerate(asked)]
    (row,) = seeds([read(one) for one in folders])
    assert (row["count"], row["seeds"], row["deviation"]) == (2, "0, 1", 0)


def test_rounded_embeddings_are_scored_as_recall_is():
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(12), 5)
    labels[0] = 99  # alone in its class: a miss
    rows = browser.quantise(draw.normal(size=(60, 16)) + labels[:, None] % 12 / 9)
    assert np.abs(rows).max(1).tolist() == [127] * 60
    found = browser.ranks(rows, labels)
    exact = metrics.recall_at_k(torch.from_numpy(rows), torch.from_numpy(labels))
    assert {k: (found < k).mean() for k in exact} == pytest.approx(exact, abs=1e-9)
    assert found[0] == 60
    assert (
        browser.ranks(np.zeros((4, 3), np.int8), np.array([0, 0, 1, 1])) == 2
    ).all()  # collapsed


@pytest.mark.parametrize("missing", ["data", "image", "arrays", "outside", "other", "none"])
def test_without_its_own_images_or_arrays_a_run_has_no_browser(project, cars_copy, missing):
    link(project, cars_copy)
    made_of = made.cars(cars_copy)
    names = made_of["arrays"]["names"]
    if missing in ("image", "outside"):
        names[0] = "gone.jpg" if missing == "image" else "../../../../etc/passwd"
    folder = made.run(project / "runs", "T4_retrieval", **made_of)
    if missing == "data":
        (project / "data/cars196").unlink()
    if missing == "arrays":
        (folder / "arrays.npz").write_bytes(b"PK")
    if missing == "other":  # another picture under the same name
        shutil.copyfile(cars_copy / names[1], cars_copy / names[0])
    index = site.site(project / "runs")
    there = (index.parent / "browser/T4_retrieval.html").exists()
    assert there == (missing == "none")
    assert ("There is no browser of T4_retrieval's images" in Page(index).text) != there


def test_a_digit_changed_in_the_record_is_found_when_the_page_is_made(project, cars_root):
    link(project, cars_root)
    folder = made.run(project / "runs", "T4_retrieval", **made.cars(cars_root))
    page = site.site(project / "runs").parent / "browser/T4_retrieval.html"
    assert "to the last digit" in Page(page).text
    recall = finished.read(folder)["recall"]
    recall["embedding"]["4"] += 1e-9
    made.change(folder, recall=recall)
    site.site(project / "runs")
    assert "embedding, K 4: the record says" in Page(page).text
