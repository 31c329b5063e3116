"""Linear probe: the encoder stays as pretrained (eval mode, no gradient), the head alone is trained.

L = -(1/B) sum_i log softmax_{y_i}( g(f_p(x_i)) ),   f_p frozen
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.functional import cross_entropy

from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.training.contract import LossTerms, Phase, Stateless
from drtune.training.settings import TrainSettings


class LinearProbe(Stateless):
    """Cross entropy on the head's parameters."""

    def __init__(self, settings: Settings, train: TrainSettings) -> None:
        self.label_smoothing = train.label_smoothing

    def phases(self, epochs: int) -> Sequence[Phase]:
        """One phase over the head."""
        return [Phase("probe", epochs, trains="head")]

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Mean cross entropy of the batch."""
        _, logits = model(batch.images)
        return {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
