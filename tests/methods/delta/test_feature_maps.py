import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from drtune.backbones.classifier import Classifier
from drtune.base.errors import ConfigError
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.delta.feature_maps import (
    by_channel,
    channel_axis,
    chosen_layers,
    loss_rises,
    outputs_of,
    silenced,
    stage_ends,
    widths_of,
)

IMAGES = torch.randn(6, 3, 8, 8, generator=generator(0))
LABELS = torch.arange(6) % 3
KNOWN = {
    "resnet50": ["layer1", "layer2", "layer3", "layer4"],
    "resnet10t": ["layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "stages.3"],
    "mobilenetv2_050": ["blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "vit_tiny_patch16_224": ["blocks.11"],
    "swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "layers.3"],
}


def toy():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5, 6)).eval()


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


@pytest.mark.parametrize("name", KNOWN)
def test_stage_ends_of_timm_networks(name):
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
    assert stage_ends(encoder) == KNOWN[name]


def test_stages_that_are_no_modules_are_left_out():
    encoder = toy()
    encoder.feature_info = [
        {"module": "", "reduction": 4}, {"module": "gone", "reduction": 8}, {"num_chs": 3},
        {"module": "0", "reduction": 2}, {"module": "2", "reduction": 16}, {"module": "3", "reduction": 16},
    ]  # fmt: skip
    assert stage_ends(encoder) == ["3"]
    assert stage_ends(toy()) == []


def test_layers_are_looked_up_and_faults_name_the_remedy():
    assert chosen_layers(toy(), ["2", "0"], "a.b") == ["2", "0"]
    with pytest.raises(
        ConfigError, match=r"a\.b: the module '22' is unknown; did you mean 2\? known: 0, 1, 2"
    ):
        chosen_layers(toy(), ["0", "22"], "a.b")
    lists_none = (
        r"a\.b: auto takes the stages that timm lists, and the backbone \(Sequential\) lists none; name"
    )
    with pytest.raises(
        ConfigError, match=lists_none + r" modules of it instead, such as 0, 1, 2, 3, 4, 5, 6"
    ):
        chosen_layers(toy(), "auto", "a.b")


@pytest.mark.parametrize("fmt", [None, "NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 5, 3, 4), (2, 3, 4, 5)])
def test_channels_come_second_and_positions_last(shape, fmt):
    encoder = nn.Identity()
    if fmt is not None:
        encoder.output_fmt = fmt
    output = torch.randn(*shape, generator=generator(1))
    axis = channel_axis(output, encoder)
    assert axis == (1 if len(shape) == 4 and fmt != "NHWC" else len(shape) - 1)
    found = by_channel(output, encoder)
    assert found.shape == (2, shape[axis], output[0].numel() // shape[axis])
    for c in range(shape[axis]):
        assert torch.equal(found[:, c], output.select(axis, c).reshape(2, -1))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_widths_of_timm_networks_without_maps_of_channels_first(name):
    arguments = {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2), "window_size": 4, "img_size": 32}
    if name.startswith("vit"):
        arguments = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32}
    encoder = timm.create_model(name, num_classes=0, **arguments).eval()
    found = widths_of(encoder, stage_ends(encoder), torch.zeros(2, 3, 32, 32), "a.b")
    assert found == ({"blocks.1": 24} if name.startswith("vit") else {"layers.0": 24, "layers.1": 48})


def test_outputs_are_kept_and_hooks_are_gone_afterwards():
    encoder = toy()
    with outputs_of(encoder, ["0", "2"]) as found:
        assert found == {}
        encoder(IMAGES)
        encoder(IMAGES[:2])
        assert hooks(encoder) == 2
    assert hooks(encoder) == 0
    assert list(found) == ["0", "2"]
    torch.testing.assert_close(found["2"], encoder[:3](IMAGES[:2]))
    found["2"].sum().backward()
    assert encoder[0].weight.grad is not None
    assert pickle.loads(pickle.dumps(copy.deepcopy(encoder))) is not None
    with pytest.raises(RuntimeError), outputs_of(encoder, ["0"]):
        encoder(torch.zeros(1, 9, 8, 8))
    with pytest.raises(AttributeError), outputs_of(encoder, ["0", "gone"]):
        pass
    assert hooks(encoder) == 0


def test_a_silenced_channel_is_zero_and_the_rest_is_not():
    encoder = toy()
    with torch.no_grad():
        maps = encoder[:3](IMAGES)
        maps[:, 3] = 0
        expected = encoder[3:](maps)
        with silenced(encoder, "2", 3):
            found = encoder(IMAGES)
    torch.testing.assert_close(found, expected)
    assert hooks(encoder) == 0
    assert not torch.allclose(found, encoder(IMAGES))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pair, self.unused = nn.Flatten(), Pair(), nn.Identity()
        self.flat = nn.Flatten(0)

    def forward(self, images):
        rows = self.body(images)
        self.pair(rows)
        self.flat(rows)
        return rows


class Pair(nn.Module):
    def forward(self, rows):
        return rows, rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unused", r"a\.b: the module 'unused' does not run in a forward pass; name another"),
        ("pair", r"a\.b: the module 'pair' returns a tuple, expected one tensor \[B, C\], \[B, P, C\] or"),
        ("flat", r"a\.b: the module 'flat' returns a tensor of 1 axes, expected"),
    ],
)
def test_layers_that_return_no_maps_are_refused(name, text):
    encoder = Odd()
    assert widths_of(encoder, ["body"], IMAGES, "a.b") == {"body": 192}
    with pytest.raises(ConfigError, match=text):
        widths_of(encoder, ["body", name], IMAGES, "a.b")
    assert hooks(encoder) == 0


def test_rises_equal_those_of_zeroed_filters():
    """As the official code finds them: the filter's own weights set to zero, one after the other."""
    model = Classifier(toy(), 6, 3).eval()
    batches = [
        Batch(IMAGES[rows], LABELS[rows], LABELS[rows], LABELS[rows]) for rows in ([0, 1, 2, 3], [4, 5])
    ]
    found = loss_rises(model, {"0": 4, "2": 5}, batches)
    for layer, width in (("0", 4), ("2", 5)):
        rises = torch.zeros(width, dtype=torch.float64)
        for batch in batches:
            whole = cross_entropy(model(batch.images).logits, batch.labels)
            for c in range(width):
                other = copy.deepcopy(model)
                other.encoder[int(layer)].weight.data[c] = 0
                other.encoder[int(layer)].bias.data[c] = 0
                without = cross_entropy(other(batch.images).logits, batch.labels)
                rises[c] += (without - whole).item() / len(batches)
        torch.testing.assert_close(found[layer], rises, rtol=1e-3, atol=1e-6)
        assert found[layer].abs().max() > 1e-4
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks(model) == 0
