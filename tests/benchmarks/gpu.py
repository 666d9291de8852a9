"""The `gpu` recipes, reckoned and not run: memory of a step in 16 bits, minutes on three GPUs.

Memory is measured by the bytes an image keeps under bf16 autocast, on the processor. Minutes are
the floating-point operations of all training steps over what each GPU reaches in training
ResNet-50 in mixed precision: an A100 2,470 images/s (NVIDIA, DeepLearningExamples, container
21.03); a T4 425, a V100's 1,200 there by the two GPUs' inference, 1,198 to 3,382; an H100 4,070,
the A100's by their memory's 3.35 to 2.04 TB/s. Small images may reach less.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from cubslib import inside, models, recipes
from cubslib.budget import GIB, STATE_BYTES

RESNET50 = 3 * 2 * 4.09e9  # operations of a training step an image at 224 px
REACHED = {"T4": 425, "A100": 2470, "H100": 4070}  # images/s of ResNet-50
TINY, CARS = 90_000, 8_054  # training images


def rows(quick: bool) -> list[dict]:
    """Return a row a fit; with `quick` of T1 alone."""
    stem = recipes.RECIPES["recognition", "gpu"].stem
    first, second = (models.cubs_resnet18(98, "serial_12", stem) for _ in range(2))
    found = [("T1", "custom_cnn", models.CustomCNN(200), TINY)]
    if not quick:
        found += [
            ("T2", "recognition", models.resnet18(200, stem), TINY),
            ("T3", "recognition", models.cubs_resnet18(200, "serial_12", stem), TINY),
            ("T4, classification", "classification", first, CARS),
            ("T4, embedding", "embedding", models.embed(second, 512), CARS),
        ]
    return [_row(name, recipes.RECIPES[kind, "gpu"], *more) for name, kind, *more in found]


def _row(name: str, recipe: recipes.Recipe, model: torch.nn.Module, images: int) -> dict:
    largest = max(side for _, side in recipe.sizes)
    with torch.autocast("cpu", torch.bfloat16):
        few, more = (inside.kept_bytes(model, largest, count) for count in (2, 4))
    step = (more - few) / 2 * recipe.batch_size + STATE_BYTES * models.num_parameters(model)
    ends = [share for share, _ in recipe.sizes[1:]] + [1]
    operations = recipe.epochs * images * sum(
        (end - start) * _operations(model, side)
        for (start, side), end in zip(recipe.sizes, ends, strict=True)
    )  # fmt: skip
    minutes = {
        f"{gpu} minutes": operations / (rate * RESNET50) / 60 for gpu, rate in REACHED.items()
    }
    size = " to ".join(str(side) for _, side in recipe.sizes)
    return {"fit": name, "epochs": recipe.epochs, "px": size, "batch": recipe.batch_size,
            "GiB": step / GIB} | minutes  # fmt: skip


def _operations(model: torch.nn.Module, size: int) -> float:
    """Return the floating-point operations of a training step, an image."""
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, size, size)).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / 2
