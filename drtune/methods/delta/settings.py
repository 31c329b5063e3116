"""`methods.delta` in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from drtune.base.settings import Count, NonNegative, Positive, Settings
from drtune.training.settings import TrainSettings


class DELTASettings(Settings):
    """`methods.delta`."""

    layers: Literal["auto"] | Annotated[list[str], Field(min_length=1)]
    alpha: Positive
    beta: NonNegative
    channel_weights: Literal["uniform", "loss"]
    attention_batches: Count
    reduction: Literal["sum", "mean"]

    def cross_faults(self, train: TrainSettings) -> list[tuple[str, str]]:
        """Faults that only show beside `train`."""
        if self.channel_weights == "uniform" or train.head_init == "bank":
            return []
        need = "needs a head that classifies already, to see which channels the loss rises without"
        remedy = "set train.head_init: bank, or methods.delta.channel_weights: uniform"
        found = f"loss {need}; train.head_init is {train.head_init}"
        return [("methods.delta.channel_weights", f"{found}: {remedy}")]
