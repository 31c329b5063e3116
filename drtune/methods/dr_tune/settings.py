"""`methods.dr_tune` in params.yaml."""

from typing import Literal

from drtune.base.settings import Count, Positive, Settings
from drtune.training.settings import TrainSettings


class DRTuneSettings(Settings):
    """`methods.dr_tune`; the paper's form and the code's: docs/methods.md."""

    weight: Positive | Literal["bank_over_batch"]
    loss_scale: Literal["sum", "mean"]
    bank: Literal["precomputed", "online"]
    bank_size: Count
    rows_per_step: Count | None
    normalize: bool
    rotation: Literal["proper", "orthogonal", "off"]
    rotation_center: bool
    rotation_every: Count
    rotation_between: Literal["keep", "none"]
    translation: bool
    confidence: Literal["cosine", "dot", "off"]
    temperature: Positive
    rescale: Literal["batch", "off"]

    def cross_faults(self, train: TrainSettings) -> list[tuple[str, str]]:
        """Faults that only show beside `train`."""
        if train.batch_size <= self.bank_size:
            return []
        text = f"exceeds methods.dr_tune.bank_size {self.bank_size}; a batch must fit in the ring"
        return [("train.batch_size", f"{train.batch_size} {text}")]
