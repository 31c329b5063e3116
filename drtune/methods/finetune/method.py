"""Plain fine-tuning: cross entropy on the whole network; L2 comes from `train.weight_decay`.

L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) )
"""

from torch import nn
from torch.nn.functional import cross_entropy

from drtune.base.settings import Settings
from drtune.data.batch import Batch
from drtune.training.contract import LossTerms, Stateless
from drtune.training.settings import TrainSettings


class FineTune(Stateless):
    """Cross entropy on all parameters."""

    def __init__(self, settings: Settings, train: TrainSettings) -> None:
        self.label_smoothing = train.label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Mean cross entropy of the batch."""
        _, logits = model(batch.images)
        return {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
