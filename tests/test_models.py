import json
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from cubslib import CubsError, inside, models
from cubslib.blocks import FASHIONS
from cubslib.models import CustomCNN, cubs_resnet18, embed, rebuild, resnet18

NETWORKS = {
    "T1": lambda: CustomCNN(7),
    "T2": lambda: resnet18(7),
    "T2 3x3": lambda: resnet18(7, stem="3x3"),
    "T3": lambda: cubs_resnet18(7, "parallel"),
    "T4": lambda: embed(cubs_resnet18(7, "serial_21"), 512),
    "T4 short": lambda: embed(cubs_resnet18(7, "serial_12", stem="3x3"), 20),
}
NETWORK = pytest.mark.parametrize("name", NETWORKS)


@torch.no_grad()
def lived_in(model):
    """Give BatchNorm scales of its own and the statistics of images seen."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.momentum = 1.0
    model.train()(torch.randn(4, 3, 40, 40))
    return model.eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(4, 3, 40, 40, generator=torch.manual_seed(0))


def test_resnet18_is_torchvisions(pictures):
    theirs = lived_in(torchvision.models.resnet18(num_classes=7))
    ours = resnet18(7).eval()
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(pictures), theirs(pictures), rtol=1e-4, atol=1e-5)
    assert models.num_parameters(resnet18(1000)) == 11_689_512  # as published


@pytest.mark.parametrize("stem", models.STEMS)
@pytest.mark.parametrize("fashion", FASHIONS)
def test_a_network_without_blocks_loads_into_one_with_and_hardly_changes(fashion, stem, pictures):
    torch.manual_seed(0)
    plain, augmented = lived_in(resnet18(7, stem)), cubs_resnet18(7, fashion, stem, 5.0).eval()
    missing, unexpected = augmented.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split(".attention.")[0] for name in missing} == {
        f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)
    }
    assert set(plain.state_dict()) | set(missing) == set(augmented.state_dict())
    before, after = plain(pictures), augmented(pictures)
    assert 0 < (after - before).norm() / before.norm() < 0.2


@NETWORK
def test_config_and_state_rebuild_a_network(name, pictures):
    model = lived_in(NETWORKS[name]())
    other = rebuild(json.loads(json.dumps(model.config)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(pictures), model(pictures))
    assert other.config == model.config


@NETWORK
def test_any_size_from_32_gives_one_row_an_image(name):
    model = NETWORKS[name]().eval()
    for size in (32, 45):
        images = torch.randn(2, 3, size, size)
        features = model.features(images)
        assert features.shape == (2, 768 if name == "T1" else 512)
        outputs = model(images)
        assert outputs.shape == (2, model.config.get("embedding_dim", 7))
        torch.testing.assert_close(outputs, model.fc(features))


@NETWORK
def test_a_new_network_starts_near_chance_and_every_parameter_learns(name, pictures):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    outputs = model(pictures)
    if name[:2] != "T4":
        loss = F.cross_entropy(outputs, torch.tensor([0, 2, 4, 6]))
        assert loss.item() == pytest.approx(math.log(7), abs=1.0)
    outputs.square().sum().backward()
    for parameter, p in model.named_parameters():
        assert p.grad.isfinite().all(), parameter
        if not parameter.endswith("key.bias"):  # softmax does not notice it
            assert p.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("fashion", FASHIONS)
def test_an_embedding_of_as_many_dimensions_starts_as_the_identity(fashion, pictures):
    model = lived_in(cubs_resnet18(7, fashion))
    features = model.features(pictures)
    assert embed(model, 512) is model
    torch.testing.assert_close(model(pictures), features)
    assert model.fc.weight.requires_grad
    assert embed(model, 30)(pictures).shape == (4, 30)
    assert model.fc.weight.std() > 0.01


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: resnet18(7, stem="5x5"), "stem is '5x5'; it is one of 7x7, 3x3"),
    (lambda: cubs_resnet18(7, "serial"), "fashion is 'serial'; it is one of parallel"),
    (lambda: cubs_resnet18(7, ""), "fashion is ''; it is one of parallel"),
    (lambda: rebuild({"network": "vgg"}), "network is 'vgg'; it is one of custom_cnn"),
    (lambda: rebuild({}), "network is None; it is one of"),
])  # fmt: skip
def test_what_is_none_is_refused(make, sentence):
    with pytest.raises(CubsError, match=sentence):
        make()


@pytest.mark.parametrize(("stem", "side"), [("7x7", 16), ("3x3", 64)])
def test_stages_list_every_parameter_once_and_leave_the_network_as_it_was(stem, side):
    model = cubs_resnet18(7, "serial_12", stem).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = inside.stages(model, 64)
    counts = [int(row["parameters"].replace(",", "")) for row in rows]
    assert sum(counts) == models.num_parameters(model)
    outputs = {row["stage"]: row["output"] for row in rows}
    assert outputs["layer1"] == f"64 × {side} × {side}"
    assert outputs["layer4"] == f"512 × {side // 8} × {side // 8}"
    assert outputs["fc"] == "7"
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_gates_are_those_that_the_images_meet(pictures):
    model = lived_in(cubs_resnet18(7, "serial_12")).train()
    channel, spatial = inside.gates(model, pictures)
    assert list(channel) == list(spatial) == [f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert channel["layer3.1"].shape == (4, 256)
    assert spatial["layer2.0"].shape == (4, 5, 5)
    assert all(
        gate.min() > 0 and gate.max() < 1 for gates in (channel, spatial) for gate in gates.values()
    )
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    x = F.max_pool2d(F.relu(model.bn1(model.conv1(pictures))), 3, 2, 1)
    block = model.layer1[0]
    y = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + x)
    torch.testing.assert_close(channel["layer1.0"], block.attention.channel.gate(y))
    y = block.attention.channel(y)
    torch.testing.assert_close(spatial["layer1.0"], block.attention.spatial.gate(y))
