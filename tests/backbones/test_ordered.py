"""Torchvision's networks of numbered features."""

import pytest
import timm
import torch
import torchvision

from drtune.backbones.fitting import load_encoder
from drtune.backbones.loading import classifier_of
from drtune.base.errors import WeightsError

SLOW = [
    pytest.param("swin_t", "swin_tiny_patch4_window7_224", {}, marks=pytest.mark.slow),
    pytest.param("swin_v2_t", "swinv2_tiny_window8_256", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("names", "architecture", "arguments"),
    [
        ("efficientnet_b0", "efficientnet_b0", {}),
        ("mobilenet_v2", "mobilenetv2_100", {}),
        ("mobilenet_v3_small", "mobilenetv3_small_100", {"bn_eps": 0.001}),
        ("mnasnet0_5", "mnasnet_050", {}),
        ("convnext_tiny", "convnext_tiny", {}),
        *SLOW,
    ],
)
def test_networks_of_torchvision_compute_in_timm_what_they_compute_there(names, architecture, arguments):
    with torch.device("cpu" if "swin" in names else "meta"):
        theirs = getattr(torchvision.models, names)(weights=None).eval()
        ours = timm.create_model(architecture, num_classes=0, **arguments).eval()
    if "swin" not in names:  # whose tables of indices are made when the network is
        theirs, ours = theirs.to_empty(device="cpu"), ours.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if value.is_floating_point() and "qkv.bias" not in name:
            spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.2
            value.copy_(
                (torch.rand(value.shape, generator=generator) - 0.5 * (value.ndim > 1)) * spread
                + 0.5 * (value.ndim == 1)
            )
    last = [module for module in theirs.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    load_encoder(ours, theirs.state_dict(), classifier_of(ours), names)
    side = {"swin_t": 224, "swin_v2_t": 256}.get(names, 64)
    images = torch.rand(1, 3, side, side, generator=generator)
    with torch.inference_mode():
        theirs(images)
        assert seen[0].std() > 0
        torch.testing.assert_close(ours(images), seen[0], rtol=1e-4, atol=1e-4 if "swin" in names else 1e-6)


def test_torchvision_normalises_and_pads_otherwise_than_some_networks_of_timm():
    with torch.device("meta"):
        small = torchvision.models.mobilenet_v3_small(weights=None)
    state = {name: torch.ones(value.shape) for name, value in small.state_dict().items()}
    target = timm.create_model("mobilenetv3_small_100", num_classes=0)
    with pytest.raises(WeightsError, match=r"bn_eps 0.001, .* with 1e-05; .*\{bn_eps: 0.001\}"):
        load_encoder(target, state, "classifier", "w.pth")
