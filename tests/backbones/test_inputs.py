"""Which input weights were trained on, by whoever can say so."""

import pytest
import torch
from checkpoint_layouts import authors
from checkpoint_layouts.names import (
    TINY,
    backbone,
    state_of,
)

from drtune.base.errors import WeightsError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_weights_of_another_origin_beside_a_name_without_a_tag(tmp_path):
    tiny = {**TINY}
    architecture = ("vit_small_patch16_224", tiny)
    state = state_of(architecture)
    torch.save(authors.dino(dict(state)), tmp_path / "dino.pth")
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
