"""Checkpoints as libraries of models name them."""

import argparse

import torch

from checkpoint_layouts.authors import dinov2_registers
from checkpoint_layouts.names import before, other, renamed, some, split


def facebook_convnext(
    s,
):  # facebookresearch/ConvNeXt: models/convnext.py; dinov3/models/convnext.py has the same names
    return renamed(
        s,
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc(\d)", r"pwconv\1"),
        (r"^head\.norm\.", "norm."),
    )


def convnext_training(s):  # facebookresearch/ConvNeXt: utils.py save_model
    return {
        "model": facebook_convnext(other(s)) | some("head.weight"),
        "model_ema": facebook_convnext(s) | some("head.weight"),
        "optimizer": {},
        "args": argparse.Namespace(model="convnext_tiny"),
    }


def openai_names(s):  # openai/CLIP: clip/model.py VisionTransformer; mlfoundations/open_clip: transformer.py
    state = renamed(
        s,
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
    state["class_embedding"] = state.pop("cls_token")[0, 0]
    state["positional_embedding"] = state.pop("pos_embed")[0]
    state["proj"] = torch.rand(24, 16)
    return state


TEXT = ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "text_projection", "logit_scale")


def open_clip(s):
    return before("visual.", openai_names(s)) | some(*TEXT)


def open_clip_training(s):
    return {"epoch": 32, "name": "run", "state_dict": before("module.", open_clip(s)), "optimizer": {}}


def openai_clip(s):  # the state dict of OpenAI's program
    sizes = {name: torch.tensor(77) for name in ("input_resolution", "context_length", "vocab_size")}
    return open_clip(s) | sizes


def open_clip_trunk(s):  # mlfoundations/open_clip: timm_model.py (trunk, head.proj)
    return before("visual.trunk.", s) | some("visual.head.proj.weight", *TEXT)


def hf_vit(s, apart="attention.attention.{}", out="attention.output.dense", layer="encoder.layer.", mlp=True):
    """huggingface/transformers: models/vit/modeling_vit.py; from version 5 on in memory as `hf_vit_5`."""
    fc = (".intermediate.dense.", ".output.dense.") if mlp else (".mlp.fc1.", ".mlp.fc2.")
    state = renamed(
        s,
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", layer),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", f".{out}."),
        (r"\.mlp\.fc1\.", fc[0]),
        (r"\.mlp\.fc2\.", fc[1]),
    )
    return split(state, apart)


def hf_vit_4(s):
    return before("vit.", hf_vit(s)) | some("classifier.weight", "vit.pooler.dense.weight")


def hf_vit_5(s):
    state = hf_vit(s, "attention.{}_proj", "attention.o_proj", "layers.", mlp=False)
    state = renamed(
        state, (r"\.query_proj", ".q_proj"), (r"\.key_proj", ".k_proj"), (r"\.value_proj", ".v_proj")
    )
    return before("vit.", state) | some("classifier.weight")


def hf_vit_mae(s):  # models/vit_mae/modeling_vit_mae.py
    parts = some(
        "decoder.mask_token",
        "decoder.decoder_embed.weight",
        "decoder.decoder_layers.0.layernorm_before.weight",
    )
    return before("vit.", hf_vit(s)) | parts


def hf_dinov2(s):  # models/dinov2/modeling_dinov2.py
    state = renamed(
        hf_vit(s, mlp=False),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    )
    return state | {"embeddings.mask_token": torch.zeros(1, 24)}


def hf_dinov2_registers(s):  # models/dinov2_with_registers
    state = dinov2_registers(s)
    state["reg_token"] = state.pop("register_tokens")
    state.pop("mask_token")
    return renamed(hf_dinov2(state), (r"^reg_token$", "embeddings.register_tokens"))


def hf_dinov3(s):  # models/dinov3_vit/modeling_dinov3_vit.py
    state = renamed(
        {key: value for key, value in s.items() if not key.startswith("rope.")},
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"^blocks\.", "layer."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.fc1\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
        (r"\.attn\.q_bias$", ".attention.q_proj.bias"),
        (r"\.attn\.v_bias$", ".attention.v_proj.bias"),
    )
    state = split(state, "attention.{}_proj", "qkv")
    return state | {"embeddings.mask_token": torch.zeros(1, 1, 24)}


def hf_beit(s):  # models/beit/modeling_beit.py, BeitForImageClassification
    state = renamed(
        hf_vit(s),
        (r"\.gamma_(\d)$", r".lambda_\1"),
        (r"^fc_norm\.", "pooler.layernorm."),
        (r"\.attn\.q_bias$", ".attention.attention.query.bias"),
        (r"\.attn\.v_bias$", ".attention.attention.value.bias"),
        (r"\.attn\.relative", ".attention.attention.relative_position_bias.relative"),
    )
    return before("beit.", state) | some("classifier.weight")


def hf_clip(s):  # models/clip/modeling_clip.py
    state = renamed(
        s,
        (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
        (r"^norm_pre\.", "pre_layrnorm."),
        (r"^norm\.", "post_layernorm."),
        (r"^blocks\.", "encoder.layers."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"\.attn\.proj\.", ".self_attn.out_proj."),
    )
    state["embeddings.class_embedding"] = state.pop("cls_token")[0, 0]
    state["embeddings.position_embedding.weight"] = state.pop("pos_embed")[0]
    state = split(state, "self_attn.{}_proj", "qkv")
    text = some("text_model.encoder.layers.0.layer_norm1.weight", "visual_projection.weight", "logit_scale")
    return before("vision_model.", state) | text


def hf_convnext(s):  # models/convnext/modeling_convnext.py, models/convnextv2/modeling_convnextv2.py
    state = renamed(
        s,
        (r"^stem\.0\.", "embeddings.patch_embeddings."),
        (r"^stem\.1\.", "embeddings.layernorm."),
        (r"^stages\.(\d)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
        (r"^stages\.(\d)\.blocks\.", r"encoder.stages.\1.layers."),
        (r"conv_dw", "dwconv"),
        (r"\.mlp\.grn\.", ".grn."),
        (r"mlp\.fc(\d)", r"pwconv\1"),
        (r"\.gamma$", ".layer_scale_parameter"),
        (r"(layers\.\d+)\.norm\.", r"\1.layernorm."),
        (r"^head\.norm\.", "layernorm."),
    )
    state = {key: value.view(1, 1, 1, -1) if ".grn." in key else value for key, value in state.items()}
    return before("convnext.", state) | some("classifier.weight")


def hf_resnet(s):  # models/resnet/modeling_resnet.py
    rules = [(rf"^layer{i + 1}\.", f"encoder.stages.{i}.layers.") for i in range(4)]
    rules += [(rf"(layers\.\d+)\.conv{i + 1}\.", rf"\1.layer.{i}.convolution.") for i in range(3)]
    rules += [(rf"(layers\.\d+)\.bn{i + 1}\.", rf"\1.layer.{i}.normalization.") for i in range(3)]
    rules += [(r"downsample\.0", "shortcut.convolution"), (r"downsample\.1", "shortcut.normalization")]
    rules += [
        (r"^conv1\.", "embedder.embedder.convolution."),
        (r"^bn1\.", "embedder.embedder.normalization."),
    ]
    return before("resnet.", renamed(s, *rules)) | some("classifier.1.weight")


def hf_swin(s):  # models/swin/modeling_swin.py
    state = renamed(microsoft_swin(s), (r"^layers\.", "encoder.layers."))
    state = renamed(
        state,
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
        (r"^norm\.", "layernorm."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.relative", ".attention.self.relative"),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"(blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    )
    return before("swin.", split(state, "attention.self.{}")) | some("classifier.weight")


def microsoft_swin(
    s,
):  # microsoft/Swin-Transformer: models/swin_transformer.py (downsample at the end of a stage)
    return renamed(s, (r"^layers\.1\.downsample", "layers.0.downsample"))


def torchvision_vit(s):  # pytorch/vision: torchvision/models/vision_transformer.py
    state = renamed(
        s,
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
    )
    return state | some("heads.head.weight", "heads.head.bias")


def mmpretrain(s):  # open-mmlab/mmpretrain: mmpretrain/models/backbones/vision_transformer.py
    state = renamed(
        s,
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^blocks\.", "layers."),
        (r"\.norm(\d)\.", r".ln\1."),
        (r"^norm\.", "ln1."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )
    return {"meta": {}, "state_dict": before("backbone.", state) | some("head.fc.weight", "neck.mask_token")}


def timm_training(s):  # huggingface/pytorch-image-models: timm/utils/checkpoint_saver.py
    return {
        "epoch": 3,
        "arch": "resnet26",
        "state_dict": other(s) | some("fc.weight"),
        "state_dict_ema": s | some("fc.weight"),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, mean=None),
        "metric": 71.2,
    }
