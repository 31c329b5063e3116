"""Linear probe: the encoder stays as pretrained (eval mode, no gradient), the head alone is trained.

L = -(1/B) sum_i log softmax_{y_i}( g(f_p(x_i)) ),   f_p frozen
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import nn
from torch.nn.functional import cross_entropy

from drtune import config
from drtune.config import TrainSettings
from drtune.data.batch import Batch
from drtune.methods.contract import LossTerms, Phase, Stateless


class LinearProbeSettings(config.Settings):
    """The linear probe has no settings of its own."""


class LinearProbe(Stateless):
    """Cross entropy on the head's parameters."""

    Settings: ClassVar[type[config.Settings]] = LinearProbeSettings

    def __init__(self, settings: LinearProbeSettings, train: TrainSettings) -> None:
        self.label_smoothing = train.label_smoothing

    def phases(self, epochs: int) -> Sequence[Phase]:
        """One phase over the head."""
        return [Phase("probe", epochs, trains="head")]

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Mean cross entropy of the batch."""
        _, logits = model(batch.images)
        return {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
