"""The head is the layer of the logits, and features are what it receives."""

import pytest
import timm
import torch
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.cnn import CNN
from lit_modules.networks.head import body_features, body_parameters, ends_with_head, head_of
from lit_modules.networks.pretrained import timm_net, torchvision_net
from lit_modules.networks.resnet import ResNet
from lit_modules.networks.speedrun import SpeedrunNet
from tests.fits import classifier


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc"), ("mobilenet_v3_small", "classifier.3"), ("efficientnet_b0", "classifier.1")],
)
def test_library_networks_are_split_at_their_logits(name: str, head: str) -> None:
    net = torchvision_net((3, 32, 32), 7, name=name, weights="").train()
    assert head_of(net) is net.get_submodule(head)
    assert ends_with_head(net, images())
    features = body_features(net, images())
    assert all(layer.training for layer in net.modules())
    torch.testing.assert_close(head_of(net)(features), net.eval()(images()))
    everything = {key for key, _ in net.named_parameters()}
    assert everything - body_parameters(net) == {f"{head}.weight", f"{head}.bias"}


def test_head_of_a_cnn_is_all_its_linear_layers() -> None:
    net = classifier().net
    assert isinstance(net, CNN) and head_of(net) is net.head
    assert body_parameters(net) == {key for key, _ in net.named_parameters() if key.startswith("blocks.")}


def test_head_of_any_network_is_its_last_linear_layer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softplus())
    assert head_of(net) is net[4] and head_of(net[:2]) is net[0]


def test_network_whose_logits_are_not_its_heads_has_no_features() -> None:
    activated = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2), nn.Softplus())
    assert not ends_with_head(activated, images())
    assert not ends_with_head(nn.Sequential(*activated[:2], nn.ReLU()), images()), "which keeps zeros"
    squeezenet = torchvision_net((3, 32, 32), 7, name="squeezenet1_0", weights="")
    assert not ends_with_head(squeezenet, images()) and not ends_with_head(squeezenet, images(64))
    several_views = SpeedrunNet(
        (3, 32, 32), 7, channels=[8, 8, 8], depth=1, activation="GELU", norm_momentum=0.4, views=6
    )
    assert not ends_with_head(several_views, images())


def test_zero_head_is_told_from_what_follows_it() -> None:
    net = timm.create_model("dpn48b", num_classes=5)
    nn.init.zeros_(net.classifier.weight)
    net.head_name = "classifier"
    assert not ends_with_head(net, images()), "a convolution, then pooling"


def test_several_heads_cannot_be_frozen_apart() -> None:
    net = timm_net((3, 224, 224), 5, name="levit_128s", weights="")
    with pytest.raises(UserError, match=r"^lit_module\.freeze: body: this network has several heads; "):
        body_parameters(net)


def test_features_survive_an_error_of_the_network() -> None:
    net = ResNet(
        (3, 32, 32), 7, channels=[8], blocks=1, repeats=1, norm="batch", norm_weight=0.5, activation="ReLU", hidden=[]
    ).train()
    with pytest.raises(RuntimeError):
        body_features(net, torch.zeros(2, 5, 32, 32))
    assert all(layer.training for layer in net.modules()) and not head_of(net)._forward_pre_hooks
