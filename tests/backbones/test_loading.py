"""What was taken of a file is said in one line."""

import pytest
import torch
from checkpoint_layouts import saved
from checkpoint_layouts.names import (
    backbone,
)

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
