"""The pages in a real browser: headless Chromium, from disk, with the network off."""

import io
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import finished_runs as made
import hostile
import pytest
from test_pages import hostile_site

from cubslib.pages import site

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome",
                                                "chromium-headless-shell"))), None)  # fmt: skip
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
A4 = 688  # CSS pixels between margins of 14 mm
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a page from disk; at the end it must have said, asked and run nothing it should not."""
    contexts, heard = [], []

    def look(path, fragment="", width=1280, scheme="light", **options):
        size = {"width": width, "height": 900}
        context = chromium.new_context(offline=True, viewport=size, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message) or dialog.dismiss())
        page.on(
            "request", lambda asked: re.match("data:|file:", asked.url) or heard.append(asked.url)
        )
        page.goto(path.as_uri() + fragment)
        return page

    yield look
    for context in contexts:
        context.close()
    assert heard == []


@pytest.fixture(scope="module")
def report(tmp_path_factory, cars_root):
    """A site of four runs, one without a notebook, and T4's browser."""
    project = tmp_path_factory.mktemp("project")
    for stem in made.STEMS.values():
        arrays = made.cars(cars_root) if stem == "T4_retrieval" else {}
        made.run(project / "runs", stem, notebook=stem != "T2_resnet18", **arrays)
    made.run(project / "runs", "T1_custom_cnn,seed=1", asked={"seed": 1})
    made.run(project / "runs", "T1_custom_cnn,dataset=sample", dataset="sample")
    (project / "data").mkdir()
    (project / "data/cars196").symlink_to(cars_root)
    return site.site(project / "runs", data_root=project / "data").parent


PAGES = ("index.html", "runs/T1_custom_cnn.html", "runs/T2_resnet18.html",
         "browser/T4_retrieval.html")  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_found_by_axe_and_nothing_is_cut(report, open_page, name):
    where = find_spec("axe_playwright_python")
    if where is None:
        pytest.skip("axe-playwright-python is not installed")
    axe = (Path(where.submodule_search_locations[0]) / "axe.min.js").read_text()
    for width, scheme in LOOKS:
        page = open_page(report / name, width=width, scheme=scheme)
        if name.startswith("browser"):
            page.locator("#grid .tile").first.click()
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0
        page.evaluate(axe)
        found = page.evaluate("axe.run()")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        assert len(found["passes"]) > 10


def test_headline_numbers_are_seen_on_a_phone_without_scrolling_sideways(report, open_page):
    page = open_page(report / "runs/T4_retrieval.html", width=390)
    box = page.locator("table.headline").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_code_is_folded_by_one_switch_and_colours_by_another(report, open_page):
    page = open_page(report / "runs/T1_custom_cnn.html")
    code = page.locator("details.code[open]")
    assert code.count() == 0
    page.click("#code")
    assert code.count() == 3
    page.click("#theme")
    page.click("#theme")
    page.reload()  # both are remembered
    assert code.count() == 3
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"


def test_the_contents_follow_the_reader(report, open_page):
    page = open_page(report / "runs/T1_custom_cnn.html")
    here = page.locator(".contents a[aria-current]")
    assert here.inner_text() == "Summary"
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    sync_api.expect(here).to_have_text("Record")
    page.evaluate("scrollTo(0, 0)")
    sync_api.expect(here).to_have_text("Summary")


def test_the_index_sorts_filters_and_compares(report, open_page):
    page = open_page(report / "index.html")
    rows = page.locator("#real-1 tbody tr:visible")
    assert rows.count() == 4
    page.fill(".filters[data-table=real-1] input", "seed 1")
    assert rows.count() == 1
    page.fill(".filters[data-table=real-1] input", "")
    page.locator("#real-1 thead button").first.click()
    assert page.locator("#real-1 thead th[aria-sort]").get_attribute("aria-sort") == "descending"
    for i in (0, 1):
        page.locator("#real-1 tbody input").nth(i).check()
    said = page.locator(".compared").first.inner_text()
    assert "difference +0.0 points ± 9.7 (standard error), no more than two of it" in said
    page.click("#handout summary")
    place = page.locator(".evidence a").first
    place.click()
    assert page.locator(page.evaluate("location.hash")).count() == 1


def test_the_browser_answers_clicks_keys_back_and_its_address(report, open_page):
    page = open_page(report / "browser/T4_retrieval.html")
    tiles, own = page.locator("#grid .tile"), page.locator(".own p")
    assert tiles.count() == 16
    tiles.nth(0).click()
    first = own.inner_text()
    assert page.locator(".neighbours").count() == 2
    assert page.locator(".neighbours .tile").count() == 16
    marks = page.locator(".neighbours b").all_inner_texts()
    assert all(re.fullmatch(r"(✓ right|✗ wrong) -?\d\.\d{3}", mark) for mark in marks)
    shows = "([text, same]) => (document.querySelector('.own p').innerText === text) === same"
    page.locator(".neighbours .tile").nth(3).click()
    page.wait_for_function(shows, arg=[first, False])  # the address changes first, then the page
    page.go_back()
    page.wait_for_function(shows, arg=[first, True])
    tiles.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function(shows, arg=[first, False])
    third, address = own.inner_text(), page.evaluate("location.hash")
    assert third
    again = open_page(report / "browser/T4_retrieval.html", address)
    assert again.locator(".own p").inner_text() == third
    page.fill("#find", third.split()[0])
    assert 0 < tiles.count() < 16
    page.fill("#find", "no such car")
    assert page.inner_text("#count") == "0 of 16 images"
    page.fill("#find", "")
    page.select_option("#show", "wrong in both")
    assert tiles.count() < 16


def test_the_browser_finds_the_librarys_neighbours(report, open_page):
    import numpy as np

    from cubslib.pages.browser import quantise

    with np.load(report.parent / "T4_retrieval/arrays.npz") as file:
        rows, names = quantise(file["embeddings_embedding"]).astype(float), file["names"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows[5] @ rows.T
    cosines[5] = -2
    page = open_page(report / "browser/T4_retrieval.html", f"#q={names[5]}")
    tiles = page.locator(".neighbours").nth(1).locator(".tile")
    found = [int(tile.get_attribute("data-image")) for tile in tiles.all()]
    assert found == np.argsort(-cosines, kind="stable")[:8].tolist()


@pytest.mark.parametrize("change", ["none", "rounded", "record", "rank", "embedding"])
def test_the_numbers_are_recomputed_and_a_changed_digit_is_found(
    report, open_page, tmp_path, change
):
    text = (report / "browser/T4_retrieval.html").read_text()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[
        1
    ]
    data = json.loads(block)
    stage = data["stages"][1]
    if change in ("rounded", "record"):
        stage[change]["2"] += 1e-9
    elif change == "rank":
        stage["ranks"][3] += 1
    text = text.replace(block, json.dumps(data).replace("<", "\\u003c"))
    if change == "embedding":
        start = text.index('id="stage-1">') + 13
        text = text[:start] + text[start + 64 : start + 128] + text[start + 64 :]
    (tmp_path / "page.html").write_text(text)
    page = open_page(tmp_path / "page.html")
    page.click("#recompute")
    page.locator("#verdict", has_text=re.compile("[✓✗]")).wait_for()
    verdict = page.inner_text("#verdict")
    assert verdict.startswith("✓ Agrees" if change == "none" else "✗ Does not agree"), verdict
    if change == "record":
        assert "embedding, K 2: the record does not belong to these embeddings" in verdict


@pytest.mark.parametrize("guarded", [True, False], ids=["with its policy", "cleaned alone"])
def test_a_foreign_page_runs_and_loads_nothing(open_page, tmp_path, monkeypatch, guarded):
    monkeypatch.setattr("cubslib.machine.project_root", lambda: tmp_path)
    index = hostile_site(tmp_path)
    for path in (index, *index.parent.glob("runs/*.html")):
        page = open_page(path, bypass_csp=not guarded)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        for link in page.locator("main a").all():
            assert not re.match(
                "(?i)javascript|data:text/html|file:///etc", link.get_attribute("href") or ""
            )
        page.wait_for_timeout(200)
        assert page.evaluate("window.pwned") is None
        assert page.url == path.as_uri()
        assert page.locator("#theme, #main").count() == 2


@pytest.mark.parametrize("guarded", [True, False])
def test_the_policy_alone_stops_a_script(chromium, report, tmp_path, guarded):
    text = (report / "index.html").read_text()
    (tmp_path / "page.html").write_text(text.replace("<h1>", f"<script>{hostile.RUN}</script><h1>"))
    page = chromium.new_page(bypass_csp=not guarded)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("window.pwned") == (None if guarded else 1)
    page.close()


@pytest.mark.parametrize("name", PAGES[:3] + ("runs/T4_retrieval.html",))
def test_paper_cuts_nothing(report, open_page, name):
    pypdf = pytest.importorskip("pypdf")
    page = open_page(report / name, width=A4)
    page.emulate_media(media="print")
    parts = "[...document.querySelectorAll('img, table, pre, h1, h2, svg')]"
    right = f"Math.max(...{parts}.map(one => one.getBoundingClientRect().right))"
    assert page.evaluate(right) <= A4 + 1
    paper = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    text = " ".join(part.extract_text() for part in paper.pages)
    assert 1 <= len(paper.pages) < 12
    if name == "index.html":
        assert "25.0" in text
        record = json.loads((report.parent / "T4_retrieval/metrics.json").read_text())
        for value in record["recall"]["embedding"].values():
            assert f"{100 * value:.1f}" in text
        assert "The hand-out, line by line" in text
