"""`methods.sp` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, NonNegative, Settings
from drtune.training.settings import TrainSettings


class SPSettings(Settings):
    """`methods.sp`."""

    penalty: Literal["l2_sp", "l2_sp_fisher", "l1_sp", "gl_sp", "gl_sp_fisher"]
    alpha: NonNegative
    beta: NonNegative
    half: bool
    parameters: Literal["weights_only", "all"]
    smoothing: Annotated[float, Field(ge=1e-30)]
    fisher_eps: NonNegative
    fisher_samples: Count

    @property
    def factor(self) -> float:
        """Of the squared terms."""
        return 0.5 if self.half else 1.0

    def cross_faults(self, train: TrainSettings) -> list[tuple[str, str]]:
        """Faults that only show beside `train`."""
        if train.head_init != "zero" or not self.penalty.endswith("fisher"):
            return []
        text = f"'zero' gives no gradient, so the Fisher information of methods.sp.penalty {self.penalty}"
        return [("train.head_init", f"{text} would be 0 for every weight; set bank, or another penalty")]
