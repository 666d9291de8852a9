"""What a network must have to be trained, scored, saved and loaded, held against one's own.

`features`: a method that maps normalised images to what the last layer reads.
`fc`: the last layer, an `nn.Linear` or a sequence that ends in one; T4 puts another in its place.
`config`: a dict of plain values, the network's name as `network` and what else builds it. It is
saved beside the weights, never code: who loads one's own network gives it, built.

Shapes: B images, S × S pixels, F features.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from cubslib import CubsError, models


def check(model: nn.Module, num_classes: int, sizes: Iterable[int]) -> None:
    """Refuse a network that could not be trained to its end, scored, saved or loaded again.

    One's own is tried on two images of every size, which changes nothing in it.

    Args:
        model: a network of `models`, or one's own with what is said above.
        num_classes: how many outputs a classifier must have.
        sizes: each S that it will be given.

    Raises:
        CubsError: something is missing, of another size, or its name is that of a network of ours.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    if not isinstance(config, dict) or not isinstance(config.get("network"), str):
        raise CubsError(f"{name}.config is {config!r}; it must be a dict with the network's name, "
                        f"such as {{'network': {name!r}}}.")  # fmt: skip
    features, head = getattr(model, "features", None), _head(model)
    if not (callable(features) and isinstance(head, nn.Linear)):
        raise CubsError(f"{name} lacks `features`, a method, or `fc`, an nn.Linear: scores and the "
                        "embedding layer need the features before the last layer.")  # fmt: skip
    outputs, wanted = head.out_features, config.get("embedding_dim", num_classes)
    if outputs != wanted:
        raise CubsError(f"{name}.fc has {outputs} outputs; it must have {wanted}.")
    if config["network"] in models.NETWORKS:
        if not _is_ours(model):
            raise CubsError(f"{name} is not what its config describes: give your own network a "
                            f"name of its own in place of {config['network']!r}.")  # fmt: skip
        return
    try:
        if json.loads(json.dumps(config)) != config:
            raise TypeError
    except (TypeError, ValueError):
        raise CubsError(f"{name}.config is {config!r}; it must hold texts, numbers and lists "
                        "alone, to be saved.") from None  # fmt: skip
    for size in sorted(set(sizes)):
        _try(model, size)


def match(model: nn.Module, config: dict, path: Path) -> None:
    """Hold a network that is given against the `config` of the one that was saved.

    Args:
        model: it gets an embedding layer where the other has one.
        config: of the saved network.
        path: of its checkpoint.

    Raises:
        CubsError: they differ.
    """
    own = getattr(model, "config", None)
    if isinstance(own, dict) and "embedding_dim" in config.keys() - own.keys():
        own = models.embed(model, config["embedding_dim"]).config
    if own != config:
        raise CubsError(f"{path} is of the network {config}, the one given is {own}: build it as "
                        "it was trained.")  # fmt: skip


def _head(model: nn.Module) -> object:
    head = getattr(model, "fc", None)
    return head[-1] if isinstance(head, nn.Sequential) and len(head) else head


def _is_ours(model: nn.Module) -> bool:
    """Whether a network is, by class and by its state's shapes, the one that its config builds."""
    try:
        with torch.device("meta"):
            built = models.rebuild(model.config)
    except Exception:  # of many kinds, by what is wrong in the config
        return False
    shapes = [{key: x.shape for key, x in m.state_dict().items()} for m in (model, built)]
    return type(model) is type(built) and shapes[0] == shapes[1]


@torch.no_grad()
def _try(model: nn.Module, size: int) -> None:
    name, modes = type(model).__name__, {module: module.training for module in model.modules()}
    images = torch.zeros(2, 3, size, size, device=_head(model).weight.device)
    try:
        features, outputs = model.eval().features(images), model(images)
        found = tuple(features.shape), tuple(outputs.shape)
    except Exception as error:  # of many kinds: it is not our code
        said = str(error).partition("\n")[0][:120].rstrip(".")
        raise CubsError(f"{name} cannot read images of {size} × {size} pixels ({said}): it is "
                        "given these in training or at test.") from error  # fmt: skip
    finally:
        for module, training in modes.items():
            module.training = training
    head = _head(model)
    wanted = (2, head.in_features), (2, head.out_features)
    if found != wanted:
        raise CubsError(f"{name} makes features {found[0]} and outputs {found[1]} of 2 images; "
                        f"by its fc they must be {wanted[0]} and {wanted[1]}.")  # fmt: skip
