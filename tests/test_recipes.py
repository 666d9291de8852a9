import pytest

from cubslib.augment import Augmentation
from cubslib.models import STEMS
from cubslib.recipes import PRESETS, RECIPES, recipe
from cubslib.runs.parameters import TASKS, check


def test_a_recipe_keeps_its_own_where_0_is_asked():
    own = RECIPES["embedding", "cpu"]
    assert recipe("embedding", "cpu") == own
    changed = recipe("embedding", "cpu", epochs=7, lr=0.25)
    assert (changed.epochs, changed.lr, changed.batch_size) == (7, 0.25, own.batch_size)
    assert changed.augmentation == own.augmentation


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_fit_has_a_recipe_for_every_preset_that_can_be_followed(task, preset):
    for _, kind, epochs in TASKS[task].fits:
        found = recipe(kind, preset)
        shares, sides = zip(*found.sizes, strict=True)
        assert shares[0] == 0
        assert list(shares) == sorted(set(shares))
        assert shares[-1] < 1
        assert min(sides) >= 32
        assert found.test_size >= sides[-1]
        assert found.stem in STEMS
        assert Augmentation(**found.augmentation).flip
        asked = {"batch_size": found.batch_size, "lr": found.lr, epochs: found.epochs}
        check(task, asked)
