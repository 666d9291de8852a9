"""The README's results: made from the published records, and nothing where there are none."""

import shutil
from pathlib import Path

import finished_runs as made
import pytest

from cubslib import CubsError, __main__, machine
from cubslib.pages import results
from cubslib.runs import finished, published

EMPTY = f"# A project\n\n{results.START}{results.END}\n## Quickstart\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a README that has a place for results."""
    (tmp_path / "README.md").write_text(EMPTY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def publish(project):
    """Write a finished run and publish it."""

    def run(name, **changes):
        return published.publish(made.run(project / "runs", name, notebook=False, **changes))

    return run


def cells(text):
    """The rows of a text's tables, each by the names of its columns."""
    rows = []
    for line in text.splitlines():
        if line.startswith("| run |"):
            names = line.strip("| ").split(" | ")
        elif line.startswith("| T"):
            rows.append(dict(zip(names, line.strip("| ").split(" | "), strict=True)))
    return rows


def test_the_readme_of_this_project_is_as_its_records_say():
    root = Path(__file__).parent.parent
    text, found = (root / "README.md").read_text(), finished.find(root / "notebooks/results")
    assert results.filled(text, found) == text
    assert bool(results.curves(found)) == (root / "notebooks/results/curves.png").exists()


def test_without_published_runs_nothing_is_said(project, publish):
    assert results.remake() == ["README.md"]
    assert (project / "README.md").read_text() == EMPTY
    assert not (project / "notebooks").exists()
    publish("T1")
    results.remake()
    assert (project / "README.md").read_text() != EMPTY
    (project / "notebooks/results/T1/metrics.json").unlink()
    results.remake()
    assert (project / "README.md").read_text() == EMPTY
    assert not (project / "notebooks/results/curves.png").exists()


def test_a_row_is_read_from_the_records_and_seeds_share_one(project, publish):
    scores = {"val": {"top1": 0.5, "top5": 0.75}}
    for seed, top1 in enumerate((0.25, 0.27, 0.23)):
        publish(f"T1,seed={seed}", asked={"seed": seed}, test={"top1": top1, "top5": 0.5}, **scores)
    publish("T2,lr", asked={"lr": 0.1, "preset": "cpu"}, hardware="another CPU", dirty=True)
    names = results.remake()
    assert names == ["README.md", "notebooks/results/curves.png"]
    text = (project / "README.md").read_text()
    first, second = cells(text)
    assert first["run"] == "T1: `preset=cpu`"
    assert (first["test top-1 %"], first["se"]) == ("25.0 ± 2.0", "6.8")  # (1/4 · 3/4 / 40) ** 0.5
    assert (first["val top-1 %"], first["epochs"], first["minutes"]) == (
        "50.0 ± 0.0", "4", "1.5 ± 0.0")  # fmt: skip
    assert (first["parameters"], first["data"]) == ("1.23 M", "complete")
    assert [text[:2] for text in first["seed"].split("[")[1:]] == ["0]", "1]", "2]"]
    for link in first["seed"].split("(")[1:]:
        path = project / link.partition(")")[0].replace("%2C", ",").replace("%3D", "=")
        assert path.is_file()
    assert second["run"] == "T2: `preset=cpu, lr=0.1`"
    assert (second["test top-1 %"], second["processor"]) == ("25.0", "another CPU")
    assert [row["seed"].endswith("\\*") for row in (first, second)] == [False, True]
    assert text.count("An asterisk: the checkout had uncommitted changes") == 1
    results.remake()
    assert (project / "README.md").read_text() == text
    picture = project / "notebooks/results/curves.png"
    assert picture.stat().st_size < 500_000
    assert "T2: preset=cpu, lr=0.1: best 40.0 % in 2 minutes." in text
    assert "T1: preset=cpu: best 40.0 ± 0.0 % in 2 minutes;" in text
    assert text.startswith("# A project\n")
    assert text.endswith("## Quickstart\n")


def test_t4_has_a_row_a_stage_and_one_for_what_was_scored_apart(project, publish):
    target = publish("T4", protocol="subset: 12,146 of 16,185, cropped copy")
    measures = {
        f"{stage}{how}": {"map_at_r": 0.125, "recall": {"1": share}}
        for stage in ("classification", "embedding")
        for how, share in (("", 0.5), (", with mirror images", 0.625))
    }
    shared = {"init_from": "T3,seed=1", "classification_from": "T4,control"}
    record = made.change(target, shared, measures=measures)
    apart = shutil.copytree(target, target.with_name("T4,apart"))
    (apart / "history.csv").unlink()
    made.change(apart, protocol="complete, scored apart", test_images=8131)
    results.remake()
    rows = cells((project / "README.md").read_text())
    assert [(row["stage"], row["data"]) for row in rows] == [
        (stage, protocol)
        for protocol in ("subset: 12,146 of 16,185, cropped copy", "complete, scored apart")
        for stage in ("classification", "embedding")
    ]
    for row in rows:
        shown = [row[f"R@{k} %"] for k in (1, 2, 4, 8)]
        assert shown == [f"{100 * x:.1f}" for x in record["recall"][row["stage"]].values()]
        assert row["run"].endswith("init_from=T3,seed=1`")
        assert (row["MAP@R %"], row["mirrored R@1 %"]) == ("12.5", "62.5")
    assert [row["epochs"] for row in rows] == ["4", "4", "–", "–"]
    share = record["recall"]["classification"]["1"]
    assert rows[2]["se"] == f"{100 * (share * (1 - share) / 8131) ** 0.5:.1f}"


def test_runs_that_share_stage_1_have_one_row_for_it(project, publish):
    name = publish("T4,mining=cross_entropy", asked={"mining": "cross_entropy"}).name
    made.change(publish("T4"), {"classification_from": name})
    publish("T4,mining=all", asked={"mining": "all"})
    results.remake()
    rows = cells((project / "README.md").read_text())
    stages = "classification", "embedding"
    assert [row["stage"] for row in rows] == [*stages, *stages, "embedding"]
    ours, theirs, control = rows[0]["run"], rows[2]["run"], rows[4]["run"]
    assert "mining" not in ours
    assert "mining=all" in theirs
    assert "mining=cross_entropy" in control


def grouped(publish, *several):
    """The seeds of the groups of runs of T4 whose settings are changed so."""
    for number, changes in enumerate(several):
        folder = publish(f"T4,{number}", asked={"seed": changes.pop("seed", number)})
        made.change(folder, changes)
    groups = results._groups(finished.find(published.root()))
    return [[record["seed"] for _, record in group] for group in groups]


OF_SEED = ("init_from", "init_fingerprint", "classification_from", "classification_fingerprint")


@pytest.mark.parametrize(
    ("several", "groups"),
    [
        ([{name: f"{name}, {i}" for name in OF_SEED} for i in (0, 1)], [[0, 1]]),
        ([{"init_from": "random"}, {"init_from": "T3"}], [[0], [1]]),
        ([{"sources": {"losses": "b"}}, {"embed_epochs": 7}, {"x": 1}], [[0], [1], [2]]),
        ([{"seed": 0}, {"seed": 1}, {"seed": 0}], [[0, 1], [0]]),
    ],
    ids=["each seed's own earlier runs", "other weights", "other code or settings", "a seed twice"],
)
def test_runs_share_a_row_where_only_their_seeds_differ(publish, several, groups):
    assert grouped(publish, *several) == groups


def test_groups_whose_names_are_equal_have_a_colour_each(publish):
    assert grouped(publish, {"precision": "bf16-mixed"}, {"precision": "32-true"}) == [[0], [1]]
    publish("T3", asked={"fashion": "best"})
    found = finished.find(published.root())
    both, single = (results._scores(found)[f"val_{x}"] for x in ("recall_at_1", "top1"))
    assert [len(drawn) for _, drawn in both] == 4 * [1]
    assert [name for name, _ in single] == ["T3: preset=cpu, fashion=serial_12"]
    assert "T3's epochs and minutes are those of the chosen fashion" in results._caption(found)


def test_time_is_the_processor_s_where_one_thread_shared_the_machine(publish):
    settings = {"preset": "cpu", "device": "cpu", "threads": 1, "title": "Tiny ImageNet"}
    folder = publish("T1", settings=settings | {"epochs": 4})
    history = folder / "history.csv"
    lines = history.read_text().splitlines()
    history.write_text(
        "\n".join([f"{lines[0]},cpu_seconds", *(f"{x},15" for x in lines[1:])]) + "\n"
    )
    (row,) = cells(results.filled(EMPTY, finished.find(published.root())))
    assert (row["minutes"], row["processor"]) == ("1.0", "a CPU <8>, 1 thread")
    assert row["data"] == "Tiny ImageNet: complete"
    made.change(folder, {"processes": 2, "precision": "bf16-mixed"})  # its clock's time then
    (row,) = cells(results.filled(EMPTY, finished.find(published.root())))
    assert (row["minutes"], row["processor"]) == ("1.5", "a CPU <8>, 1 thread, bf16, 2 processes")


def test_what_stands_in_the_way_is_said(project, publish, capsys):
    folder = publish("T1")
    assert __main__.main(["results", "T1,none"]) == 1
    assert "T1,none/metrics.json is no record of a finished run" in capsys.readouterr().err
    before = (project / "README.md").read_text()
    (folder / "history.csv").write_text("fit,epoch\n1")
    with pytest.raises(CubsError, match=r"results/T1/history\.csv cannot be read"):
        results.remake()
    assert (project / "README.md").read_text() == before
    assert __main__.main(["results", "T1"]) == 0  # published again, whole
    assert capsys.readouterr().out.startswith("published: T1\nremade: README.md")
    made.run(project / "runs", "T2", notebook=False)
    assert __main__.main(["results", "T2", "T1,none"]) == 1  # what went before is shown
    assert "T2: `preset=cpu`" in (project / "README.md").read_text()
    assert __main__.main(["results", "--weights"]) == 1
    assert "--weights is given without a run" in capsys.readouterr().err
    whole = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text("{")
    with pytest.raises(CubsError, match="T1/metrics.json is no record of a finished run"):
        results.remake()
    (folder / "metrics.json").write_text(whole)
    (project / "README.md").write_text("# No place")
    with pytest.raises(CubsError, match="README.md has no place for results: put back the lines"):
        results.remake()
    (project / "README.md").unlink()
    with pytest.raises(CubsError, match="README.md is not here"):
        results.remake()
    assert machine.project_root() == project


def test_a_mirrored_score_has_a_column_where_all_seeds_have_one(project, publish):
    for seed in (0, 1):
        publish(f"T1,seed={seed}", asked={"seed": seed})
    found = finished.find(published.root())
    text = results.filled(EMPTY, found)
    assert cells(text)[0]["mirrored test top-1 %"] == "37.5 ± 0.0"
    assert "*Mirrored*" in text
    del found[0][1]["test_mirrored"]
    assert "mirrored test top-1 %" not in cells(results.filled(EMPTY, found))[0]
    del found[1][1]["test_mirrored"]
    assert "irrored" not in results.filled(EMPTY, found)
