"""Published layouts, made as their authors write them, load like the plain timm state."""

import pytest
import torch
from checkpoint_layouts import LAYOUTS, saved
from checkpoint_layouts.names import (
    RESNET,
    before,
    network,
    other,
    state_of,
)

from drtune.backbones.fitting import left_out, load_encoder
from drtune.backbones.loading import classifier_of
from drtune.backbones.weights import read_checkpoint
from drtune.backbones.wrappings import WRAPPINGS, speaking
from drtune.base.errors import WeightsError


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_gives_the_numbers_of_the_plain_state(layout, tmp_path):
    architecture, make = LAYOUTS[layout]
    state, target, path = state_of(architecture), network(architecture, 2), tmp_path / "w.pth.tar"
    torch.save(make(dict(state)), path)
    load_encoder(target, read_checkpoint(path), classifier_of(target), "w")
    for name, value in target.state_dict().items():
        assert torch.equal(value, state[name]) or name.endswith("num_batches_tracked"), name


def test_two_encoders_that_both_fit_are_not_guessed():
    plain = state_of(RESNET)
    state = before("one.", plain) | before("two.", other(plain))
    target = network(RESNET, 2)
    with pytest.raises(
        WeightsError, match="two encoders that both fit and differ, at 'one' and 'two'; save the one"
    ):
        load_encoder(target, state, "fc", "w.pth")
    twice = before("one.", plain) | before("two.", plain)
    load_encoder(target, twice, "fc", "w.pth")
    assert torch.equal(target.conv1.weight, plain["conv1.weight"])
    wrapped = plain | before("_orig_mod.", other(plain))
    with pytest.raises(WeightsError, match="two encoders that both fit"):
        load_encoder(target, wrapped, "fc", "w.pth")


def test_the_moving_average_is_preferred_and_said(tmp_path):
    saved(tmp_path, "timm_training")
    state = read_checkpoint(tmp_path / "theirs.pth")
    fit = load_encoder(network(RESNET, 2), state, "fc", "w.pth")
    assert fit.origin == "the moving average of a training at state_dict_ema"
    assert left_out(fit, state) == ["state_dict", "state_dict_ema.fc"]


def test_every_record_says_where_it_comes_from_and_speaks_of_its_own_place():
    for record in WRAPPINGS:
        assert len(record.source) > 10, record
        assert record.prefix in ("", record.prefix.rstrip(".") + "."), record
        keys = [record.prefix + "conv1.weight", *record.marks]
        assert speaking(record.prefix, keys) is not None, record


@pytest.mark.parametrize(
    ("prefix", "keys", "origin"),
    [
        ("encoder.", ["encoder.a", "predictor.0.weight"], "SimSiam"),
        ("encoder.", ["encoder.a", "head.weight"], "this project"),
        ("encoder.", ["encoder.a"], None),
        ("target_encoder.", ["target_encoder.a", "encoder.a", "predictor.0.weight"], "I-JEPA, MSN"),
        ("momentum_backbone.", ["momentum_backbone.a", "classifier.weight"], None),
        ("backbone.", ["backbone.a", "projector.0.weight"], "Barlow Twins, VICReg"),
        ("backbone.", ["backbone.a", "projector.0.weight", "classifier.weight"], "solo-learn"),
        (
            "state_dict.",
            ["state_dict.mask_token", "state_dict.lm_head.weight", "state_dict.rel_pos_bias.a"],
            "BEiT",
        ),
        ("", ["visual.proj", "logit_scale", "logit_bias"], "OpenCLIP SigLIP"),
    ],
)
def test_the_record_that_speaks(prefix, keys, origin):
    found = speaking(prefix, keys)
    assert (found and found.origin) == origin
