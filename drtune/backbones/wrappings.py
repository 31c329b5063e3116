"""Where pre-training codes keep the encoder in their files, and what it saw: a table, one record a layout.

The loader finds an encoder at any place of a file by itself (`fitting.py`). A record adds what the file
cannot say: which of several encoders is meant, what beside it belongs to the pre-training alone, which input
the encoder was trained on, and what of its architecture leaves no trace in shapes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Input:
    """What a code feeds to an encoder; None where it does not say.

    Attributes:
        mean: of the RGB values in 0..1.
        std: likewise.
        interpolation: of the resizing, `nearest`, `bilinear` or `bicubic`.
        crop_fraction: share of the shorter side that its evaluation keeps.
        size: px.
    """

    mean: Three | None = None
    std: Three | None = None
    interpolation: str | None = None
    crop_fraction: float | None = None
    size: int | None = None


NOTHING = Input()


@dataclass(frozen=True)
class Wrapping:
    """The layout of one code's files.

    Attributes:
        origin: the code that writes files like this.
        prefix: where the encoder is: names of mappings and modules, joined with dots; `module` and the like,
            which wrappers for several GPUs and compilation add, are left out.
        source: the lines of that code that say so.
        marks: parts of keys that must be there as well before the record speaks.
        beside: beginnings of keys, from where `prefix` begins, that are other encoders or belong to the
            pre-training alone.
        input: what the encoder was trained on.
        demands: arguments of the architecture that shapes do not show.
    """

    origin: str
    prefix: str
    source: str
    marks: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    input: Input = NOTHING
    demands: Mapping[str, Any] = field(default_factory=dict)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Input(MEAN, STD, "bilinear", 0.875, 224)
BICUBIC = Input(MEAN, STD, "bicubic", 0.875, 224)
CLIP = Input((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic", 1.0, 224)
HALVES = Input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9, 224)

WRAPPINGS = (
    Wrapping("this project", "encoder.", "drtune/backbones/classifier.py", ("head.weight",), ("head.",)),
    Wrapping(
        "MoCo, PCL, HCSC, DenseCL",
        "encoder_q.",
        "facebookresearch/moco main_lincls.py:162-173; salesforce/PCL eval_cls_imagenet.py:168-180",
        beside=("encoder_k.", "queue"),
        input=IMAGENET,
    ),
    Wrapping(
        "MoCo v3",
        "base_encoder.",
        "facebookresearch/moco-v3 main_lincls.py:178-186, 267-293; vits.py:86-113",
        beside=("momentum_encoder.", "predictor."),
        input=IMAGENET,
        demands={"num_heads": 12},
    ),
    Wrapping(
        "SimSiam",
        "encoder.",
        "facebookresearch/simsiam main_lincls.py:170-180",
        ("predictor.0.",),
        ("predictor.",),
        IMAGENET,
    ),
    Wrapping(
        "InfoMin, PyContrast",
        "encoder.",
        "HobbitLong/PyContrast linear_trainer.py:53-71",
        ("head",),
        ("head", "jig"),
        IMAGENET,
    ),
    Wrapping(
        "SwAV, DeepCluster-v2, SeLa",
        "",
        "facebookresearch/swav eval_linear.py:150-165, main_swav.py:239-243",
        ("projection_head.", "prototypes."),
        ("projection_head.", "prototypes."),
        IMAGENET,
    ),
    *(
        Wrapping(
            "solo-learn",
            f"{name}.",
            "vturrisi/solo-learn main_linear.py:74-84, solo/methods/base.py:193, 643",
            ("classifier.weight",),
            (f"momentum_{name}.", "classifier.", "momentum_classifier."),
            IMAGENET,
        )
        for name in ("backbone", "encoder")
    ),
    Wrapping(
        "Barlow Twins, VICReg",
        "backbone.",
        "facebookresearch/barlowtwins main.py:151; facebookresearch/vicreg main_vicreg.py:157-164",
        ("projector.",),
        ("projector.", "bn."),
        IMAGENET,
    ),
    *(
        Wrapping(
            "DINO, iBOT, EsViT, DINOv2",
            f"teacher.{within}",
            "facebookresearch/dino main_dino.py:278, eval_linear.py:66-69; bytedance/ibot main_ibot.py:348; "
            "facebookresearch/dinov2 dinov2/train/train.py:131",
            ("head.",),
            ("student.",),
            BICUBIC,
        )
        for within in ("backbone.", "")
    ),
    *(
        Wrapping("a teacher", f"teacher.{within}", "codes after DINO that keep no head", beside=("student.",))
        for within in ("backbone.", "")
    ),
    Wrapping("iBOT", "", "bytedance/ibot models/vision_transformer.py:172", ("masked_embed",), input=BICUBIC),
    Wrapping(
        "DINOv2",
        "",
        "facebookresearch/dinov2 dinov2/models/vision_transformer.py, dinov2/data/transforms.py",
        ("mask_token", "blocks.0.ls1.gamma", "pos_embed"),
        input=Input(MEAN, STD, "bicubic", 0.875),
    ),
    Wrapping(
        "DINOv3",
        "",
        "facebookresearch/dinov3 dinov3/models/vision_transformer.py; MODEL_CARD.md",
        ("storage_tokens", "rope_embed.periods"),
        input=Input(MEAN, STD, "bicubic", 1.0),
    ),
    Wrapping(
        "MAE",
        "",
        "facebookresearch/mae models_mae.py:36-58, main_finetune.py:237, util/datasets.py",
        ("decoder_embed.", "mask_token"),
        ("decoder_",),
        BICUBIC,
    ),
    Wrapping(
        "BEiT",
        "",
        "microsoft/unilm beit/modeling_pretrain.py, beit/run_class_finetuning.py:337-349, beit/datasets.py",
        ("mask_token", "lm_head.", "rel_pos_bias."),
        input=HALVES,
    ),
    Wrapping(
        "BEiT v2",
        "",
        "microsoft/unilm beit2/modeling_pretrain.py, beit2/README.md",
        ("mask_token", "lm_head.", "rel_pos_bias.", "cls_pt_layers."),
        ("cls_pt_layers.",),
        BICUBIC,
    ),
    Wrapping(
        "I-JEPA, MSN",
        "target_encoder.",
        "facebookresearch/ijepa src/train.py:249-254, src/transforms.py:26; facebookresearch/msn",
        beside=("encoder.", "predictor.", "opt.", "prototypes"),
        input=BICUBIC,
    ),
    Wrapping(
        "lightly",
        "backbone.",
        "lightly-ai/lightly benchmarks/imagenet/resnet50/*.py, examples/pytorch/*.py",
        ("projection_head",),
        ("student_backbone.", "teacher_backbone.", "key_backbone.", "backbone_momentum."),
        IMAGENET,
    ),
    Wrapping(
        "lightly",
        "teacher_backbone.",
        "lightly-ai/lightly examples/pytorch/dino.py:24-29",
        ("student_backbone.", "teacher_head."),
        ("student_backbone.",),
        IMAGENET,
    ),
    # one network and its moving average, under the names that codes and libraries give them
    *(
        Wrapping(origin, f"{one}.", source, (f"{other}.",), (f"{other}.",), feeds)
        for origin, one, other, feeds, source in (
            ("OpenSelfSup", "encoder_q.0", "encoder_k", IMAGENET, "open-mmlab/OpenSelfSup moco.py"),
            ("OpenSelfSup", "online_net.0", "target_net", IMAGENET, "open-mmlab/OpenSelfSup byol.py"),
            ("mmselfsup", "backbone", "encoder_k", IMAGENET, "open-mmlab/mmselfsup moco.py"),
            ("mmselfsup", "backbone", "target_net", IMAGENET, "open-mmlab/mmselfsup byol.py"),
            ("PixPro", "encoder", "encoder_k", IMAGENET, "zdaxie/PixPro contrast/models/PixPro.py"),
            ("BYOL in PyTorch", "online_encoder.net", "target_encoder", NOTHING, "lucidrains/byol-pytorch"),
        )
    ),
    Wrapping(
        "SimMIM",
        "encoder.",
        "microsoft/SimMIM models/simmim.py, data/data_simmim.py",
        ("decoder.0.", "encoder.mask_token"),
        ("decoder.",),
        BICUBIC,
    ),
    Wrapping(
        "BYOL in PyTorch",
        "online_network_state_dict.encoder.",
        "sthalles/PyTorch-BYOL trainer.py: save_model, models/resnet_base_network.py",
        ("target_network_state_dict.",),
        ("target_network_state_dict.",),
    ),
    Wrapping(
        "OpenAI CLIP",
        "",
        "openai/CLIP clip/model.py: QuickGELU, build_model; clip/clip.py: _transform",
        ("visual.", "input_resolution"),
        input=CLIP,
        demands={"act_layer": "quick_gelu"},
    ),
    Wrapping(
        "OpenCLIP",
        "",
        "mlfoundations/open_clip src/open_clip/transformer.py, src/open_clip/constants.py",
        ("visual.", "logit_scale"),
        input=CLIP,
    ),
    Wrapping(
        "OpenCLIP SigLIP",
        "",
        "mlfoundations/open_clip src/open_clip/pretrained.py: _slpcfg",
        ("visual.", "logit_scale", "logit_bias"),
        input=Input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0),
    ),
    # the moving average, where a code keeps one beside the weights themselves
    *(
        Wrapping(
            "the moving average of a training",
            f"{average}.",
            "huggingface/pytorch-image-models timm/models/_helpers.py: load_state_dict; "
            "facebookresearch/ConvNeXt utils.py",
            beside=("model.", "state_dict.", "model_state_dict.", "net.", "optimizer."),
        )
        for average in ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
    ),
)

ON_TOP = (
    "head", "heads", "head_dist", "heads_dist", "aux_head", "fc", "classifier", "online_classifier", "linear",
    "lm_head", "proj", "projector", "projection", "projection_head", "proj_head", "projection_mlp",
    "predictor", "prediction_head", "prototypes", "decoder", "mlp_head", "contrast_head", "dino_head",
    "ibot_head", "pooler", "mask_token", "masked_embed", "queue", "queue_ptr", "AuxLogits",
    "relative_coords_table",
)  # fmt: skip
"""Parts that stand on an encoder or serve its pre-training; none of them shapes a pooled feature."""


def speaking(prefix: str, keys: Iterable[str]) -> Wrapping | None:
    """The record of the encoder at `prefix` of a file with these keys; of several, the one with most marks.

    Args:
        prefix: without the names that wrappers add.
        keys: likewise.
    """
    keys = list(keys)

    def speaks(record: Wrapping) -> bool:
        base = base_of(record, prefix)
        inner = [key.removeprefix(base or "") for key in keys if key.startswith(base or "")]
        at_place = base is not None and base[-1:] in ("", ".")
        return at_place and all(any(mark in key for key in inner) for mark in record.marks)

    found = [record for record in WRAPPINGS if speaks(record)]
    return max(found, key=lambda record: (len(record.prefix) > 0, len(record.marks)), default=None)


def base_of(record: Wrapping, prefix: str) -> str | None:
    """What stands before the record's own prefix; None where it is another place."""
    return prefix.removesuffix(record.prefix) if prefix.endswith(record.prefix) else None
