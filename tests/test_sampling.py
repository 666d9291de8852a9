from itertools import product

import numpy as np
import pytest

from cubslib import CubsError, sampling
from cubslib.sampling import class_balanced, shard, shuffled

BOTH = pytest.mark.parametrize("batches", [shuffled, class_balanced])
LABELS = np.repeat([3, 5, 8, 9, 20], [4, 9, 6, 12, 7])  # 38 images


def assert_takes_turns(sequence, members):
    """None comes again before all had their turn: at any point counts differ by one at most."""
    count = dict.fromkeys(members, 0)
    for one in sequence:
        count[one] += 1
        assert max(count.values()) - min(count.values()) <= 1


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (4, 8)), (19, (2, 19)), (38, (1, 38)), (100, (1, 38)), (2, (19, 2))]
)
def test_shuffled_takes_each_image_once_and_drops_an_incomplete_batch(size, shape):
    batches = shuffled(LABELS, size, 0, "fit", 0)
    assert batches.shape == shape
    taken = batches.ravel().tolist()
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(38))
    assert taken != sorted(taken)


def test_over_epochs_shuffled_drops_other_images():
    left_out = [set(range(38)) - set(shuffled(LABELS, 8, 0, "fit", e).ravel()) for e in range(6)]
    assert all(len(left) == 6 for left in left_out)
    assert len(set.union(*left_out)) > 12


@BOTH
def test_the_order_follows_from_seed_fit_and_epoch_alone(batches):
    base = (1, "classification", 4)
    first = batches(LABELS, 8, *base)
    np.random.seed(3)  # a generator that runs on elsewhere
    assert (batches(LABELS, 8, *base) == first).all()
    for other in ((2, "classification", 4), (1, "embedding", 4), (1, "classification", 5)):
        assert (batches(LABELS, 8, *other) != first).any()


@pytest.mark.parametrize(("size", "classes"), [(8, 2), (12, 3), (16, 4), (20, 5), (64, 5)])
def test_a_balanced_batch_has_four_images_of_each_of_its_classes(size, classes):
    batches = class_balanced(LABELS, size, 0, "fit", 0)
    assert batches.shape == (38 // (classes * 4), classes * 4)
    for batch in batches:
        labels, counts = np.unique(LABELS[batch], return_counts=True)
        assert counts.tolist() == [4] * classes
        assert len(set(batch.tolist())) == len(batch)  # no class here has fewer than 4 images


@pytest.mark.parametrize("epoch", range(4))
def test_classes_take_turns_and_so_do_the_images_of_a_class(epoch):
    labels = np.repeat(np.arange(7), [5, 6, 7, 8, 30, 4, 9])
    order = class_balanced(labels, 12, 0, "fit", epoch).ravel()
    assert_takes_turns(labels[order[::4]], range(7))
    for label in range(7):
        own = order[labels[order] == label]
        assert_takes_turns(own, np.flatnonzero(labels == label))


def test_small_classes_repeat_their_images_evenly():
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    (batch,) = class_balanced(labels, 16, 0, "fit", 0)
    assert np.bincount(batch, minlength=10)[[0, 1, 2, 6, 7, 8, 9]].tolist() == [4, 2, 2, 1, 1, 1, 1]
    assert sorted(np.bincount(batch)[3:6]) == [1, 1, 2]


def test_fewer_images_than_a_batch_still_make_one():
    assert class_balanced([0, 1], 8, 0, "fit", 0).shape == (1, 8)
    assert shuffled([0, 1], 8, 0, "fit", 0).shape == (1, 2)


@BOTH
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shards_cover_every_place_once_and_in_order(batches, world_size):
    whole = batches(LABELS, 8, 0, "fit", 1)
    places = np.arange(whole.size).reshape(whole.shape)
    parts = [shard(whole, rank, world_size) for rank in range(world_size)]
    own = [shard(places, rank, world_size) for rank in range(world_size)]
    assert {part.shape for part in parts} == {(len(whole), 8 // world_size)}
    assert sorted(np.concatenate(own, axis=None)) == list(range(whole.size))
    for step in range(len(whole)):
        joined = [image for part in parts for image in part[step]]
        assert joined == whole[step].tolist()


def test_processes_that_cannot_share_a_batch_are_refused():
    with pytest.raises(CubsError, match="batch_size is 10; with 4 processes .* multiple of 4"):
        shard(np.zeros((3, 10)), 0, 4)


def test_purposes_have_generators_of_their_own():
    several = product("ab", (0, 1), ("order", "augmentation"))
    drawn = {tuple(sampling.generator(0, *one).integers(1000, size=3)) for one in several}
    assert len(drawn) == 8
