"""Small networks of timm, and how to change the names of their tensors."""

import re

import timm
import torch

from drtune.backbones.settings import BackboneSettings
from drtune.backbones.zoo import build_backbone

RESNET = ("resnet26", {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)})
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
VIT = ("vit_tiny_patch16_224", TINY)
DINOV2 = ("vit_small_patch14_dinov2", TINY)
REGISTERS = ("vit_small_patch14_reg4_dinov2", TINY)
BEIT = ("beit_base_patch16_224", TINY)
CLIP = ("vit_base_patch32_clip_224", TINY)
QUICK = ("vit_base_patch32_clip_quickgelu_224", TINY)
DINOV3 = ("vit_small_patch16_dinov3", TINY)
QKVB = ("vit_small_patch16_dinov3_qkvb", TINY)
SMALL_STAGES = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}
CONVNEXT = ("convnext_tiny", SMALL_STAGES)
CONVNEXT2 = ("convnextv2_tiny", SMALL_STAGES)
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "window_size": 7, "img_size": 56},
)


def before(prefix, state):
    """Every key behind a prefix."""
    return {prefix + key: value for key, value in state.items()}


def other(state, seed=9):
    """Another encoder's numbers under the same names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value.clone()
        for key, value in state.items()
    }


def renamed(state, *rules):
    """Keys with regular expressions replaced, one after the other."""
    out = {}
    for key, value in state.items():
        for rule, place in rules:
            key = re.sub(rule, place, key)
        out[key] = value
    return out


def some(*names):
    """Small tensors under names, of heads and the like."""
    return {name: torch.full((3, 2), 0.5) for name in names}


def sequential(s):
    """The names of nn.Sequential(*list(resnet.children())[:-1])."""
    rules = [(r"^conv1\.", "0."), (r"^bn1\.", "1."), *((rf"^layer{i}\.", f"{i + 3}.") for i in range(1, 5))]
    return renamed(s, *rules)


def split(state, apart, names=("query", "key", "value")):
    """Queries, keys and values apart."""
    out = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            parts = value.chunk(3)
            out |= {
                key.replace("attn.qkv", apart.format(name)): part
                for name, part in zip(names, parts, strict=True)
            }
        else:
            out[key] = value
    return out


def network(architecture, seed):
    """A timm network of random numbers, statistics of norms among them."""
    name, arguments = architecture
    torch.manual_seed(seed)
    encoder = timm.create_model(name, num_classes=0, **arguments)
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.1)
    return encoder


def state_of(architecture):
    """The numbers of such a network; one table of relative positions in all blocks, as BEiT trains."""
    state = {name: value.clone() for name, value in network(architecture, 1).state_dict().items()}
    table = state.get("blocks.0.attn.relative_position_bias_table")
    return state | {
        name: table for name in state if name.startswith("blocks.") and name.endswith("_bias_table")
    }


def backbone(architecture, path, **change):
    """A backbone whose input nobody gives, with weights from a path."""
    name, arguments = architecture
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in (arguments or {}).items()
    }
    given = dict.fromkeys(("image_size", "mean", "std", "interpolation", "crop_fraction")) | {"seed": 0}
    settings = {"name": name, "kwargs": values or None, "weights": str(path)}
    return build_backbone(BackboneSettings(**settings | given | change))
