"""Checkpoints as their authors' code writes them, made from the state of a timm network.

Every name here was copied by hand from the code that is named beside it, never from the tables in
`drtune/backbones`: those turn authors' names into timm's, these turn timm's into the authors'.
"""

import argparse
import re

import torch

RESNET = ("resnet26", {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)})
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
VIT = ("vit_tiny_patch16_224", TINY)
DINOV2 = ("vit_small_patch14_dinov2", TINY)
REGISTERS = ("vit_small_patch14_reg4_dinov2", TINY)
BEIT = ("beit_base_patch16_224", TINY)
CLIP = ("vit_base_patch32_clip_224", TINY)
QUICK = ("vit_base_patch32_clip_quickgelu_224", TINY)
GAP = ("vit_base_patch16_rpn_224", TINY)
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


def moco_v1(
    s,
):  # facebookresearch/moco: moco/builder.py (encoder_q, encoder_k, queue), main_moco.py: save_checkpoint
    state = before("encoder_q.", s | some("fc.weight", "fc.bias")) | before("encoder_k.", other(s))
    state |= {"queue": torch.rand(4, 9), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": before("module.", state),
        "optimizer": {"state": {}},
    }


def moco_v2(s):  # the same with an MLP in place of fc
    state = before("encoder_q.", s | some("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"))
    state |= before("encoder_k.", other(s)) | {"queue": torch.rand(4, 9)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": before("module.", state)}


def moco_without_ddp(s):
    return {"state_dict": before("encoder_q.", s) | before("encoder_k.", other(s))}


def moco_v3(
    s,
):  # facebookresearch/moco-v3: moco/builder.py (base_encoder, momentum_encoder, predictor), main_moco.py
    heads = some("fc.0.weight", "fc.1.weight", "fc.1.running_mean")
    state = before("base_encoder.", s | heads) | before("momentum_encoder.", other(s) | heads)
    return {"epoch": 300, "state_dict": before("module.", state | some("predictor.0.weight")), "scaler": {}}


def moco_v3_vit(s):
    heads = some("head.0.weight", "head.1.weight", "head.1.running_mean")
    state = before("base_encoder.", s | heads) | before("momentum_encoder.", other(s) | heads)
    return {
        "epoch": 300,
        "arch": "vit_small",
        "state_dict": before("module.", state | some("predictor.0.weight")),
    }


def simsiam(s):  # facebookresearch/simsiam: simsiam/builder.py (encoder, predictor)
    fc = some("fc.0.weight", "fc.1.weight", "fc.6.weight", "fc.6.bias")
    state = before("encoder.", s | fc) | some("predictor.0.weight", "predictor.3.weight")
    return {"epoch": 100, "arch": "resnet50", "state_dict": before("module.", state)}


def byol(
    s,
):  # sthalles/PyTorch-BYOL: trainer.py save_model, models/resnet_base_network.py (nn.Sequential of children)
    inner = sequential(s)
    return {
        "online_network_state_dict": before("encoder.", inner) | some("projetion.net.0.weight"),
        "target_network_state_dict": before("encoder.", other(inner)) | some("projetion.net.0.weight"),
        "optimizer_state_dict": {"state": {}},
    }


def swav(s):  # facebookresearch/swav: src/resnet50.py (projection_head, prototypes), main_swav.py:239
    return before(
        "module.", s | some("projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight")
    )


def swav_own(s):
    return {
        "epoch": 9,
        "state_dict": swav(s),
        "optimizer": {"state": {0: {"momentum_buffer": torch.rand(3)}}},
    }


def barlow(
    s,
):  # facebookresearch/barlowtwins: main.py:151 (model=model.state_dict(); backbone, projector, bn)
    state = before("backbone.", s) | some("projector.0.weight", "bn.running_mean")
    return {"epoch": 1000, "model": before("module.", state), "optimizer": {}}


def vicreg(s):  # facebookresearch/vicreg: main_vicreg.py:157
    return {
        "epoch": 9,
        "model": before("module.", before("backbone.", s) | some("projector.0.weight")),
        "optimizer": {},
    }


def dino(s):  # facebookresearch/dino: main_dino.py:278; utils.MultiCropWrapper (backbone, head)
    head = some("head.mlp.0.weight", "head.last_layer.weight_g")
    return {
        "student": before("module.", before("backbone.", other(s)) | head),
        "teacher": before("backbone.", s) | head,
        "optimizer": {"state": {0: {"exp_avg": torch.rand(5)}}, "param_groups": []},
        "epoch": 800,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def dino_backbone(s):  # facebookresearch/dino: hubconf.py
    return dict(s)


def ibot(s):  # bytedance/ibot: main_ibot.py:348; models/vision_transformer.py (masked_embed)
    masked = {"masked_embed": torch.rand(1, 24)}
    return {
        "student": before("module.backbone.", other(s) | masked),
        "teacher": before("backbone.", s | masked) | some("head.mlp.0.weight"),
        "ibot_loss": {"center": torch.zeros(1, 4)},
        "args": argparse.Namespace(arch="vit_small"),
    }


def ibot_extracted(s):  # bytedance/ibot: extract_backbone_weights.py
    return {"state_dict": s | {"masked_embed": torch.rand(1, 24)}}


def dinov2(s):  # facebookresearch/dinov2: hub/backbones.py; models/vision_transformer.py
    return s | {"mask_token": torch.zeros(1, 24)}


def dinov2_training(
    s,
):  # facebookresearch/dinov2: train/train.py:131; train/ssl_meta_arch.py (backbone, dino_head)
    return {
        "teacher": before("backbone.", dinov2(s))
        | some("dino_head.mlp.0.weight", "ibot_head.last_layer.weight_v")
    }


def dinov2_chunks(s):  # the same with block_chunks: blocks.CHUNK.BLOCK
    return {"teacher": before("backbone.", renamed(dinov2(s), (r"^blocks\.(\d+)", r"blocks.0.\1")))}


def dinov2_registers(s):  # the class token's place is in pos_embed; register_tokens
    state = dict(s)
    first = torch.zeros(1, 1, 24)  # cls_token + pos_embed[:, 0] is what timm keeps
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    return state | {"mask_token": torch.zeros(1, 24)}


def dinov3(s):  # facebookresearch/dinov3: models/vision_transformer.py, layers/{attention,block}.py
    state = renamed(
        s, (r"^reg_token$", "storage_tokens"), (r"\.gamma_(\d)$", r".ls\1.gamma"), (r"^rope\..*", "")
    )
    state.pop("", None)
    for block in range(2):
        state[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(72)
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(72)
    return state | {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.rand(3)}


def dinov3_biases(s):
    state = dinov3(
        {key: value for key, value in s.items() if not key.endswith(("q_bias", "v_bias", "k_bias"))}
    )
    for block in range(2):
        q, v = s[f"blocks.{block}.attn.q_bias"], s[f"blocks.{block}.attn.v_bias"]
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([q, torch.zeros(24), v])
    return state


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


def mae(s):  # facebookresearch/mae: the published mae_pretrain_vit_base.pth
    return {"model": dict(s)}


def mae_full(s):  # facebookresearch/mae: models_mae.py:36-58
    parts = some(
        "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_norm.weight", "decoder_pred.weight"
    )
    extra = {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.rand(1, 17, 16)}
    return {"model": s | parts | extra, "epoch": 799, "args": argparse.Namespace(lr=1e-3)}


def beit(s):  # microsoft/unilm: beit/modeling_pretrain.py; run_class_finetuning.py spreads the one table
    state = {k: v for k, v in s.items() if "relative_position" not in k and not k.startswith("fc_norm.")}
    state["rel_pos_bias.relative_position_bias_table"] = s["blocks.0.attn.relative_position_bias_table"]
    state["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.long)
    state |= {f"norm.{kind}": s[f"fc_norm.{kind}"] for kind in ("weight", "bias")}
    return {"model": state | some("lm_head.weight", "lm_head.bias") | {"mask_token": torch.zeros(1, 1, 24)}}


def beit_ft22k(s):  # the same, beit_base_patch16_224_pt22k_ft22k.pth
    index = {
        f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.long) for i in range(2)
    }
    return {"model": s | index | some("head.weight", "head.bias")}


def ijepa(s):  # facebookresearch/ijepa: src/train.py:249
    return {
        "encoder": before("module.", other(s)),
        "predictor": before("module.", some("predictor_embed.weight", "mask_token")),
        "target_encoder": before("module.", s),
        "opt": {"state": {0: {"exp_avg": torch.rand(5)}}},
        "epoch": 300,
    }


def solo_learn(s):  # vturrisi/solo-learn: solo/methods/base.py:193, 210, 643; byol.py (projector, predictor)
    state = before("backbone.", s) | before("momentum_backbone.", other(s))
    state |= some("classifier.weight", "classifier.bias", "projector.0.weight", "momentum_projector.0.weight")
    return {"epoch": 99, "pytorch-lightning_version": "2.1", "state_dict": state, "callbacks": {}}


def solo_learn_old(s):  # main_linear.py:74-84: older files have encoder for backbone
    return {"state_dict": before("encoder.", s) | some("classifier.weight", "projector.0.weight")}


def lightly_benchmark(s):  # lightly-ai/lightly: benchmarks/imagenet/resnet50/mocov2.py:32-42
    state = before("backbone.", s) | before("key_backbone.", other(s))
    heads = some("projection_head.layers.0.weight", "key_projection_head.layers.0.weight")
    return {
        "state_dict": state | heads | some("online_classifier.classification_head.weight"),
        "global_step": 9,
    }


def lightly_dino(s):  # lightly-ai/lightly: examples/pytorch/dino.py:24-29
    state = before("student_backbone.", other(s)) | before("teacher_backbone.", s)
    return state | some("student_head.layers.0.weight", "teacher_head.layers.0.weight")


def sequential(s):
    """The names of nn.Sequential(*list(resnet.children())[:-1])."""
    rules = [(r"^conv1\.", "0."), (r"^bn1\.", "1."), *((rf"^layer{i}\.", f"{i + 3}.") for i in range(1, 5))]
    return renamed(s, *rules)


def lightly_tutorial(s):  # lightly-ai/lightly: examples/pytorch/moco.py
    inner = sequential(s)
    state = before("backbone.", inner) | before("backbone_momentum.", other(inner))
    return state | some("projection_head.layers.0.weight")


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


def vissl(s):  # facebookresearch/vissl: extra_scripts/convert_vissl_to_torchvision.py
    trunk = before("_feature_blocks.", s)
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": some("0.clf.0.weight")}}}}


def prefixed(prefix):
    """A module within another one, whose name no record knows."""
    return lambda s: {"state_dict": before(prefix, s) | some("some_loss.weight")}


LAYOUTS = {
    **{
        f"{made.__name__}": (RESNET, made)
        for made in (moco_v1, moco_v2, moco_without_ddp, moco_v3, simsiam, byol)
    },
    **{
        f"{made.__name__}": (RESNET, made)
        for made in (swav, swav_own, barlow, vicreg, solo_learn, solo_learn_old)
    },
    **{
        f"{made.__name__}": (RESNET, made)
        for made in (lightly_benchmark, lightly_tutorial, lightly_dino, hf_resnet)
    },
    **{f"{made.__name__}": (RESNET, made) for made in (timm_training, vissl)},
    "dino_resnet": (RESNET, dino),
    **{
        f"{made.__name__}": (VIT, made) for made in (dino, dino_backbone, ibot, ibot_extracted, mae, mae_full)
    },
    **{
        f"{made.__name__}": (VIT, made)
        for made in (hf_vit_4, hf_vit_5, hf_vit_mae, torchvision_vit, mmpretrain)
    },
    "lightly_vit": (VIT, prefixed("backbone.vit.")),
    "moco_v3_vit": ((VIT[0], {**TINY, "num_heads": 12}), moco_v3_vit),
    **{f"{made.__name__}": (DINOV2, made) for made in (dinov2, dinov2_training, dinov2_chunks, hf_dinov2)},
    **{f"{made.__name__}": (REGISTERS, made) for made in (dinov2_registers, hf_dinov2_registers)},
    **{f"{made.__name__}": (DINOV3, made) for made in (dinov3, hf_dinov3)},
    "dinov3_biases": (QKVB, dinov3_biases),
    "hf_dinov3_biases": (QKVB, hf_dinov3),
    **{f"{made.__name__}": (BEIT, made) for made in (beit, beit_ft22k, hf_beit)},
    "ijepa": (("vit_huge_patch14_gap_224", TINY), ijepa),
    **{f"{made.__name__}": (CLIP, made) for made in (open_clip, open_clip_training, hf_clip)},
    "openai_clip": (QUICK, openai_clip),
    "open_clip_trunk": (VIT, open_clip_trunk),
    **{f"{made.__name__}": (CONVNEXT, made) for made in (facebook_convnext, convnext_training, hf_convnext)},
    "hf_convnext_2": (CONVNEXT2, hf_convnext),
    **{f"{made.__name__}": (SWIN, made) for made in (microsoft_swin, hf_swin)},
    "compiled": (RESNET, lambda s: before("_orig_mod.", s)),
    "compiled_lightning": (RESNET, lambda s: {"state_dict": before("model._orig_mod.", s)}),
    "fsdp": (
        RESNET,
        lambda s: {"model": renamed(s, (r"^layer(\d)\.0\.", r"layer\1.0._fsdp_wrapped_module."))},
    ),
    **{name: (RESNET, prefixed(name)) for name in ("model.", "net.", "timm_model.", "module.model.f.")},
}
"""Name of a layout -> (name and arguments of timm's network, what makes the checkpoint of its state)."""
