"""Checkpoints as pre-training codes write them."""

import argparse

import torch

from checkpoint_layouts.names import before, other, renamed, sequential, some


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


def lightly_tutorial(s):  # lightly-ai/lightly: examples/pytorch/moco.py
    inner = sequential(s)
    state = before("backbone.", inner) | before("backbone_momentum.", other(inner))
    return state | some("projection_head.layers.0.weight")


def openselfsup(s):  # open-mmlab/OpenSelfSup: openselfsup/models/moco.py (nn.Sequential of backbone and neck)
    state = before("encoder_q.0.", s) | before("encoder_k.0.", other(s)) | before("backbone.", s)
    return {"meta": {}, "state_dict": state | some("encoder_q.1.mlp.0.weight", "head.weight")}


def simmim(s):  # microsoft/SimMIM: models/simmim.py (encoder, decoder)
    state = before("encoder.", s | {"mask_token": torch.rand(1, 1, 12)})
    return {"model": state | some("decoder.0.weight", "decoder.0.bias"), "config": {}}


def seasonal_contrast(s):  # ServiceNow/seasonal-contrast: models/moco2_module.py (encoder_q is a Sequential)
    inner = sequential(s)
    state = before("encoder_q.", inner) | before("encoder_k.", other(inner)) | some("heads_q.0.0.weight")
    return {"state_dict": state}


def vissl(s):  # facebookresearch/vissl: extra_scripts/convert_vissl_to_torchvision.py
    trunk = before("_feature_blocks.", s)
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": some("0.clf.0.weight")}}}}


def prefixed(prefix):
    """A module within another one, whose name no record knows."""
    return lambda s: {"state_dict": before(prefix, s) | some("some_loss.weight")}
