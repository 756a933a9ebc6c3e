"""Class activation maps are the contributions to a logit, depend on the weights, and change nothing."""

from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from lit_modules.evaluation.activation_maps import ActivationMaps, Explained, explain, scaled
from lit_modules.evaluation.drawing import _map_grid
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import png
from lit_modules.evaluation.image_grid import overlay
from lit_modules.evaluation.predictions import Predictions
from lit_modules.networks.cnn import CNN
from lit_modules.networks.efficientnet_lite import EfficientNetLite
from lit_modules.networks.gradient_checkpointing import checkpoint_blocks
from lit_modules.networks.normalize import Normalize
from lit_modules.networks.pretrained import timm_net, torchvision_net
from lit_modules.networks.resnet import ResNet
from lit_modules.networks.speedrun import SpeedrunNet
from tests.samples import SHAPES, network

LABELS = torch.tensor([[0, 1], [3, 2], [1, 1]])


def samples_of(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))


def cnn(shape: tuple[int, ...], **changes: Any) -> CNN:
    options: dict[str, Any] = {
        "channels": [6, 8], "kernel_size": 3, "pool": 2, "pool_type": "max", "norm": "batch", "activation": "ReLU",
        "dropout": 0.5, "head_dropout": 0.0, "global_pool": "none", "hidden": [],
    }  # fmt: skip
    return CNN(shape, 4, **options | changes)


def resnet(shape: tuple[int, ...]) -> ResNet:
    options: dict[str, Any] = {"channels": [6], "blocks": 2, "repeats": 2, "norm": "batch", "norm_weight": 0.5}
    return ResNet(shape, 4, **options, activation="Tanh", hidden=[])


def speedrun(side: int, views: Literal[1, 2]) -> SpeedrunNet:
    options: dict[str, Any] = {"channels": [8, 8, 8], "depth": 2, "activation": "GELU", "norm_momentum": 0.6}
    return SpeedrunNet((3, side, side), 4, **options, views=views)


def maps_of(net: nn.Module, inputs: Tensor) -> Tensor:
    maps = ActivationMaps(net, inputs[:1])
    assert not maps.why_not
    return maps(inputs, LABELS)


@pytest.mark.parametrize("build", [cnn, network, resnet], ids=["flattened", "averaged", "residual"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_contributions_and_bias_add_up_to_the_logit(build: Any, shape: tuple[int, ...]) -> None:
    net, inputs = build(shape).eval(), samples_of(*shape)
    sums = maps_of(net, inputs).flatten(2).sum(2) + net.head[-1].bias[LABELS]
    torch.testing.assert_close(sums, net(inputs).gather(1, LABELS))


def test_after_global_pooling_they_are_those_of_zhou() -> None:
    """Zhou et al., arXiv:1512.04150: weights of the class × channels, here divided by the number of positions."""
    net, inputs = EfficientNetLite(4, 1.0, 1.0).eval(), samples_of(3, 64, 64)
    channels = net.features[0](net.blocks(net.stem(inputs)))
    expected = torch.einsum("nkc,nchw->nkhw", net.head.weight[LABELS], channels) / channels[0, 0].numel()
    torch.testing.assert_close(maps_of(net, inputs), expected)


def test_maps_equal_those_by_finite_differences() -> None:
    """Behind the layer is a network with hidden layers, in double precision."""
    net, inputs = cnn((2, 8, 8), hidden=[7], activation="Tanh").double().eval(), samples_of(2, 8, 8).double()
    channels = net.blocks(inputs).detach()
    step = 1e-6
    expected = torch.zeros(3, 2, 2, 2, dtype=torch.float64)
    for c, y, x in np.ndindex(*channels.shape[1:]):
        shift = torch.zeros_like(channels)
        shift[:, c, y, x] = step
        above, below = (net.head(net.features(channels + sign * shift)).gather(1, LABELS) for sign in (1, -1))
        expected[:, :, y, x] += (above - below).detach() / (2 * step) * channels[:, c, y, x, None]
    torch.testing.assert_close(maps_of(net, inputs), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        (torchvision_net((3, 64, 64), 4, name="resnet18", weights=""), "layer4"),
        (torchvision_net((3, 64, 64), 4, name="densenet121", weights=""), "features"),  # followed by an in-place ReLU
        (timm_net((3, 64, 64), 4, name="mobilenetv3_small_050", weights=""), "blocks"),
        (speedrun(64, views=1), "blocks"),
    ],
    ids=["resnet18", "densenet121", "mobilenetv3", "speedrun"],
)  # fmt: skip
def test_layer_is_the_last_with_positions(net: nn.Module, layer: str) -> None:
    maps = ActivationMaps(net, samples_of(3, 64, 64)[:1])
    assert not maps.why_not and maps.layer is net.get_submodule(layer)
    contributions = maps(samples_of(3, 64, 64), LABELS)
    assert contributions.shape[:2] == (3, 2) and contributions.std() > 0


def test_network_may_name_its_layer() -> None:
    net: Any = cnn((1, 8, 8))
    net.map_layer = "blocks.0"
    assert maps_of(net, samples_of(1, 8, 8)).shape == (3, 2, 4, 4)
    net.map_layer = "stem"
    assert "no layer stem" in ActivationMaps(net, samples_of(1, 8, 8)[:1]).why_not


class Frozen(nn.Module):
    """A body without gradients, and a hidden layer behind it."""

    def __init__(self, head_too: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU(inplace=True))
        self.head = nn.Linear(4 * 6 * 6, 4)
        self.head_too = head_too

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(inputs)
        with torch.set_grad_enabled(not self.head_too):
            return self.head(features)


@pytest.mark.parametrize(
    ("net", "shape", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 8, 8), "no layer has an output with several positions"),
        (timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32), (3, 32, 32), "other dimensions"),
        (speedrun(32, views=2), (3, 32, 32), "applied repeatedly"),
        (Frozen(head_too=True), (1, 8, 8), "the logits have no gradient"),
    ],
    ids=["linear", "tokens", "views", "no gradient"],
)  # fmt: skip
def test_network_without_maps_says_why(net: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    assert reason in ActivationMaps(net, samples_of(*shape)[:1]).why_not


@pytest.mark.parametrize("frozen", [False, True])
def test_network_is_not_changed(frozen: bool) -> None:
    net, inputs = cnn((1, 8, 8)), samples_of(1, 8, 8)
    for parameter in net.blocks.parameters():
        parameter.requires_grad = not frozen
    net.blocks[0].eval()
    modes = [layer.training for layer in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    maps = maps_of(net, inputs)
    assert torch.equal(maps, maps_of(net, inputs)), "deterministic in spite of dropout"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [layer.training for layer in net.modules()] == modes
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.blocks[0].conv.weight.requires_grad is not frozen and net.head[0].weight.requires_grad
    assert not maps.requires_grad and not any(layer._forward_hooks for layer in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_maps_are_the_same_within_any_context() -> None:
    net, inputs = cnn((1, 8, 8)).eval(), samples_of(1, 8, 8)
    expected = maps_of(net, inputs)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        net(inputs)  # the cache of autocast now holds weights without gradient
        assert torch.equal(maps_of(net, inputs.clone()), expected)


def test_body_may_run_without_gradients_or_checkpointed() -> None:
    net, inputs = Frozen().eval(), samples_of(1, 8, 8)
    sums = maps_of(net, inputs).flatten(2).sum(2) + net.head.bias[LABELS]
    torch.testing.assert_close(sums, net(inputs).gather(1, LABELS))
    net = torchvision_net((3, 32, 32), 4, name="resnet18", weights="").eval()
    inputs = samples_of(3, 32, 64)
    expected = maps_of(net, inputs)
    checkpoint_blocks(net)
    assert torch.equal(maps_of(net, inputs), expected)


def patches(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright (class 1) or dark (class 0) patch of 8×8 of 32×32 pixels somewhere; labels, corners."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    labels = torch.arange(count) % 2
    corners = torch.randint(0, 25, (count, 2), generator=generator)
    for image, label, (y, x) in zip(images, labels, corners, strict=True):
        image[:, y : y + 8, x : x + 8] += 6 * label - 3
    return images, labels, corners


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    net = cnn((1, 32, 32), channels=[8, 16], global_pool="avg", dropout=0.0)
    images, labels, _ = patches(128, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.eval()


def test_map_of_the_class_is_highest_where_its_patch_is(trained: nn.Module) -> None:
    images, labels, corners = patches(32, seed=2)
    maps = scaled(ActivationMaps(trained, images[:1])(images, labels[:, None]), images.shape[2:])[:, 0]
    assert ((maps >= 0) & (maps <= 1)).all()
    highest = torch.stack(torch.unravel_index(maps.flatten(1).argmax(1), (32, 32)), 1)
    within = ((corners - 2 <= highest) & (highest < corners + 10)).all(1)
    assert within.float().mean() > 0.9


def test_random_weights_change_the_map(trained: nn.Module) -> None:
    """Adebayo et al., "Sanity checks for saliency maps", arXiv:1810.03292: edges of the image alone would not."""
    images, labels, _ = patches(16, seed=3)
    torch.manual_seed(1)
    random = cnn((1, 32, 32), channels=[8, 16], global_pool="avg", dropout=0.0)
    of_trained, of_random = (ActivationMaps(net, images[:1])(images, labels[:, None]) for net in (trained, random))
    correlations = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(of_trained, of_random, strict=True)]
    assert abs(np.mean(correlations)) < 0.5
    for class_maps in (of_trained, of_random):
        assert spearmanr(class_maps[0].flatten(), class_maps[0].flatten()).statistic == pytest.approx(1)


def evaluated(shape: tuple[int, ...], mistakes: int = 9, net: nn.Module | None = None) -> tuple[Evaluation, Tensor]:
    """40 predictions of an untrained network, of which some are mistakes."""
    net, samples = net or network(shape), torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    predicted = np.arange(40) % 4
    true = np.where(np.arange(40) < mistakes, (predicted + 1) % 4, predicted)
    probabilities = np.full((40, 4), 0.25, np.float32)
    predictions = Predictions(np.arange(40), true, predicted, probabilities, np.arange(mistakes)[::-1].copy())
    classifier: Any = nn.ModuleDict({"net": net})
    classifier.normalize = Normalize([0.5] * shape[0], [0.2] * shape[0], len(shape) - 1)
    explained = explain(classifier, predictions, lambda index: samples[index])
    names, files = list("abcd"), [f"{i}.png" for i in range(40)]
    return Evaluation(names, files, predictions, samples[predictions.mistakes].numpy(), explained), samples


def test_worst_mistakes_and_some_right_predictions_are_explained() -> None:
    evaluation, samples = evaluated((3, 8, 8))
    assert isinstance(evaluation.explained, Explained)
    rows, inputs, maps = evaluation.explained
    assert rows.tolist() == [8, 7, 6, 5, 4, 3, 9, 15, 21, 27, 33, 39]
    np.testing.assert_array_equal(inputs, samples[rows])
    assert maps.shape == (12, 2, 8, 8)
    np.testing.assert_array_equal(maps[6:, 0], maps[6:, 1])
    assert (np.abs(maps[:6, 0] - maps[:6, 1]).max((1, 2)) > 0).all(), "of the predicted and of the true class"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_maps_of_every_kind_of_sample_are_drawn(shape: tuple[int, ...]) -> None:
    evaluation, _ = evaluated(shape, mistakes=5)
    assert isinstance(evaluation.explained, Explained)
    figure = _map_grid(evaluation, evaluation.explained, list("abcd"))
    assert png(figure).startswith(b"\x89PNG")
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions[:3] == ["b → a\n0.250  4.png", "evidence for\na", "evidence for\nb"]
    assert len([caption for caption in captions if caption]) == 5 * 3 + 6 * 2


def test_slice_of_a_volume_is_that_with_the_most_evidence() -> None:
    net = nn.Sequential(nn.Conv3d(1, 1, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 4))
    for parameter in net.parameters():
        nn.init.ones_(parameter)  # each voxel counts as it is bright
    evaluation, samples = evaluated((1, 6, 5, 4), net=net)
    assert isinstance(evaluation.explained, Explained)
    rows, inputs, maps = evaluation.explained
    brightest = samples[rows].amax((1, 3, 4)).argmax(1)
    np.testing.assert_array_equal(inputs, samples[rows, :, brightest])
    assert inputs.shape == (12, 1, 5, 4) and maps.shape == (12, 2, 5, 4) and maps.max((1, 2, 3)) == pytest.approx(1)


def test_no_mistakes_or_no_right_predictions_are_no_error() -> None:
    for mistakes, rows in ((0, 6), (40, 6)):
        evaluation, _ = evaluated((1, 8, 8), mistakes)
        assert isinstance(evaluation.explained, Explained) and len(evaluation.explained.rows) == rows


def test_image_shows_through_its_map() -> None:
    image = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    grey = np.repeat(image.mean(0)[..., None], 3, 2)
    np.testing.assert_allclose(overlay(image, np.zeros((4, 4))), grey, rtol=1e-6)
    marked = overlay(image, np.ones((4, 4)))
    assert np.corrcoef(marked[..., 2].ravel(), grey[..., 2].ravel())[0, 1] > 0.99
    assert marked.min() >= 0 and marked.max() <= 1
