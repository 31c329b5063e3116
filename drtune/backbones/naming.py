"""How libraries name the parts of the networks that timm has, too: a table of records, one a naming.

A record renames keys by regular expressions, one after the other, into the names of timm or of a code that
timm's own `checkpoint_filter_fn` knows. Queries, keys and values that stand apart are joined afterwards.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from drtune.backbones.wrappings import IMAGENET, MEAN, NOTHING, STD, Input

State = Mapping[str, Tensor]
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Naming:
    """Names of one library for one kind of network.

    Attributes:
        origin: whose names they are.
        marks: regular expressions; keys are named like this where each matches one.
        rules: regular expressions and what replaces them, applied in this order.
        input: what that library feeds to all its networks, as far as it does.
    """

    origin: str
    marks: tuple[str, ...]
    rules: Rules
    input: Input = NOTHING

    def rename(self, state: State) -> dict[str, Tensor] | None:
        """The state under new names; None where its keys are not named like this."""
        if not all(any(re.search(mark, key) for key in state) for mark in self.marks):
            return None
        renamed = {}
        for key, value in state.items():
            for rule, place in self.rules:
                key = re.sub(rule, place, key)
            renamed[key] = value
        return renamed


TORCHVISION = Input(MEAN, STD)
APART: Rules = (
    (r"\.(?:attention|self_attn)\.(?:attention\.|self\.)?q(?:uery|_proj)\.", ".attn.q."),
    (r"\.(?:attention|self_attn)\.(?:attention\.|self\.)?k(?:ey|_proj)\.", ".attn.k."),
    (r"\.(?:attention|self_attn)\.(?:attention\.|self\.)?v(?:alue|_proj)\.", ".attn.v."),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (
        r"\.(?:attention\.)?(?:attention\.|self\.)?(?:relative_position_bias\.)?(relative_position_bias_table|relative_position_index)$",
        r".attn.\1",
    ),
    (r"\.layer_?norm(?:_before|1)\.", ".norm1."),
    (r"\.layer_?norm(?:_after|2)\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
EMBEDDINGS: Rules = (
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
)
LAYERS: Rules = (
    (
        r"^(?:encoder\.relative_position_bias|shared_position_bias)\.(relative_position_\w+)$",
        r"rel_pos_bias|\1",
    ),
    (r"^(?:model\.|encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    *APART,
    (r"^rel_pos_bias\|", "rel_pos_bias."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"^(?:layernorm|post_layernorm)\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
)
DINOV3: Rules = ((r"^embeddings\.register_tokens$", "storage_tokens"), *EMBEDDINGS, *LAYERS)
NAMINGS = (
    Naming("timm", (), ()),
    Naming("DINOv2 in chunks", (r"^blocks\.\d+\.\d+\.",), ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)),
    # huggingface/transformers, models/{vit,deit,vit_mae,vit_msn,dinov2,beit,ijepa}/modeling_*.py
    Naming(
        "transformers",
        (r"^embeddings\.patch_embeddings\.", r"^(encoder\.)?layers?\.\d+\."),
        (
            *EMBEDDINGS,
            *LAYERS,
            (r"\.mlp\.(?:weights_in|gate_up)\.", ".mlp.w12."),
            (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
            (r"\.mlp\.gate_proj\.", ".mlp.w12a."),
            (r"\.mlp\.up_proj\.", ".mlp.w12b."),
        ),
    ),
    # the same, models/dinov3_vit/modeling_dinov3_vit.py; with and without a gate
    Naming(
        "transformers DINOv3",
        (r"^embeddings\.register_tokens$", r"^norm\.weight$", r"\.mlp\.gate_proj\."),
        (
            *DINOV3,
            (r"\.mlp\.gate_proj\.", ".mlp.w1."),
            (r"\.mlp\.up_proj\.", ".mlp.w2."),
            (r"\.mlp\.down_proj\.", ".mlp.w3."),
        ),
    ),
    Naming(
        "transformers DINOv3",
        (r"^embeddings\.register_tokens$", r"^norm\.weight$"),
        (
            *DINOV3,
            (r"\.mlp\.up_proj\.", ".mlp.fc1."),
            (r"\.mlp\.down_proj\.", ".mlp.fc2."),
        ),
    ),
    # the same, models/{clip,siglip}/modeling_*.py
    Naming(
        "transformers CLIP",
        (r"^embeddings\.position_embedding\.weight$", r"^encoder\.layers\.\d+\."),
        (
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^pre_layrnorm\.", "norm_pre."),
            *LAYERS,
            (r"^head\.probe$", "attn_pool.latent"),
            (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
            (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
            (r"^head\.layernorm\.", "attn_pool.norm."),
            (r"^head\.mlp\.", "attn_pool.mlp."),
        ),
    ),
    # the same, models/swin/modeling_swin.py; the names of microsoft/Swin-Transformer result
    Naming(
        "transformers Swin",
        (r"^encoder\.layers\.\d+\.blocks\.\d+\.",),
        (
            *EMBEDDINGS,
            (r"^encoder\.layers\.", "layers."),
            *APART,
            (r"^layernorm\.", "norm."),
        ),
    ),
    # the same, models/{convnext,convnextv2}/modeling_*.py; the names of facebookresearch/ConvNeXt result
    Naming(
        "transformers ConvNeXt",
        (r"^encoder\.stages\.\d+\.layers\.\d+\.dwconv\.",),
        (
            (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
            (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
            (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
            (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
            (r"\.layer_scale_parameter$", ".gamma"),
            (r"\.grn\.weight$", ".grn.gamma"),
            (r"\.grn\.bias$", ".grn.beta"),
            (r"\.layernorm\.", ".norm."),
            (r"^layernorm\.", "norm."),
        ),
    ),
    # the same, models/resnet/modeling_resnet.py
    Naming(
        "transformers ResNet",
        (r"^embedder\.embedder\.convolution\.",),
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            *((rf"^encoder\.stages\.{i}\.layers\.", f"layer{i + 1}.") for i in range(4)),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
            *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
        ),
    ),
    # pytorch/vision, torchvision/models/vision_transformer.py
    Naming(
        "torchvision",
        (r"^encoder\.layers\.encoder_layer_\d+\.",),
        (
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^class_token$", "cls_token"),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
            (r"^encoder\.ln\.", "norm."),
        ),
        TORCHVISION,
    ),
    # pytorch/vision, torchvision/models/swin_transformer.py
    Naming(
        "torchvision",
        (r"^features\.1\.0\.attn\.qkv\.",),
        (
            (r"^features\.0\.0\.", "patch_embed.proj."),
            (r"^features\.0\.2\.", "patch_embed.norm."),
            *((rf"^features\.{2 * i + 1}\.", f"layers.{i}.blocks.") for i in range(4)),
            *((rf"^features\.{2 * i}\.", f"layers.{i}.downsample.") for i in range(1, 4)),
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.3\.", ".mlp.fc2."),
        ),
        TORCHVISION,
    ),
    # open-mmlab/mmpretrain, mmpretrain/models/backbones/vision_transformer.py
    Naming(
        "mmpretrain",
        (r"^patch_embed\.projection\.", r"^layers\.\d+\.ffn\.layers\."),
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.(\d+)\.", r"blocks.\1."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"\.(?:gamma(\d)\.weight)$", r".ls\1.gamma"),
            (r"\.ln(\d)\.", r".norm\1."),
            (r"^(?:ln1|norm1)\.", "norm."),
        ),
        Input(MEAN, STD),
    ),
    # lightly-ai/lightly, examples/pytorch/moco.py: nn.Sequential(*list(resnet.children())[:-1])
    Naming(
        "torchvision, in nn.Sequential",
        (r"^4\.0\.conv1\.",),
        (
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            *((rf"^{i + 3}\.", f"layer{i}.") for i in range(1, 5)),
        ),
        IMAGENET,
    ),
)
"""In the order in which they are tried; the first that fits whole is taken."""


def joined(state: State, expected: State) -> dict[str, Tensor]:
    """The state with `attn.q.`, `attn.k.` and `attn.v.` as timm's `attn.qkv.`, and gates likewise.

    Where the keys have no bias, those of queries and values stay apart if timm has them so; they are left out
    if they are zero and timm has none; else zeros stand for that of the keys.
    """
    out = dict(state)
    for key in state:
        if key in expected:
            continue
        stem, dot, kind = key.rpartition(".q.")
        parts = [out.get(f"{stem}.{part}.{kind}") for part in "qkv"]
        if dot and parts[0] is not None and parts[2] is not None:
            for part in "qkv":
                out.pop(f"{stem}.{part}.{kind}", None)
            if parts[1] is None and kind == "bias" and f"{stem}.q_bias" in expected:
                out |= {f"{stem}.q_bias": parts[0], f"{stem}.v_bias": parts[2]}
            elif parts[1] is not None or f"{stem}.qkv.bias" in expected or parts[0].any() or parts[2].any():
                middle = torch.zeros_like(parts[0]) if parts[1] is None else parts[1]
                out[f"{stem}.qkv.{kind}"] = torch.cat([parts[0], middle, parts[2]])
        stem, dot, kind = key.rpartition("attn_pool.in_proj.")
        if dot:
            whole = out.pop(key)
            third = len(whole) // 3
            out |= {f"{stem}attn_pool.q.{kind}": whole[:third], f"{stem}attn_pool.kv.{kind}": whole[third:]}
        stem, dot, kind = key.rpartition(".w12a.")
        if dot and f"{stem}.w12b.{kind}" in out:
            out[f"{stem}.w12.{kind}"] = torch.cat([out.pop(key), out.pop(f"{stem}.w12b.{kind}")])
    return out
