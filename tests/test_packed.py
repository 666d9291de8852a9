import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from cubslib import CubsError, packed
from cubslib.packed import PackedImages, decode
from cubslib.progress import Progress

NAMES = ["a.png", "b/c.png", "d.png", "e.png", "f.png"]
LABELS = [7, 2, 7, 5, 2]
ROWS = [4, 0, 1, 2]  # of the split: all but e, in an order of its own
CLASS_NAMES = [f"class {n}" for n in range(9)]


@pytest.fixture
def folder(tmp_path):
    """Five images of noise, 8 × 6 pixels."""
    rng = np.random.default_rng(0)
    (tmp_path / "b").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def split(folder, rows=ROWS, **options):
    return PackedImages(folder, "all", NAMES, LABELS, CLASS_NAMES, rows, **{"size": 6} | options)


def packs(folder):
    return sorted(path.name for path in folder.iterdir() if "packed" in path.name)


def test_a_batch_is_the_decoded_files_in_the_order_asked_for(folder):
    data = split(folder)
    batch = data.read([2, 0, 2])
    expected = [decode(folder / NAMES[ROWS[i]], 6) for i in (2, 0, 2)]
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, torch.from_numpy(np.stack(expected)))
    pairs = data.__getitems__([3, 1])
    assert [label for _, label in pairs] == [7, 7]
    assert torch.equal(pairs[0][0], data[3][0])
    assert torch.equal(data[-1][0], data[3][0])
    assert len(list(data)) == len(data) == 4  # an index past the end raises IndexError
    loaded = torch.utils.data.DataLoader(data, batch_size=3)
    assert [len(labels) for _, labels in loaded] == [3, 1]


def test_labels_are_official_and_targets_renumbered(folder):
    data = split(folder)
    assert data.labels.tolist() == [2, 7, 2, 7]
    assert data.targets.tolist() == [0, 1, 0, 1]
    assert data.classes == ("class 2", "class 7")
    assert data.names == ["f.png", "a.png", "b/c.png", "d.png"]


def test_the_pack_stays_on_disk_and_cannot_be_changed_through_a_batch(folder):
    data = split(folder)
    assert isinstance(data._pack[0], np.memmap)
    before = data.read([0])
    data.read([0]).zero_()
    assert torch.equal(data.read([0]), before)


def test_a_whole_pack_serves_all_splits_and_is_never_made_again(folder, monkeypatch):
    first = split(folder).read([0, 1])
    monkeypatch.delattr(packed, "_write")
    assert torch.equal(split(folder, [4, 0]).read([0, 1]), first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: content[:50],
        lambda content: b"",
        lambda content: b"not an array" * 100,
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["cut", "cut in its header", "empty", "garbage", "a bit of a pixel", "a bit of its sum"],
)
def test_a_damaged_pack_is_made_again(folder, damage):
    before = split(folder).read(range(4))
    (path,) = folder.glob("packed-*")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(split(folder).read(range(4)), before)
    assert path.read_bytes() == whole


def test_a_stale_pack_and_a_killed_process_leavings_go(folder):
    before = split(folder).read(range(4))
    names = packs(folder)
    (folder / f".{names[-1]}.12345.part").write_bytes(b"half")
    other = split(folder, size=4)
    other.read([0])
    Image.new("RGB", (6, 6), (9, 8, 7)).save(folder / "d.png")
    after = split(folder).read(range(4))
    assert torch.equal(after[:3], before[:3])
    assert after[3, :, 0, 0].tolist() == [9, 8, 7]
    assert len(set(packs(folder)) - set(names)) == 3  # the new one; the other size and its lock
    assert len(packs(folder)) == 4


def test_packing_that_is_interrupted_leaves_nothing(folder, monkeypatch):
    def interrupted(path, size, box):
        if path.name == "d.png":
            raise KeyboardInterrupt
        return decode(path, size, box)

    with monkeypatch.context() as patch:
        patch.setattr(packed, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            split(folder).read([0])
    assert packs(folder) == [".packed-all-6px.lock"]
    assert split(folder).read([0]).shape == (1, 3, 6, 6)


def test_the_fingerprint_follows_pixels_rows_and_labels_not_places_or_dates(folder, tmp_path):
    mark = split(folder).fingerprint
    (folder / "a.png").touch()
    assert split(folder).fingerprint == mark
    assert split(folder, [1, 0, 4, 2]).fingerprint != mark  # other files of the same labels
    Image.new("RGB", (8, 6)).save(folder / "e.png")  # packed, though not of this split
    assert split(folder).fingerprint != mark


def test_the_summary_counts_and_averages_as_loops_do(folder):
    summary = split(folder, range(5)).summary()
    pixels = np.stack([decode(folder / name, 6) for name in NAMES]) / 255
    red = [pixels[i, 0, y, x] for i in range(5) for y in range(6) for x in range(6)]
    assert (summary["images"], summary["classes"]) == (5, 3)
    assert summary["images a class"] == "1–2"
    assert summary["mean of R, G, B"].split()[0] == f"{sum(red) / len(red):.3f}"
    assert summary["std of R, G, B"].split()[0] == f"{np.std(red, ddof=1):.3f}"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "I;16"])
def test_images_of_every_mode_become_three_channels(tmp_path, mode):
    gray = Image.fromarray(np.uint8([[0, 255], [255, 0]]))
    image = Image.new("I;16", (2, 2)) if mode == "I;16" else gray.convert(mode)
    image.save(tmp_path / "image.png")
    pixels = decode(tmp_path / "image.png", 2)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 2, 2)
    if mode != "I;16":
        assert (pixels == np.uint8([[0, 255], [255, 0]])).all()


def test_an_image_is_turned_upright_cut_and_squeezed(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste((200, 100, 50), (0, 0, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: the left side is up
    image.save(tmp_path / "turned.png", exif=exif)
    upright = decode(tmp_path / "turned.png", 10)
    assert upright[:, 2, 5].tolist() == [200, 100, 50]
    assert upright[:, 8, 5].tolist() == [0, 0, 0]
    cut = decode(tmp_path / "turned.png", 10, (0, 18, 20, 20))
    assert (cut.reshape(3, -1).T == [200, 100, 50]).all()


@pytest.mark.parametrize("content", [None, b"", b"a text", "cut"])
def test_an_image_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "photo.jpg"
    if content == "cut":
        whole = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(whole, "JPEG")
        content = whole.getvalue()[:900]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CubsError, match=r"photo\.jpg is (missing|no image).*[^.]\.$"):
        decode(path, 8)


def test_progress_is_a_line_in_a_terminal_and_one_output_in_a_notebook(monkeypatch, capsys):
    with Progress(3, desc="packing") as bar:
        bar.update(3)
    assert "packing: 100%" in capsys.readouterr().err
    shown = []
    output = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    display = types.SimpleNamespace(display=lambda *args, **options: output)
    shell = types.SimpleNamespace(kernel=None)
    fake = types.SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    with Progress(3, desc="packing") as bar:
        bar.update(3)
    assert "packing: 100%" in shown[-1]
    assert capsys.readouterr() == ("", "")
