"""Checkpoints as their authors' code writes them, made from the state of a timm network.

Every name here was copied by hand from the code that is named beside it, never from the tables in
`drtune/backbones`: those turn authors' names into timm's, these turn timm's into the authors'.
"""

import torch

from checkpoint_layouts import authors as a
from checkpoint_layouts import libraries as l
from checkpoint_layouts.names import (
    BEIT,
    CLIP,
    CONVNEXT,
    CONVNEXT2,
    DINOV2,
    DINOV3,
    QKVB,
    QUICK,
    REGISTERS,
    RESNET,
    SWIN,
    TINY,
    VIT,
    before,
    other,
    renamed,
    state_of,
)  # fmt: skip

GROUPS = [
    (RESNET, [a.moco_v1, a.moco_v2, a.moco_without_ddp, a.moco_v3, a.simsiam, a.byol, a.swav, a.swav_own]),
    (RESNET, [a.barlow, a.vicreg, a.solo_learn, a.solo_learn_old, a.lightly_benchmark, a.lightly_tutorial]),
    (RESNET, [a.openselfsup, a.seasonal_contrast]),
    (SWIN, [a.simmim]),
    (RESNET, [a.lightly_dino, a.vissl, l.timm_training, l.hf_resnet]),
    (VIT, [a.dino, a.dino_backbone, a.ibot, a.ibot_extracted, a.mae, a.mae_full, l.hf_vit_4, l.hf_vit_5]),
    (VIT, [l.hf_vit_mae, l.torchvision_vit, l.mmpretrain, l.open_clip_trunk]),
    (DINOV2, [a.dinov2, a.dinov2_training, a.dinov2_chunks, l.hf_dinov2]),
    (REGISTERS, [a.dinov2_registers, l.hf_dinov2_registers]),
    (DINOV3, [a.dinov3, l.hf_dinov3]),
    (BEIT, [a.beit, a.beit_ft22k, l.hf_beit]),
    (CLIP, [l.open_clip, l.open_clip_training, l.hf_clip]),
    (QUICK, [l.openai_clip]),
    (CONVNEXT, [l.facebook_convnext, l.convnext_training, l.hf_convnext]),
    (SWIN, [l.microsoft_swin, l.hf_swin]),
    (("vit_huge_patch14_gap_224", TINY), [a.ijepa]),
]
LAYOUTS = {
    **{made.__name__: (architecture, made) for architecture, group in GROUPS for made in group},
    "student and teacher": (RESNET, lambda s: {"student": before("module.", other(s)), "teacher": s}),
    "dino_resnet": (RESNET, a.dino),
    "dinov3_biases": (QKVB, a.dinov3_biases),
    "hf_dinov3_biases": (QKVB, l.hf_dinov3),
    "hf_convnext_2": (CONVNEXT2, l.hf_convnext),
    "moco_v3_vit": ((VIT[0], {**TINY, "num_heads": 12}), a.moco_v3_vit),
    "lightly_vit": (VIT, a.prefixed("backbone.vit.")),
    "compiled": (RESNET, lambda s: before("_orig_mod.", s)),
    "compiled_lightning": (RESNET, lambda s: {"state_dict": before("model._orig_mod.", s)}),
    "fsdp": (RESNET, lambda s: renamed(s, (r"^(layer\d)\.0\.", r"\1.0._fsdp_wrapped_module."))),
    **{name: (RESNET, a.prefixed(name)) for name in ("model.", "net.", "timm_model.", "module.model.f.")},
}
"""Name of a layout -> (name and arguments of timm's network, what makes the checkpoint of its state)."""


def saved(tmp_path, layout):
    """A checkpoint of a layout, and a timm state dict of the same numbers, as files."""
    architecture, make = LAYOUTS[layout]
    state = state_of(architecture)
    torch.save(make(dict(state)), tmp_path / "theirs.pth")
    torch.save(state, tmp_path / "plain.pth")
    return architecture
