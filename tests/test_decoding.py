import io

import numpy as np
import pytest
from PIL import Image

from cubslib import CubsError, decoding
from cubslib.decoding import decode, image_size


def by_pillow(path):
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def photo(size=(64, 64)):
    """Smooth colours and noise, as a photograph has both."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(size)
    noise = rng.normal(0, 20, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "how",
    [{"subsampling": n} for n in (0, 1, 2)]
    + [{"quality": 5}, {"quality": 100}, {"progressive": True}, {"restart_marker_blocks": 2}],
)
def test_a_plain_jpeg_has_the_pixels_that_pillow_reads(tmp_path, mode, how):
    photo().convert(mode).save(tmp_path / "photo.jpg", **how)
    assert decoding._square_jpeg(tmp_path / "photo.jpg", 64) is not None
    assert np.array_equal(decode(tmp_path / "photo.jpg", 64), by_pillow(tmp_path / "photo.jpg"))


EXIF = Image.Exif()
EXIF[0x0112] = 6


@pytest.mark.parametrize(("change", "how"), [
    (lambda image: image.resize((64, 63)), {}),
    (lambda image: image.resize((65, 64)), {}),
    (lambda image: image.convert("CMYK"), {}),
    (lambda image: image, {"exif": EXIF}),
    (lambda image: image, {"keep_rgb": True}),
    (lambda image: image, {"cut": 50}),
    (lambda image: image, {"format": "PNG"}),
])  # fmt: skip
def test_what_is_no_plain_jpeg_is_left_to_pillow(tmp_path, change, how):
    path, how = tmp_path / "photo.jpg", dict(how)
    less = how.pop("cut", 0)
    change(photo()).save(path, **how)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - less])
    assert decoding._square_jpeg(path, 64) is None


def test_real_jpegs_have_the_pixels_that_pillow_reads(real):
    folder = real("tiny-imagenet-200") / "val" / "images"
    for number in range(0, 10_000, 40):
        path = folder / f"val_{number}.JPEG"
        assert np.array_equal(decode(path, 64), by_pillow(path))


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


@pytest.mark.parametrize(
    "box", [(-1, 0, 8, 6), (0, 0, 9, 6), (0, 0, 8, 7), (4, 0, 4, 6), (5, 0, 2, 6)]
)
def test_a_box_that_leads_out_of_its_image_is_named(tmp_path, box):
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
    assert decode(tmp_path / "photo.png", 4, (0, 0, 8, 6)).shape == (3, 4, 4)
    with pytest.raises(CubsError, match=r"photo\.png has 8 × 6 pixels, its box .*\.$"):
        decode(tmp_path / "photo.png", 4, box)


@pytest.mark.parametrize("read", [image_size, lambda path: decode(path, 8)])
@pytest.mark.parametrize("largest", [47, 20])  # Pillow itself refuses twice as many as it warns of
def test_a_decompression_bomb_is_named(tmp_path, monkeypatch, read, largest):
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
    assert image_size(tmp_path / "photo.png") == (8, 6)
    monkeypatch.setattr(decoding, "LARGEST", largest)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 if largest == 20 else 100)
    with pytest.raises(CubsError, match=rf"photo\.png has more than {largest} pixels"):
        read(tmp_path / "photo.png")
