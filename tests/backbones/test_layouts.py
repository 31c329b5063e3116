"""Published layouts, made by `layouts.py` as their authors write them, load like the plain timm state."""

import argparse
import importlib.util
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from drtune.backbones.fitting import left_out, load_encoder
from drtune.backbones.loading import classifier_of
from drtune.backbones.settings import BackboneSettings
from drtune.backbones.weights import read_checkpoint
from drtune.backbones.zoo import build_backbone
from drtune.base.errors import WeightsError

SPEC = importlib.util.spec_from_file_location("layouts", Path(__file__).with_name("layouts.py"))
layouts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(layouts)
SHARED_TABLE = {layouts.beit}
GIVEN = {
    "image_size": None,
    "mean": None,
    "std": None,
    "interpolation": None,
    "crop_fraction": None,
    "seed": 0,
}


def network(architecture, seed):
    """A timm network of random numbers, statistics of norms among them."""
    name, arguments = architecture
    torch.manual_seed(seed)
    encoder = timm.create_model(name, num_classes=0, **arguments)
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.1)
    return encoder


def state_of(architecture, make):
    """What a checkpoint of this layout holds of a network, under timm's names."""
    state = {name: value.clone() for name, value in network(architecture, 1).state_dict().items()}
    if make in SHARED_TABLE:
        table = state["blocks.0.attn.relative_position_bias_table"]
        state |= {name: table for name in state if name.endswith("relative_position_bias_table")}
    return state


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_published_layout_gives_the_numbers_of_the_plain_state(layout, tmp_path):
    architecture, make = layouts.LAYOUTS[layout]
    state, target, path = state_of(architecture, make), network(architecture, 2), tmp_path / "w.pth.tar"
    torch.save(make(dict(state)), path)
    load_encoder(target, read_checkpoint(path), classifier_of(target), "w")
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]) or name.endswith("num_batches_tracked"), name


def saved(tmp_path, layout):
    """A checkpoint of a layout, and a timm state dict of the same numbers, as files."""
    architecture, make = layouts.LAYOUTS[layout]
    state = state_of(architecture, make)
    torch.save(make(dict(state)), tmp_path / "theirs.pth")
    torch.save(state, tmp_path / "plain.pth")
    return architecture


def backbone(architecture, path, **change):
    name, arguments = architecture
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    values = {"name": name, "kwargs": arguments, "weights": str(path), **GIVEN, **change}
    return build_backbone(BackboneSettings(**values))


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("layout", "origin", "interpolation", "out"),
    [
        ("moco_v2", "MoCo, PCL, HCSC, DenseCL at state_dict.module.encoder_q", "bilinear", "encoder_k"),
        ("moco_v3", "MoCo v3 at state_dict.module.base_encoder", "bilinear", "momentum_encoder"),
        ("simsiam", "SimSiam at state_dict.module.encoder", "bilinear", "module.predictor"),
        ("swav", "SwAV, DeepCluster-v2, SeLa at module", "bilinear", "module.prototypes"),
        ("barlow", "Barlow Twins, VICReg at model.module.backbone", "bilinear", "module.projector"),
        ("dino_resnet", "DINO, iBOT, EsViT, DINOv2 at teacher.backbone", "bicubic", "student.module"),
        ("solo_learn", "solo-learn at state_dict.backbone", "bilinear", "momentum_backbone"),
        ("lightly_benchmark", "lightly at state_dict.backbone", "bilinear", "state_dict.key_backbone"),
        ("lightly_dino", "lightly at teacher_backbone", "bilinear", "student_backbone"),
    ],
)
def test_what_was_taken_left_out_and_assumed_is_said_in_one_line(
    layout, origin, interpolation, out, tmp_path
):
    architecture = saved(tmp_path, layout)
    built = backbone(architecture, tmp_path / "theirs.pth")
    assert (built.spec.mean, built.spec.std) == IMAGENET
    assert (built.spec.size, built.spec.interpolation, built.spec.crop_fraction) == (
        224,
        interpolation,
        0.875,
    )
    line = built.taken
    assert "\n" not in line
    assert line.startswith(f"weights: theirs.pth read as {origin}, ")
    assert out in line.split("left out: ")[1].split(";")[0]
    assert f"as {origin.split(' at ')[0]} has it: 224 px, mean [0.485, 0.456, 0.406] and std [0.229," in line
    plain = backbone(architecture, tmp_path / "plain.pth")
    assert built.fingerprint == plain.fingerprint
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(built.encoder.eval()(images), plain.encoder.eval()(images))


def test_weights_of_another_origin_beside_a_name_without_a_tag(tmp_path):
    tiny = {**layouts.TINY}
    architecture = ("vit_small_patch16_224", tiny)
    state = state_of(architecture, layouts.dino)
    torch.save(layouts.dino(dict(state)), tmp_path / "dino.pth")
    torch.save(state, tmp_path / "plain.pth")
    with pytest.raises(WeightsError) as caught:
        backbone(architecture, tmp_path / "dino.pth")
    text = str(caught.value)
    assert text.startswith(
        "backbone.mean, backbone.std: which input the weights were trained on is not certain"
    )
    assert "DINO, iBOT, EsViT, DINOv2 says mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225]" in text
    assert "timm's record of vit_small_patch16_224, which has no tag says mean [0.5, 0.5, 0.5]" in text
    assert "give backbone.mean and backbone.std, or the tag of these weights in backbone.name" in text
    with pytest.raises(WeightsError, match=r"its first tag says mean \[0.5.*224.dino says mean \[0.485"):
        backbone(architecture, tmp_path / "plain.pth")
    tagged = ("vit_small_patch16_224.dino", tiny)
    assert backbone(tagged, tmp_path / "dino.pth").spec.mean == IMAGENET[0]
    assert backbone(tagged, tmp_path / "plain.pth").spec.mean == IMAGENET[0]
    with pytest.raises(
        WeightsError, match=r"timm's record of vit_small_patch16_224.augreg_in21k says mean \[0.5"
    ):
        backbone(("vit_small_patch16_224.augreg_in21k", tiny), tmp_path / "dino.pth")
    given = backbone(architecture, tmp_path / "dino.pth", mean=[0.1, 0.1, 0.1], std=[0.2, 0.2, 0.2])
    assert given.spec.mean == (0.1, 0.1, 0.1)
    assert "input as params.yaml has it" in given.taken


def test_heads_of_attention_leave_no_trace_in_shapes(tmp_path):
    six = ("vit_small_patch16_224", {**layouts.TINY, "num_heads": 6})
    torch.save(layouts.moco_v3_vit(state_of(six, layouts.moco_v3_vit)), tmp_path / "w.pth.tar")
    with pytest.raises(
        WeightsError,
        match="MoCo v3 at .* was trained with num_heads 12, and backbone.name makes a network with 6; the "
        "shapes "
        r"are equal, the results are not: set backbone.kwargs to \{num_heads: 12\}",
    ):
        backbone(six, tmp_path / "w.pth.tar", mean=list(IMAGENET[0]), std=list(IMAGENET[1]))


def test_the_activation_of_openai_leaves_none_either(tmp_path):
    torch.save(layouts.openai_clip(state_of(layouts.CLIP, layouts.openai_clip)), tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"act_layer quick_gelu, .* with gelu; .*\{act_layer: quick_gelu\}"
    ):
        backbone(layouts.CLIP, tmp_path / "w.pth")


def test_two_encoders_that_both_fit_are_not_guessed():
    plain = state_of(layouts.RESNET, None)
    state = layouts.before("one.", plain) | layouts.before("two.", layouts.other(plain))
    target = network(layouts.RESNET, 2)
    with pytest.raises(
        WeightsError, match="two encoders that both fit and differ, at 'one' and 'two'; save the one"
    ):
        load_encoder(target, state, "fc", "w.pth")
    twice = layouts.before("one.", plain) | layouts.before("two.", plain)
    load_encoder(target, twice, "fc", "w.pth")
    assert torch.equal(target.conv1.weight, plain["conv1.weight"])
    wrapped = plain | layouts.before("_orig_mod.", layouts.other(plain))
    with pytest.raises(WeightsError, match="two encoders that both fit"):
        load_encoder(target, wrapped, "fc", "w.pth")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "bn1.weight",
            float("nan"),
            "bn1.weight holds NaN or infinity: the training that wrote it had diverged",
        ),
        ("layer1.0.conv1.weight", float("inf"), "layer1.0.conv1.weight holds NaN or infinity"),
        ("layer2.0.conv1.weight", 0.0, "layer2.0.conv1.weight holds zeros alone: the file was cut short"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(name, value, text):
    state, target = state_of(layouts.RESNET, None), network(layouts.RESNET, 2)
    before = target.conv1.weight.clone()
    state[name].fill_(value)
    with pytest.raises(WeightsError, match=f"w.pth: {text}"):
        load_encoder(target, {"state_dict." + key: part for key, part in state.items()}, "fc", "w.pth")
    assert torch.equal(target.conv1.weight, before)


def test_biases_that_the_network_has_no_place_for_are_not_dropped():
    state = layouts.dinov3(state_of(layouts.DINOV3, None))
    state["blocks.1.attn.qkv.bias"] = torch.ones(72)
    with pytest.raises(WeightsError, match="unexpected: blocks.1.attn.qkv.bias"):
        load_encoder(network(layouts.DINOV3, 2), state, "head", "w.pth")


def test_a_first_convolution_for_grey_images_is_shared_among_the_colours_and_said():
    state, target = state_of(layouts.RESNET, None), network(layouts.RESNET, 2)
    grey = {**state, "conv1.weight": state["conv1.weight"][:, :1]}
    fit = load_encoder(target, grey, "fc", "w.pth")
    assert fit.changes == ["conv1.weight, for grey images, shared among red, green and blue"]
    images = torch.rand(1, 1, 32, 32).expand(1, 3, 32, 32)
    plain = torch.nn.functional.conv2d(images[:, :1], grey["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(target.conv1(images), plain)
    five = {**state, "conv1.weight": state["conv1.weight"][:, [0, 1, 2, 0, 1]]}
    with pytest.raises(
        WeightsError, match="these weights take images of 5 channels, .*; keep the channels of conv1"
    ):
        load_encoder(target, five, "fc", "w.pth")


def test_a_tuned_network_that_pools_the_mean_says_so():
    mean = ("vit_tiny_patch16_224", {**layouts.TINY, "global_pool": "avg"})
    state = state_of(mean, None)
    with pytest.raises(
        WeightsError, match=r"pool the mean of their tokens: set backbone.kwargs to \{global_pool: avg\}"
    ):
        load_encoder(network(layouts.VIT, 2), state, "head", "w.pth")
    plain = state_of(layouts.VIT, None)
    target = network(mean, 2)
    assert load_encoder(target, plain, "head", "w.pth").changes == [
        "norm, of the tokens, taken as fc_norm, of their mean"
    ]
    assert torch.equal(target.fc_norm.weight, plain["norm.weight"])


def test_parts_unknown_within_the_encoder_are_refused_with_the_way_out():
    state = state_of(layouts.RESNET, None) | {"adapter.weight": torch.ones(2)}
    with pytest.raises(
        WeightsError, match=r"unexpected: adapter.weight\n  remedy: every tensor of the encoder is there; if"
    ):
        load_encoder(network(layouts.RESNET, 2), state, "fc", "w.pth")


def test_the_moving_average_is_preferred_and_said(tmp_path):
    saved(tmp_path, "timm_training")
    state = read_checkpoint(tmp_path / "theirs.pth")
    fit = load_encoder(network(layouts.RESNET, 2), state, "fc", "w.pth")
    assert fit.origin == "the moving average of a training at state_dict_ema"
    assert left_out(fit, state) == ["state_dict", "state_dict_ema.fc"]


SLOW = [
    pytest.param("swin_t", "swin_tiny_patch4_window7_224", {}, marks=pytest.mark.slow),
    pytest.param("swin_v2_t", "swinv2_tiny_window8_256", {}, marks=pytest.mark.slow),
    pytest.param("densenet121", "densenet121", {}, marks=pytest.mark.slow),
    pytest.param("regnet_y_400mf", "regnety_004", {}, marks=pytest.mark.slow),
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
        torch.testing.assert_close(ours(images), seen[0], rtol=1e-5, atol=1e-6)


def test_torchvision_normalises_and_pads_otherwise_than_some_networks_of_timm():
    with torch.device("meta"):
        small = torchvision.models.mobilenet_v3_small(weights=None)
    state = {name: torch.ones(value.shape) for name, value in small.state_dict().items()}
    target = timm.create_model("mobilenetv3_small_100", num_classes=0)
    with pytest.raises(WeightsError, match=r"bn_eps 0.001, .* with 1e-05; .*\{bn_eps: 0.001\}"):
        load_encoder(target, state, "classifier", "w.pth")


def test_settings_beside_the_tensors_become_nothing(tmp_path):
    args = argparse.Namespace(lr=0.1, nested=argparse.Namespace(path=Path("x")))
    torch.save({"state_dict": {"a": torch.ones(2)}, "args": args, "hosts": {1, 2}}, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == ["state_dict.a"]
