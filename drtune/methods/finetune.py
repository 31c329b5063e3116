"""Plain fine-tuning: cross entropy on the whole network; L2 comes from `train.weight_decay`.

L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) )
"""

from typing import ClassVar

from torch import nn
from torch.nn.functional import cross_entropy

from drtune import config
from drtune.config import TrainSettings
from drtune.data.batch import Batch
from drtune.methods.contract import LossTerms, Stateless


class FineTuneSettings(config.Settings):
    """Plain fine-tuning has no settings of its own."""


class FineTune(Stateless):
    """Cross entropy on all parameters."""

    Settings: ClassVar[type[config.Settings]] = FineTuneSettings

    def __init__(self, settings: FineTuneSettings, train: TrainSettings) -> None:
        self.label_smoothing = train.label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Mean cross entropy of the batch."""
        _, logits = model(batch.images)
        return {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
