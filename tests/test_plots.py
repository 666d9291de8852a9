import numpy as np
import pytest
import torch
from PIL import Image

from cubslib import CubsError
from cubslib.pages import diagrams, pictures, plots

RNG = np.random.default_rng(0)
LONG = "Chevrolet Silverado 1500 Hybrid Crew Cab 2012"
NAMES = [LONG, "Ram C/V Cargo Van Minivan 2012", "a $5 car", "b"]


def _images(*shape):
    return RNG.integers(0, 256, (*shape, 3, 16, 16), dtype=np.uint8)


def _history(*fits, epochs=2, **scores):
    return [
        {"fit": fit, "epoch": epoch, "loss": 4.0 / epoch, **scores}
        for fit in fits
        for epoch in range(1, epochs + 1)
    ]


DIAGRAMS = ("custom_cnn", "residual_block", "channel_block", "spatial_block", "fashions")
FIGURES = {
    "grid": lambda: pictures.image_grid(_images(5), [*NAMES, "c"], columns=2),
    "float grid": lambda: pictures.image_grid(torch.rand(3, 3, 8, 8), NAMES[:3]),
    "curves": lambda: plots.curves(_history("parallel", "serial_12", val_top1=0.25, val_top5=0.5)),
    "one epoch": lambda: plots.curves(_history("classification", epochs=1, val_top1=0.25)),
    "no val": lambda: plots.curves(_history("classification", "embedding", val_recall_at_1="")),
    "confusion": lambda: plots.confusion(RNG.integers(0, 9, (30, 30)), ["a", "b"] * 15),
    "all right": lambda: plots.confusion(torch.eye(4, dtype=int), NAMES),
    "worst": lambda: plots.worst_classes(RNG.random(200), NAMES * 50),
    "few classes": lambda: plots.worst_classes(RNG.random(4), NAMES),
    "gates": lambda: pictures.gate_maps(_images(4), RNG.random((4, 8, 8)), NAMES),
    "equal gates": lambda: pictures.gate_maps(_images(1), np.full((1, 2, 2), 0.98), ["a"]),
    "channels": lambda: plots.channel_gates({"layer1.0": RNG.random((5, 8)), "b": np.ones((5, 4))}),
    "gallery": lambda: pictures.gallery(
        _images(2), _images(2, 3), RNG.random((2, 3)) > 0.5, NAMES[:2]
    ),
    "recalls": lambda: plots.recall_bars({"a": {"1": 0.0}, "b": {"1": 1.0}}, {"1": 0.01}),
    "no chance": lambda: plots.recall_bars({"a": {1: 0.0, 2: 0.0}}),
    "two losses": lambda: plots.curves(_history("classification", "embedding"), one_loss=False),
    "lines": lambda: plots.lines({"rate": {"a": [0, 1]}, "size": {"a": [1, 2]}}, [0, 1], "x"),
    "cosines": lambda: plots.similarities({"a": {"one": RNG.random(9), "two": -RNG.random(9)}}),
    **{name: getattr(diagrams, name) for name in DIAGRAMS},
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error::UserWarning")  # among them: a glyph or a layout that fails
def test_every_figure_is_drawn_and_described(name, tmp_path):
    figure = FIGURES[name]()
    alt = figure.get_label()
    plots.show(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
        assert image.text["Description"] == alt
        assert max(image.size) <= 2000
    assert alt.endswith(".")
    numbers = [path for path in tmp_path.iterdir() if path.name != "figure.png"]
    assert [path.name for path in numbers] == ["figure.csv"] * (name not in DIAGRAMS)
    if numbers:
        assert numbers[0].read_text().count("\n") == len(figure.numbers) + 1


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.25), (0.25, 0.5)])
def test_the_description_follows_the_numbers(first, second):
    figure = plots.recall_bars({"classification": {"1": first}, "embedding": {"1": second}})
    said = f"classification {first:.1%} at 1; embedding {second:.1%} at 1".replace("%", " %")
    assert said in figure.get_label()


def test_curves_draw_a_line_for_each_fit_and_a_panel_for_each_score_there_is():
    both = plots.curves(_history("a", "b", val_recall_at_1=0.5)).axes
    assert [len(ax.lines) for ax in both] == [2, 2]
    none = plots.curves(_history("a", "b", val_recall_at_1=None)).axes
    assert [ax.get_title() for ax in none] == ["Training loss"]
    apart = plots.curves(_history("a", "b"), one_loss=False).axes
    assert [(ax.get_title(), len(ax.lines)) for ax in apart] == [
        ("Training loss, a", 1),
        ("Training loss, b", 1),
    ]
    part = plots.curves(_history("a", val_recall_at_1=0.5) + _history("b")).axes
    assert [len(ax.lines) for ax in part] == [2, 1]


def test_confusion_names_the_most_frequent_mistake():
    matrix = np.array([[9, 1, 0, 0], [0, 5, 0, 0], [0, 4, 6, 0], [0, 0, 0, 0]])
    alt = plots.confusion(matrix, NAMES).get_label()
    assert "20 of 25 images right; most often a $5 car is taken for Ram C/V" in alt
    with pytest.raises(CubsError, match="31"):
        plots.confusion(np.eye(31, dtype=int), ["a"] * 31)


def test_worst_classes_are_the_best_and_the_worst_in_order():
    accuracies = np.arange(30) / 30
    ax = plots.worst_classes(accuracies, [f"c{i}" for i in range(30)], count=2).axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["c29", "c28", "c1", "c0"]
    assert [round(bar.get_width() * 30) for bar in ax.patches] == [29, 28, 1, 0]


def test_right_and_wrong_differ_by_more_than_colour():
    axes = pictures.gallery(_images(1), _images(1, 2), [[True, False]], ["query"]).axes
    assert [ax.get_title()[0] for ax in axes] == ["q", "✓", "✗"]
    assert axes[1].spines["top"].get_linestyle() != axes[2].spines["top"].get_linestyle()


def test_images_are_shown_as_they_are():
    images = _images(2)
    for given in (images, torch.from_numpy(images), images / 255):
        shown = pictures.image_grid(given, ["a", "b"]).axes[1].images[0].get_array()
        expected = images[1].transpose(1, 2, 0)
        np.testing.assert_allclose(shown, expected / (1 if shown.dtype == np.uint8 else 255))


def test_there_may_be_no_image_to_show(tmp_path):
    figure = pictures.image_grid(_images(0), [])
    assert figure.get_label().startswith("Grid of 0 images")
    plots.show(figure, tmp_path / "figure.png")


def test_long_names_are_broken_and_then_shortened():
    assert plots.shortened(LONG, 20, 3) == "Chevrolet Silverado\n1500 Hybrid Crew Cab\n2012"
    assert plots.shortened(LONG, 20, 2) == "Chevrolet Silverado\n1500 Hybrid Crew Ca…"
