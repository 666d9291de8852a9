import shutil

import harm
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from cubslib import galleries, training
from cubslib.disk import fingerprint


def noise(path, size=(40, 30), mode="RGB", **how):
    """Write an image of coarse, coloured noise that its name determines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([ord(letter) for letter in path.name])
    coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
    coarse.resize(size).convert(mode).save(path, **how)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of 6 images: two classes, one nested, one image of none."""
    names = ["cat/1.png", "cat/2.png", "dog/a.png", "dog/pug/b.png", "dog/pug/c.png", "d.png"]
    for name in names:
        noise(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def file(photos, t4):
    """The gallery of `photos`, beside it."""
    galleries.make(photos, t4.folder, photos.with_name("photos.npz"))
    return photos.with_name("photos.npz")


def test_search_finds_a_picture_of_the_gallery_itself_first(t4, cars_root):
    for position in (0, 7, 15):
        name = t4.test.names[position]
        found = galleries.search(t4.folder, cars_root / name, count=99)
        assert len(found) == 16
        best, of_class, cosine = found[0]
        twins = [file for file, _, c in found if c > cosine - 1e-3]
        assert name in twins
        assert cosine == pytest.approx(1, abs=0.02)
        classes = dict(zip(t4.test.names, t4.arrays["classes"], strict=True))
        assert {file: cls for file, cls, _ in found} == classes
        cosines = [cosine for *_, cosine in found]
        assert cosines == sorted(cosines, reverse=True)
        assert galleries.search(t4.folder, cars_root / name, count=2) == found[:2]


def test_a_folder_becomes_a_gallery_that_finds_each_image_first(photos, t4, capsys):
    (photos / ".hidden").mkdir()
    noise(photos / ".hidden" / "x.png")
    (photos / "cat" / "notes.txt").write_text("no image")
    made = galleries.make(photos, t4.folder, photos.with_name("mine.npz"))
    said = capsys.readouterr().out
    assert said.startswith("mine.npz: 6 images of 3 classes; left out: 1, the first as ")
    assert "notes.txt is no image" in said
    assert made.names == (
        "cat/1.png", "cat/2.png", "d.png", "dog/a.png", "dog/pug/b.png", "dog/pug/c.png",
    )  # fmt: skip
    assert made.classes == ("cat", "cat", "", "dog", "dog/pug", "dog/pug")
    assert made.embeddings.shape == (6, 8)
    torch.testing.assert_close(made.embeddings.norm(dim=1), torch.ones(6))
    for name, of_class in zip(made.names, made.classes, strict=True):
        found = galleries.search(t4.folder, photos / name, gallery=photos.with_name("mine.npz"))
        assert found[0][:2] == (name, of_class)
        assert found[0][2] == pytest.approx(1, abs=1e-4)
        assert sorted(name for name, *_ in found) == list(made.names)


def test_a_gallery_embeds_as_the_data_set_of_the_run_does(t4, cars_root, tmp_path):
    own = galleries.load(t4.folder)
    made = galleries.make(cars_root / "cars_test", t4.folder, tmp_path / "cars.npz")
    embeddings = dict(zip(made.names, made.embeddings, strict=True))
    shared = [i for i, name in enumerate(own.names) if name.startswith("cars_test/")]
    assert shared
    for i in shared:  # the run's own are in bfloat16, where that is fast
        found = embeddings[own.names[i].removeprefix("cars_test/")]
        assert found @ own.embeddings[i] > 0.99


def test_large_folders_are_embedded_in_batches(photos, t4, file, monkeypatch):
    whole = galleries.read(file)
    monkeypatch.setattr(galleries, "EVAL_BATCH", 4)
    made = galleries.make(photos, t4.folder, file)
    assert made.names == whole.names
    torch.testing.assert_close(made.embeddings, whole.embeddings)


def test_a_classifier_s_features_serve_as_embeddings(photos, t1, tmp_path):
    made = galleries.make(photos, t1.folder, tmp_path / "features.npz")
    assert made.embeddings.shape == (6, training.load(t1.folder).fc.in_features)
    found = galleries.search(t1.folder, photos / "d.png", gallery=tmp_path / "features.npz")
    assert found[0][0] == "d.png"


def test_the_file_names_its_network_and_holds_neither_pickle_nor_absolute_path(file, t4):
    with np.load(file, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    weights = (t4.folder / "checkpoints/best.ckpt").read_bytes()
    assert arrays["network"] == fingerprint(weights)
    assert (arrays["run"], arrays["folder"]) == ("T4", "photos")
    assert str(file.parent).encode() not in file.read_bytes()
    by_file = galleries.make(file.parent / "photos", t4.folder / "checkpoints/best.ckpt", file)
    assert (by_file.run, by_file.network) == ("T4", fingerprint(weights))


def test_images_are_found_where_the_gallery_moved_with_them(photos, file, t4, tmp_path):
    found = galleries.search(t4.folder, photos / "d.png", 3, file)
    sheet = galleries.sheet(galleries.read(file), photos / "d.png", found)
    assert sheet.shape == (4, 3, galleries.SHOWN, galleries.SHOWN)
    assert (sheet[0] == sheet[1]).all()
    assert not (sheet[0] == sheet[2]).all()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (photos, file):
        shutil.move(path, moved)
    again = galleries.sheet(galleries.read(moved / file.name), moved / "photos/d.png", found)
    assert (again == sheet).all()
    (moved / "photos" / found[2][0]).unlink()
    searched, photo = galleries.read(moved / file.name), moved / "photos/d.png"
    refused(lambda: galleries.sheet(searched, photo, found), f"photos has no {found[2][0]}: put")


def test_only_the_box_is_looked_at(photos, file, t4, tmp_path):
    """One image of the gallery is pasted into another: the box finds it."""
    scene = Image.open(photos / "cat/1.png").resize((200, 100))
    scene.paste(Image.open(photos / "dog/a.png"), (120, 50))
    scene.save(tmp_path / "scene.png")
    box = 120, 50, 160, 80
    found = galleries.search(t4.folder, tmp_path / "scene.png", 1, file, box)
    assert found[0][0] == "dog/a.png"
    assert found[0][2] == pytest.approx(1, abs=1e-4)
    sheet = galleries.sheet(galleries.read(file), tmp_path / "scene.png", found, box)
    assert (sheet[0] == sheet[1]).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the box is of the photograph as it is seen
    turned = scene.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png", exif=exif)
    assert galleries.search(t4.folder, tmp_path / "turned.png", 1, file, box) == found


# --- bad input ---


@pytest.mark.parametrize(
    "box", [(0, 0, 41, 30), (-1, 0, 5, 5), (5, 5, 5, 9), (9, 0, 3, 5), (1, 2, 3), (), (0,) * 5,
            (0, 0, float("nan"), 4), (0, 0, float("inf"), 4)],
)  # fmt: skip
def test_a_box_outside_the_photograph_or_empty_is_refused(box, photos, file, t4):
    photo = photos / "cat/1.png"
    call = lambda: galleries.search(t4.folder, photo, 2, file, box)  # noqa: E731
    refused(call, "1.png has 40 × 30 pixels, its box (left, upper, right, lower) is", "give one")


@pytest.mark.parametrize(("name", "how"), [
    ("gray.png", {"mode": "L"}), ("ink.jpg", {"mode": "CMYK"}), ("alpha.png", {"mode": "RGBA"}),
    ("point.png", {"size": (1, 1)}), ("line.png", {"size": (900, 1)}),
    ("palette.gif", {"mode": "P"}), ("bits.png", {"mode": "1"}),
])  # fmt: skip
def test_images_of_any_form_are_embedded_and_searched_for(name, how, photos, t4):
    photo = noise(photos / "odd" / name, **how)
    made = galleries.make(photos, t4.folder, photos / "own.npz")
    assert f"odd/{name}" in made.names
    found = galleries.search(t4.folder, photo, 7, photos / "own.npz")
    assert dict((f, c) for f, _, c in found)[f"odd/{name}"] == pytest.approx(1, abs=1e-4)


def test_a_photograph_turned_by_its_camera_is_its_upright_twin(photos, file, t4, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    twin = Image.open(photos / "cat/1.png").transpose(Image.Transpose.ROTATE_90)
    twin.save(tmp_path / "turned.png", exif=exif)
    name, _, cosine = galleries.search(t4.folder, tmp_path / "turned.png", 1, file)[0]
    assert (name, cosine) == ("cat/1.png", pytest.approx(1, abs=1e-4))


def test_a_photograph_that_is_none_or_too_large_is_refused(photos, file, t4, tmp_path):
    words, large = tmp_path / "words.jpg", tmp_path / "large.png"
    words.write_text("no image")
    Image.new("1", (10_000, 10_000)).save(large)
    for photo, says in (
        (words, "words.jpg is no image"),
        (large, "more than 89,478,485 pixels"),
        (tmp_path / "gone.jpg", "gone.jpg is missing"),
        (photos, "photos is no image"),
    ):
        refused(lambda photo=photo: galleries.search(t4.folder, photo, 2, file), says)
    shutil.copy(large, photos)
    assert "large.png" not in galleries.make(photos, t4.folder, file).names


def test_more_than_there_are_gives_what_there_is(photos, file, t4):
    assert len(galleries.search(t4.folder, photos / "d.png", 10**9, file)) == 6


def test_a_gallery_of_another_network_is_refused(file, photos, t1, t4):
    sentence = "photos.npz is a gallery of another network, that of T4: name its run, or make"
    refused(lambda: galleries.search(t1.folder, photos / "d.png", 2, file), sentence)


def test_a_folder_without_images_leaves_nothing_behind(tmp_path, t4):
    empty, file = tmp_path / "empty", tmp_path / "out" / "mine.npz"
    refused(lambda: galleries.make(empty, t4.folder, file), "empty is no folder")
    empty.mkdir()
    refused(lambda: galleries.make(empty, t4.folder, file), "empty holds no image that can be read")
    (empty / "a.txt").write_text("words")
    refused(lambda: galleries.make(empty, t4.folder, file), "holds no image", "a.txt is no image")
    assert not list(tmp_path.rglob("*mine*"))


def test_an_old_gallery_outlives_a_new_one_that_fails(photos, file, t4, tmp_path):
    before = file.read_bytes()
    (tmp_path / "empty").mkdir()
    refused(lambda: galleries.make(tmp_path / "empty", t4.folder, file), "holds no image")
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_written_is_said_before_images_are_read(photos, t4, monkeypatch):
    monkeypatch.setattr(galleries, "decode", lambda *_: pytest.fail("read an image"))
    refused(lambda: galleries.make(photos, t4.folder, photos), "photos is a folder: name a file")
    below = photos / "d.png" / "mine.npz"
    refused(lambda: galleries.make(photos, t4.folder, below), "d.png cannot be written")


@pytest.mark.parametrize("damage", [b"a text", "cut", "pickle", "lacks", (5, 8), (0, 8)])
def test_a_gallery_file_that_is_damaged_or_gone_is_said(damage, file, photos, t4):
    harm.spoil(file, damage, "embeddings")
    search = lambda: galleries.search(t4.folder, photos / "d.png", 2, file)  # noqa: E731
    refused(search, "photos.npz is no gallery that can be read: make")
    file.unlink()
    refused(search, "photos.npz is missing: `python -m")


def test_a_gallery_asks_for_a_finished_run(photos, file, tmp_path):
    says = "checkpoints/best.ckpt is missing: name a finished run"
    refused(lambda: galleries.make(photos, tmp_path, file), says)
    refused(lambda: galleries.load(tmp_path, file), says)
