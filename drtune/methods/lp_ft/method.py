"""LP-FT: first a linear probe, solved; then fine-tuning of everything from that head.

    1. head = argmin over linear g of the regularised cross entropy of g(f_p(x)), f_p the pretrained encoder
    2. L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) ), f from f_p, g from that head

Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022 (arXiv 2202.10054); official code AnanyaKumar/transfer_learning at 13c3e2b.
Step 1 is `train.head_init: bank`: `drtune/training/head_start.py` solves it before the first step.
"""

from torch import nn
from torch.nn.functional import cross_entropy

from drtune.data.batch import Batch
from drtune.methods.lp_ft.settings import LPFTSettings
from drtune.training.contract import LossTerms, Stateless
from drtune.training.settings import TrainSettings


class LPFT(Stateless):
    """Cross entropy on all parameters, from the solved head on."""

    Settings = LPFTSettings

    def __init__(self, settings: LPFTSettings, train: TrainSettings) -> None:
        self.label_smoothing = train.label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Mean cross entropy of the batch."""
        _, logits = model(batch.images)
        return {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}
