"""Series, images and volumes can all be drawn, and looking into a network changes nothing in it."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from lit_modules.evaluation.figures import png
from lit_modules.evaluation.image_grid import feature_map_grid, filter_grid, grid
from tests.samples import SHAPES, network


def shown(figure: Figure) -> list[np.ndarray]:
    """The images of a grid, in order."""
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kind_of_sample_is_drawn(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).random((10, *shape)).astype(np.float32)
    figure = grid(samples, [f"class {i}" for i in range(10)], "title")
    assert png(figure).startswith(b"\x89PNG")
    marks = figure.axes[0].images or figure.axes[0].lines
    assert len(marks) == (20 if len(shape) == 2 else 10)
    assert len(figure.axes[0].texts) == 10


def test_images_are_shown_as_they_are() -> None:
    samples = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    for image, sample in zip(shown(grid(samples, ["", ""], "")), samples, strict=True):
        np.testing.assert_array_equal(image, sample.transpose(1, 2, 0))


@pytest.mark.parametrize("caption", ["\udcb0.png", "cat\n\udcb0.png"])
def test_a_file_name_that_is_no_utf_8_is_drawn(caption: str) -> None:
    figure = grid(np.zeros((1, 1, 4, 4), np.float32), [caption], "")
    assert png(figure).startswith(b"\x89PNG")
    assert figure.axes[0].texts[0].get_text() == caption.replace("\udcb0", "?")


def test_of_a_volume_the_middle_slice_is_shown() -> None:
    volume = np.zeros((1, 1, 7, 4, 4), np.float32)
    volume[0, 0, 3] = 0.5
    (image,) = shown(grid(volume, [""], ""))
    assert (image == 0.5).all()


def test_what_leaves_the_unit_interval_is_scaled_into_it() -> None:
    figure = grid(np.array([[[[-1.0, 3.0]]]]), [""], "")
    (image,) = shown(figure)
    assert image.tolist() == [[0, 1]]
    assert figure.axes[0].images[0].get_clim() == (0, 1), "grey is not stretched"


def test_nothing_to_show_is_said() -> None:
    figure = grid([], [], "Worst mistakes")
    assert png(figure).startswith(b"\x89PNG")
    assert figure.axes[0].get_title("left") == "Worst mistakes: none"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_filters_and_feature_maps_are_drawn(shape: tuple[int, ...]) -> None:
    net = network(shape).eval()
    filters, maps = filter_grid(net), feature_map_grid(net, net, torch.rand(1, *shape))
    assert filters is not None and maps is not None
    assert png(filters).startswith(b"\x89PNG") and png(maps).startswith(b"\x89PNG")
    assert len(filters.axes[0].texts) == 6


def test_feature_maps_are_those_of_the_layers() -> None:
    net = network((1, 8, 8)).eval()
    sample = torch.rand(1, 1, 8, 8)
    figure = feature_map_grid(net, net, sample)
    assert figure is not None
    with torch.no_grad():
        first = net.blocks[0].conv(sample)[0].numpy()
    expected = (first[2] - first[2].min()) / (first[2].max() - first[2].min())
    np.testing.assert_allclose(shown(figure)[8 + 2], expected, atol=1e-6)  # the input's row comes first


def test_looking_changes_nothing() -> None:
    net = network((1, 8, 8)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    feature_map_grid(net, net, torch.rand(1, 1, 8, 8, generator=torch.Generator()))
    filter_grid(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks for module in net.modules())


def test_network_without_convolutions_has_no_such_figures() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert filter_grid(net) is None
    assert feature_map_grid(net, net, torch.rand(1, 1, 2, 2)) is None
