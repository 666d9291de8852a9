import numpy as np
import pytest
import torch
from PIL import Image

from cubslib.augment import (
    MEAN,
    NUM_DRAWS,
    STD,
    Augmentation,
    augment,
    draws,
    prepare,
    restore,
)
from cubslib.sampling import shard, shuffled

STRONG = Augmentation(min_area=0.3, max_aspect=1.4, flip=True, colour=0.3, erase=0.5)
NEARLY_ONE = 1 - 2**-24


@pytest.fixture
def images():
    """Noise, uint8 (6, 3, 16, 16), far from black and white."""
    return torch.randint(60, 180, (6, 3, 16, 16), generator=torch.manual_seed(0)).byte()


def chosen(count=6, **values):
    """Draws of 1/2, but for the columns that are named."""
    u = torch.full((count, NUM_DRAWS), 0.5)
    for name, value in values.items():
        names = "area aspect x y flip brightness contrast saturation erase side left top"
        u[:, names.split().index(name)] = value
    return u


def assert_close(batch, expected):
    torch.testing.assert_close(restore(batch).double(), expected.double(), atol=1e-5, rtol=0)


def test_the_defaults_vary_nothing_whatever_is_drawn(images):
    batch = augment(images, draws(6, 0, "fit", 0), Augmentation(), 16)
    assert batch.dtype == torch.float32
    assert_close(batch, images / 255)
    torch.testing.assert_close(batch, prepare(images, 16), atol=1e-5, rtol=0)


def test_pixels_are_normalised_channel_by_channel(images):
    batch = prepare(images, 16)
    for channel in range(3):
        pixel = (images[2, channel, 5, 7].item() / 255 - MEAN[channel]) / STD[channel]
        assert batch[2, channel, 5, 7].item() == pytest.approx(pixel, abs=1e-6)


def test_half_the_images_are_mirrored(images):
    u = chosen(flip=torch.tensor([0.0, 0.49, 0.5, 0.51, 0.99, 0.2]))
    batch = augment(images, u, Augmentation(flip=True), 16)
    mirrored = torch.tensor([True, True, False, False, False, True])[:, None, None, None]
    assert_close(batch, torch.where(mirrored, images.flip(3), images) / 255)


@pytest.mark.parametrize(
    ("where", "rows", "columns"),
    [
        ({"x": 0.0, "y": 0.0}, slice(0, 8), slice(0, 8)),
        ({"x": NEARLY_ONE, "y": 0.0}, slice(0, 8), slice(8, 16)),
        ({"x": 0.5, "y": NEARLY_ONE}, slice(8, 16), slice(4, 12)),
    ],
)
def test_a_crop_keeps_its_share_of_the_area_anywhere_within(images, where, rows, columns):
    batch = augment(images, chosen(area=0.0, **where), Augmentation(min_area=0.25), 8)
    assert_close(batch, images[:, :, rows, columns] / 255)


@pytest.mark.parametrize("made", [10, 16])
def test_a_native_crop_is_pixels_of_the_image_anywhere_within(images, made):
    count, native = 17 - made, Augmentation(min_area=0.25, max_aspect=4.0, native=True)
    starts = [0, count // 3, count - 1]
    u = chosen(3, x=torch.tensor([0.0, (count // 3 + 0.5) / count, NEARLY_ONE]), y=NEARLY_ONE)
    batch = augment(images[:3], u, native, made)
    cut = [image[:, -made:, x : x + made] for image, x in zip(images, starts, strict=False)]
    assert_close(batch, torch.stack(cut) / 255)


def test_a_native_crop_of_a_smaller_image_is_the_whole(images):
    batch = augment(images, draws(6, 0, "fit", 0), Augmentation(native=True), 24)
    torch.testing.assert_close(batch, prepare(images, 24), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("aspect", "tall"), [(NEARLY_ONE, False), (0.0, True)])
def test_a_stretched_crop_is_wide_or_tall(images, aspect, tall):
    """1/4 of the area at 4:1 is the whole side by a quarter: pixels of an 8 × 32 image fit it."""
    narrow = images.reshape(6, 3, 8, 32) if tall else images.reshape(6, 3, 32, 8)
    how = Augmentation(min_area=0.25, max_aspect=4.0)
    batch = augment(narrow, chosen(area=0.0, aspect=aspect, x=0.0, y=NEARLY_ONE), how, 8)
    cut = narrow[..., :8] if tall else narrow[:, :, 24:]
    assert_close(batch, cut / 255)


@pytest.mark.parametrize("min_area", [0.08, 0.5, 0.9, 1.0])
def test_a_stretched_crop_keeps_its_area_within_the_image(min_area):
    """An image that brightens to the right, or downwards, tells a crop's width, or height."""
    ramp = torch.arange(64, dtype=torch.uint8)
    across = ramp.expand(500, 1, 64, 64).expand(-1, 3, -1, -1)
    u, how = draws(500, 0, "fit", 0), Augmentation(min_area=min_area, max_aspect=2.0)
    sides = []
    for images in (across, across.mT):
        batch = restore(augment(images, u, how, 64))[:, 0] * 255 / 64
        line = batch[:, 32] if images is across else batch[:, :, 32]
        sides.append((line[:, 40] - line[:, 24]) * 4)  # 16 of 64 pixels, away from the borders
    area = sides[0] * sides[1]
    torch.testing.assert_close(area, min_area + (1 - min_area) * u[:, 0], atol=1e-3, rtol=0)
    assert area.min() > min_area - 1e-3
    aspect = sides[0] / sides[1]
    assert aspect.max() < 2.01
    assert aspect.min() > 0.49
    if min_area < 0.5:
        assert aspect.max() > 1.9
        assert aspect.min() < 0.55


@pytest.mark.parametrize(("read", "made"), [(64, 32), (128, 80), (48, 64), (16, 11)])
def test_images_are_resized_as_prepare_resizes(read, made):
    images = torch.randint(256, (5, 3, read, read), generator=torch.manual_seed(0)).byte()
    images[0] = 255 * (torch.arange(read) % 2).byte()  # stripes, to be gray where they are finer
    batch = augment(images, draws(5, 0, "fit", 0), Augmentation(), made)
    torch.testing.assert_close(batch, prepare(images, made), atol=2e-5, rtol=0)
    if made < read:
        assert restore(batch)[0].std() < 0.1  # 0.5 as they are


def test_a_crop_is_resized_without_false_patterns_too():
    """Half of an image at 1/2.67 of its pixels: what `prepare` makes of that half."""
    images = torch.randint(256, (2, 3, 64, 64), generator=torch.manual_seed(0)).byte()
    u = chosen(2, area=0.0, x=0.0, y=NEARLY_ONE)
    batch = augment(images, u, Augmentation(min_area=0.25), 12)
    # A kernel of 2 × 2.67 pixels reaches past the crop's border: there it sees the image.
    inner = (slice(None), slice(None), slice(2, 10), slice(2, 10))
    expected = prepare(images[:, :, 32:, :32], 12)
    torch.testing.assert_close(batch[inner], expected[inner], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_pixel(images, dtype, device):
    images, u = images.to(device), draws(6, 0, "fit", 0)
    plain = augment(images, u, STRONG, 12), prepare(images, 12)
    with torch.autocast(device, dtype):
        inside = augment(images, u, STRONG, 12), prepare(images, 12)
    for one, other in zip(inside, plain, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_colours_change_as_in_a_loop(images):
    u = draws(6, 1, "fit", 0)
    batch = restore(augment(images, u, Augmentation(colour=0.2), 16))
    for i, image in enumerate(images.double() / 255):
        brightness, contrast, saturation = (1 + 0.2 * (2 * x - 1) for x in u[i, 5:8].tolist())
        image = image * brightness
        image = image.mean() + contrast * (image - image.mean())
        gray = image.mean(0)
        for channel in range(3):
            expected = gray + saturation * (image[channel] - gray)
            torch.testing.assert_close(batch[i, channel].double(), expected, atol=1e-5, rtol=0)


def test_squares_are_erased_as_in_a_loop(images):
    u = draws(6, 0, "fit", 2)
    u[:2, 8], u[2:, 8] = 0.7, torch.tensor([0.1, 0.59, 0.2, 0.3])
    batch, plain = augment(images, u, Augmentation(erase=0.6), 16), prepare(images, 16)
    for i in range(6):
        side = 16 * (1 / 16 + 3 / 16 * u[i, 9].item()) ** 0.5
        left, top = ((16 - side) * u[i, k].item() for k in (10, 11))
        for y in range(16):
            for x in range(16):
                within = left <= x < left + side and top <= y < top + side and i >= 2
                expected = torch.zeros(3) if within else plain[i, :, y, x]
                torch.testing.assert_close(batch[i, :, y, x], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_and_batches_change_no_pixel(images, world_size):
    images, places = images.repeat(3, 1, 1, 1), np.arange(18).reshape(1, 18)
    for epoch in range(40):  # a power's rounding depends on the place in one batch of eight
        batches, u = shuffled(range(18), 18, 0, "fit", epoch), draws(18, 0, "fit", epoch)
        whole = augment(images[batches[0]], u, STRONG, 24)
        parts = []
        for rank in range(world_size):
            (rows,), (own,) = (shard(x, rank, world_size) for x in (batches, places))
            parts.append(augment(images[rows], u[own], STRONG, 24))
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(augment(images[batches[0, 3:4]], u[3:4], STRONG, 24), whole[3:4])


def test_a_draw_follows_from_seed_fit_epoch_and_place():
    first = draws(9, 0, "fit", 0)
    assert first.shape == (9, NUM_DRAWS)
    assert first.min() >= 0
    assert first.max() < 1
    assert torch.equal(draws(5, 0, "fit", 0), first[:5])
    for other in ((1, "fit", 0), (0, "other", 0), (0, "fit", 1)):
        assert not torch.isclose(draws(9, *other), first).any(1).all()
    assert len(first.unique()) == first.numel()


def test_every_image_has_its_own_draw_and_stays_a_picture(images, device):
    same = images[:1].expand(64, -1, -1, -1).to(device)
    batch = augment(same, draws(64, 0, "fit", 0), STRONG, 16)
    assert batch.device.type == device
    assert len({tuple(image.flatten().tolist()) for image in batch.cpu()}) == 64
    raw = batch.cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert raw.min() > -1e-5
    assert raw.max() < 1 + 1e-5
    assert 0.05 < raw.std() < 0.5


@pytest.mark.parametrize("size", [8, 11, 40])
def test_prepare_resizes_as_pillow_does(images, size):
    batch = restore(prepare(images, size)) * 255
    for channel, result in zip(images.flatten(0, 1), batch.flatten(0, 1), strict=True):
        pillow = Image.fromarray(channel.float().numpy())  # of floats: of bytes Pillow rounds twice
        expected = np.asarray(pillow.resize((size, size), Image.Resampling.BICUBIC))
        assert np.abs(result.numpy() - expected).max() < 0.01
