"""`train` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, NonNegative, Positive, Settings, Size, Whole

BatchNormMode = Literal["train", "eval", "converted"]
Monitor = Literal["accuracy_1se", "accuracy", "loss", "last"]


class TrainSettings(Settings):
    """`train`: the loop every method runs in."""

    method: str
    seed: Whole
    epochs: Count
    batch_size: Size
    drop_last: bool
    optimizer: Literal["sgd", "adamw"]
    lr_backbone: Positive
    lr_head: Positive
    lr_head_unit: Literal["absolute", "feature"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    weight_decay: NonNegative
    decay_norm_and_bias: bool
    schedule: Literal["cosine", "linear", "constant"]
    schedule_every: Literal["step", "epoch"]
    warmup_epochs: NonNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: Positive | None
    batch_norm: BatchNormMode
    head_init: Literal["normal", "zero", "bank"]
    head_scale: Positive
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    wise_ft: Annotated[float, Field(gt=0, lt=1)] | None
    monitor: Monitor
    precision: Literal["auto", "no", "bf16", "fp16"]
    deterministic: bool
