import os
import shlex
import shutil
import subprocess
import sys

import papermill
import pytest
from finished_runs import change
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from small import content

from cubslib import __main__, budget, course, execution, recipes, runs
from cubslib.pages import results
from cubslib.runs import parameters


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with a notebook that must not be run."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/T1_custom_cnn.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("was run"))
    return tmp_path


@pytest.fixture
def command(project, capsys):
    """Call the command line: its exit status, output and errors."""

    def call(*arguments):
        capsys.readouterr()
        status = __main__.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def refused(command):
    """Call the command line, which must end in one sentence and print nothing else; return it."""

    def call(*arguments):
        status, out, error = command(*arguments)
        assert (status, out, error.count("\n")) == (1, "", 1)
        return error

    return call


@pytest.mark.parametrize(("text", "value"), [
    ("3", 3), ("-1", -1), ("1e3", 1000.0), ("0.2", 0.2), ("True", True), ("false", "false"),
    ("real", "real"), ("runs/a b", "runs/a b"), ("", ""), ("2 apples", "2 apples"),
])  # fmt: skip
def test_values_are_read_as_papermill_reads_them(text, value):
    name, found = __main__._parsed(["x", text])
    assert (name, found, type(found)) == ("x", value, type(value))


@pytest.mark.parametrize(("asked", "sentence"), [
    (["epoch", "2"], "T1 has no parameter epoch: did you mean epochs."),
    (["restart", "false"], "restart is 'false'; it must be True or False."),
    (["epochs", "1e3"], "epochs is 1000.0; it must be a whole number."),
    (["seed", "1"], "run_dir mine began with seed=0: ask for the same, for restart=True"),
])  # fmt: skip
def test_run_refuses_in_one_sentence_before_a_kernel_starts(asked, sentence, begin, refused):
    run = begin("T1", run_dir="mine")
    before = content(run.folder)
    place = ["-p", "run_dir", "mine", "-p", "data_root", run.train.root.parent.parent]
    assert refused("run", "T1", *place, "-p", *asked).startswith(sentence)
    assert content(run.folder) == before


def test_run_all_is_the_course(command, monkeypatch):
    given = []
    monkeypatch.setattr(course, "run", lambda *arguments: given.append(arguments))
    assert command("run", "all", "-p", "preset", "tour", "-p", "epochs", "2")[0] == 0
    assert given == [({"preset": "tour", "epochs": 2}, execution.run_notebook)]


def test_of_what_a_notebook_prints_the_expected_time_is_passed_on(capsys):
    execution._Said().write(f"1,234 parameters\n{budget.EXPECTED}about 8 min\nloss\n")
    assert capsys.readouterr().out == f"{budget.EXPECTED}about 8 min\n"


def test_run_outside_a_project_says_so(refused, project):
    shutil.rmtree(project / "notebooks")
    assert "notebooks/T1_custom_cnn.ipynb is not here" in refused("run", "T1")


def test_run_passes_on_the_sentence_of_a_cell_and_says_what_is_saved(
    command, data_root, monkeypatch, project
):
    def fail(source, draft, parameters, **options):
        assert parameters == {"data_root": str(data_root), "seed": 3}
        run = runs.start("T1", parameters)  # the lock is free, and restart has been done
        run.write_history("classification", rows)
        draft.write_text("half a notebook")
        run.release()
        raise error

    total = recipes.recipe("custom_cnn", "sample").epochs
    rows = [{"epoch": 7, "loss": 2.5, "val_top1": 0.25, "seconds": 1.0, "images_per_second": 9.0}]
    monkeypatch.setattr(papermill, "execute_notebook", fail)
    asked = ["-p", "data_root", data_root, "-p", "seed", "3", "-p", "restart", "True"]
    error = PapermillExecutionError(9, 3, "fit()", "CubsError", "the loss is nan.", ["", ""])
    status, out, said = command("run", "T1", *asked)
    assert (status, said) == (1, "the loss is nan.\n")
    assert f"classification, epoch 7 of {total}: loss 2.500, val_top1 25.0%, 9 images/s" in out
    error = PapermillExecutionError(9, 3, "fit()", "ZeroDivisionError", "by zero", ["", ""])
    assert command("run", "T1", *asked)[0] == 1
    error = KeyboardInterrupt()
    status, _, said = command("run", "T1", *asked)
    assert status == 130
    assert "classification is saved to epoch 7; the same command goes on from there." in said
    folder = project / "runs" / "T1_custom_cnn,seed=3"
    assert (folder / "T1_custom_cnn.ipynb").read_text() == "half a notebook"
    assert folder.with_name(f"{folder.name}~2").exists()


def test_report_makes_a_site_of_finished_runs(command, refused, project, t1, t4):
    refused("report")
    for run in (t1, t4):
        shutil.copytree(run.folder, project / "runs" / run.folder.name)
    status, out, _ = command("report")
    assert status == 0
    assert (project / "runs/report/index.html").is_file()
    assert "T1" in out
    assert "embedding" in out


def test_classify_and_search_use_the_newest_run_or_the_one_named(command, refused, project, t1, t4):
    photos = {run.task: run.test.root / run.test.names[0] for run in (t1, t4)}
    for what, task in (("classify", "T1"), ("search", "T4")):
        assert "there is no finished run of T" in refused(what, photos[task])
        run = {"T1": t1, "T4": t4}[task]
        status, named, _ = command(what, photos[task], "--run", run.folder)
        assert status == 0
        shutil.copytree(run.folder, project / "runs" / task)
        assert command(what, photos[task]) == (0, named, "")
        warning, by, *lines = named.splitlines()
        assert warning.startswith("SAMPLE DATA: this run was trained on pictures drawn")
        assert by == f"by {task}:"
        assert len(lines) == {"T1": 3, "T4": 8}[task]
        counted = command(what, photos[task], "--count", 2)[1].splitlines()
        assert counted[2:] == lines[:2]
        said = refused(what, photos[task], "--count", 0)
        assert said == "--count is 0; it must be 1 or more.\n"
    assert t1.test.classes[0] in command("classify", photos["T1"])[1]
    assert t4.test.names[0] in command("search", photos["T4"])[1].splitlines()[2]
    control = shutil.copytree(t4.folder, project / "runs" / "control")
    change(control, {"mining": "cross_entropy"}, finished="2999-01-01T00:00:00+00:00")
    assert command("search", photos["T4"])[1].splitlines()[1] == "by T4:"


def test_nothing_is_warned_of_where_the_data_were_real(command, project, t1):
    folder = shutil.copytree(t1.folder, project / "real")
    change(folder, {"dataset": "real"}, dataset="real")
    out = command("classify", t1.test.root / t1.test.names[0], "--run", folder)[1]
    assert out.startswith("by real:")


def test_a_checkpoint_of_a_sample_is_warned_of_as_its_run_is(command, t1, t4, project):
    photo, weights = t1.test.root / t1.test.names[0], t1.folder / "checkpoints"
    run = command("classify", photo, "--run", t1.folder)[1]
    assert run.startswith("SAMPLE DATA: ")
    for path in (weights / "best.ckpt", weights / "classification/best.ckpt"):
        by_file = command("classify", photo, "--run", path)[1]
        assert by_file == run.replace("by T1:", "by best.ckpt:")
    unfinished = shutil.copytree(t1.folder, project / "unfinished")
    (unfinished / "metrics.json").unlink()
    for path in (unfinished, unfinished / "checkpoints/best.ckpt"):
        assert command("classify", photo, "--run", path)[1].startswith("SAMPLE DATA: ")
    alone = shutil.copy(weights / "best.ckpt", project / "alone.ckpt")
    status, out, _ = command("classify", photo, "--run", alone)
    assert (status, out.splitlines()[0]) == (0, "by alone.ckpt:")  # nothing is known of it


def test_a_folder_is_made_a_gallery_searched_and_shown(command, refused, project, t4, cars_root):
    photos = shutil.copytree(cars_root / "cars_test", project / "my photos")
    names = sorted(path.name for path in photos.iterdir())
    assert refused("gallery", photos) == "there is no finished run of T4: run one first.\n"
    status, out, _ = command("gallery", photos, "--run", t4.folder)
    made, warning, by, line = out.splitlines()
    assert status == 0
    assert made == f"my photos.npz: {len(names)} images"
    assert warning.startswith("SAMPLE DATA: ")
    assert by == "by T4:"
    asked = shlex.split(line)
    assert asked[:5] == ["python", "-m", "cubslib", "search", "PHOTO"]
    photo, sheet = photos / names[2], project / "found.png"
    more = ["--count", 3, "--sheet", sheet, "--box", "0,0,9,9"]
    status, out, _ = command("search", photo, *asked[5:], *more[:-2])
    lines = out.splitlines()[2:]
    assert (status, len(lines)) == (0, 4)
    assert lines[0].startswith("  1.000")
    assert f"({names[2]})" in lines[0]
    assert lines[-1] == f"sheet: {sheet}"
    with Image.open(sheet) as picture:
        assert "the photograph" in picture.info["Description"]
    boxed = command("search", photo, *asked[5:], *more)[1].splitlines()[2:]
    assert boxed[0][:7] != lines[0][:7]
    status, out, _ = command("search", photo, *asked[5:], "--count", 99)
    assert len(out.splitlines()) == 3 + len(names)
    assert out.endswith(f"These are all {len(names)} images of the gallery.\n")


def test_a_gallery_s_run_is_found_by_its_name(command, refused, project, t4, cars_root):
    command("gallery", cars_root / "cars_test", "--run", t4.folder, "--out", "cars.npz")
    search = "search", cars_root / t4.test.names[0], "--gallery", "cars.npz"
    said = "cars.npz was made by T4, which is not under runs/: say where it is by --run.\n"
    assert refused(*search) == said
    shutil.copytree(t4.folder, project / "runs/T4")
    assert command(*search)[0] == 0
    (project / "cars.npz").write_text("no gallery")
    assert "cars.npz is no gallery that can be read" in refused(*search)


@pytest.mark.parametrize(("option", "value", "sentence"), [
    ("--box", "1,2,3", "its box (left, upper, right, lower) is 1, 2, 3: give one within"),
    ("--box", "0,0,900,9", "its box (left, upper, right, lower) is 0, 0, 900, 9"),
    ("--box", "a,b,c,d", "--box is 'a,b,c,d'; it must be four whole numbers, left,top,"),
    ("--box", "", "--box is ''; it must be four whole numbers"),
    ("--box", "0,0,1e3,2", "--box is '0,0,1e3,2'; it must be four whole numbers"),
    ("--sheet", "found.jpg", "--sheet is found.jpg; it must end in .png."),
    ("--sheet", "found.png", "sample/cars196 has no cars_t"),
    ("--gallery", "gone.npz", "gone.npz is missing: `python -m cubslib gallery` makes one."),
])  # fmt: skip
def test_search_refuses_in_one_sentence(option, value, sentence, refused, project, t4, cars_root):
    photo = cars_root / t4.test.names[0]
    assert sentence in refused("search", photo, "--run", t4.folder, option, value)
    assert not list(project.glob("found*"))


def test_a_sheet_of_a_run_s_own_gallery_shows_its_data(command, project, t4, cars_root):
    (project / "pyproject.toml").write_text('name = "cubslib"')
    (project / "data/sample").mkdir(parents=True)
    (project / "data/sample/cars196").symlink_to(cars_root)
    photo = cars_root / t4.test.names[0]
    asked = ["--run", t4.folder, "--sheet", "found.png", "--count", 2]
    assert command("search", photo, *asked)[0] == 0
    with Image.open("found.png") as picture:
        assert picture.size[0] > 300


def test_a_reader_who_has_seen_enough_ends_the_command_in_peace(t1):
    photo = t1.test.root / t1.test.names[0]
    call = [sys.executable, "-m", "cubslib", "classify", photo, "--run", t1.folder]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_lists_every_parameter_with_its_range_default_and_notebooks(command, capsys):
    with pytest.raises(SystemExit):
        command("run", "--help")
    out = capsys.readouterr().out
    for row in parameters.TABLE:
        where = "" if len(row.tasks) == 4 else f"; {', '.join(row.tasks)}"
        said = f"{row.meaning} ({row.default!r}; {row.range}{where})"
        (line,) = [line for line in out.splitlines() if said in line]
        assert line.split()[0] == row.name


def test_ctrl_c_while_a_finished_run_is_shown_leaves_its_notebook_whole(
    command, data_root, monkeypatch, project, t1
):
    folder = shutil.copytree(t1.folder, project / "runs/shown")
    (folder / "T1_custom_cnn.ipynb").write_text("whole")

    def interrupted(source, draft, parameters, **options):
        draft.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    asked = {"data_root": data_root, "run_dir": "runs/shown", "epochs": 1, "batch_size": 16}
    pairs = [part for pair in (asked | {"lr": 0.01}).items() for part in ("-p", *pair)]
    assert command("run", "T1", *pairs)[0] == 130
    assert (folder / "T1_custom_cnn.ipynb").read_text() == "whole"


@pytest.mark.parametrize("what", ["classify", "search"])
@pytest.mark.parametrize("photo", ["words.jpg", "missing.jpg"])
def test_what_is_no_photograph_is_refused(what, photo, refused, project, t1, t4):
    (project / "words.jpg").write_text("no image")
    run = t1 if what == "classify" else t4
    assert photo in refused(what, photo, "--run", run.folder)
    said = refused(what, photo, "--run", "nowhere")
    assert "nowhere is missing: name a finished run" in said


def test_an_unknown_command_shows_the_usage(command):
    with pytest.raises(SystemExit) as caught:
        command("train")
    assert caught.value.code == 2


def test_published_weights_serve_where_asked_for_or_where_there_is_no_run(
    command, refused, project, cars_root, t1, t4
):
    (project / "data").mkdir()
    (project / "data/cars196").symlink_to(cars_root)
    (project / "README.md").write_text(f"{results.START}{results.END}")
    for what, run in (("classify", t1), ("search", t4)):
        photo = run.test.root / run.test.names[0]
        said = refused(what, photo, "--run", "published")
        assert "notebooks/results/ holds no weights of T" in said
        folder = shutil.copytree(run.folder, project / "elsewhere" / f"{run.task},best")
        change(folder, {"dataset": "real"}, dataset="real")
        status, out, error = command("results", folder, "--weights")
        assert (status, out, error) == (
            0, f"published: {folder.name}\nremade: README.md, notebooks/results/curves.png\n", ""
        )  # fmt: skip
        status, out, error = command(what, photo)
        assert status == 0
        assert error.startswith("There is no finished run of your own: a published one serves.")
        assert out.startswith(f"by {folder.name}:")
        again = command(what, photo, "--run", "published")
        assert again[:2] == (0, out)
        assert "no finished run" not in again[2]
        assert ("made earlier" in again[2]) == (what == "search")
        shutil.copytree(run.folder, project / "runs" / run.task)  # one's own goes first
        assert f"by {run.task}:" in command(what, photo)[1]
