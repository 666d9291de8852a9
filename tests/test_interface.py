import numpy as np
import pytest
import torch
from refusals import refused
from small import Small
from torch import nn

from cubslib import CubsError, interface, models, scoring, training


class Own(Small):
    """A network of one's own, which is whole."""


def changed(**attributes):
    model = Own(3)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


class Subclass(models.CustomCNN):
    """What a student makes of ours, under its name."""


class Square(Own):
    """Reads images of one size only: its last layer counts their places."""

    def __init__(self):
        super().__init__(3)
        self.fc = nn.Linear(8 * 7 * 7, 3)

    def features(self, x):
        return self.conv(x).flatten(1)


class Narrow(Own):
    """Its features are not what its last layer reads; it does not use that either."""

    def features(self, x):
        return self.conv(x)

    def forward(self, x):
        return self.fc(super().features(x))


def without(name):
    model = Own(3)
    delattr(model, name)
    return model


def ours(change):
    model = models.CustomCNN(3)
    change(model)
    return model


@pytest.mark.parametrize(("model", "sentence"), [
    (without("config"), "Own.config is None; it must be a dict with the network's name, such"),
    (changed(config={"num_classes": 3}), "must be a dict with the network's name"),
    (changed(config={"network": "own", "width": np.float64(1)}), None),
    (changed(config={"network": "own", "width": np.int64(1)}), "must hold texts, numbers and"),
    (changed(config={"network": "own", "sizes": (1, 2)}), "must hold texts, numbers and lists"),
    (changed(config={"network": "own", "layer": nn.ReLU}), "must hold texts, numbers and list"),
    (without("fc"), "Own lacks `features`, a method, or `fc`, an nn.Linear"),
    (changed(fc=nn.Sequential(nn.Linear(8, 3), nn.ReLU())),
     "Own lacks `features`, a method, or `fc`"),
    (changed(features=None), "Own lacks `features`, a method, or `fc`"),
    (changed(fc=nn.Linear(8, 4)), "Own.fc has 4 outputs; it must have 3."),
    (Subclass(3), "Subclass is not what its config describes: give your own network a name of"),
    (changed(config={"network": "custom_cnn"}), "Own is not what its config describes"),
    (ours(lambda m: setattr(m, "norm", nn.Identity())), "CustomCNN is not what its config"),
    (Square(), "Square cannot read images of 48 × 48 pixels (mat1 and mat2 shapes cannot be"),
    (Narrow(3), "Narrow makes features (2, 8, 7, 7) and outputs (2, 3) of 2 images; by its"),
    (models.CustomCNN(3), None),
    (models.embed(models.cubs_resnet18(7, "parallel", gate_bias=1), 16), None),
    (models.embed(Own(9), 16), None),
    (Own(3), None),
])  # fmt: skip
def test_a_network_that_lacks_something_is_refused_before_training(
    model, sentence, begin, monkeypatch
):
    run = begin("T1")
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("trained"))
    if sentence is None:
        interface.check(model, 3, [32, 48, 48])
        return
    how = nn.CrossEntropyLoss(), scoring.accuracy
    refused(lambda: training.fit(run, "classification", model, *how), sentence)
    assert not run.checkpoint("classification", "last").exists()


def test_a_network_is_tried_without_a_trace():
    model = Own(3)
    model.middle[0].eval()  # frozen, and to stay so
    before, modes = model.state_dict(), [module.training for module in model.modules()]
    before, numbers = {key: x.clone() for key, x in before.items()}, torch.get_rng_state()
    interface.check(model, 3, [32])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("embedding_dim", [0, 5])
def test_one_s_own_network_is_loaded_again_into_the_one_given(embedding_dim, begin):
    run, model = begin("T1"), Own(3)
    if embedding_dim:
        models.embed(model, embedding_dim)
    how = (nn.CrossEntropyLoss(), scoring.recall if embedding_dim else scoring.accuracy)
    training.fit(run, "classification", model, *how)
    path = run.checkpoint("classification")
    with pytest.raises(CubsError, match="is 'small'.*one's own that is given: training.load"):
        training.load(path)
    loaded = training.load(path, Own(3))
    assert (loaded.training, loaded.classes) == (False, list(run.train.classes))
    assert loaded.image_size == run["image_size"]
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(loaded(images), model.eval()(images))
    with pytest.raises(CubsError, match=r"best\.ckpt is of the network .* the one given is .*: bu"):
        training.load(path, Own(4))
    with pytest.raises(CubsError, match="the one given is None: build it"):
        training.load(path, nn.Linear(3, 3))
    other = Small(3, plain=True)
    with pytest.raises(CubsError, match="checkpoint of another network"):
        training.load(path, other)
