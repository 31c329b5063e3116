"""DAFT: batch norms converted to the target data before the first step, and a head that starts at zero.

L = -(1/B) sum_i log softmax_{y_i}( g(f(x_i)) ),   f with converted batch norms, g = 0 at the start

Ha, Jeong, Lee, "Domain-Aware Fine-Tuning", AAAI 2024 (arXiv 2308.07728); official code hsh1108/DAFT at
7e53240: conversion in utils/transfer.py:11-60, head and learning rates in ft_sgd.py:193-200. The conversion
stands in `drtune/backbones/batch_norm.py`.
"""

from collections.abc import Iterable

from torch import nn

from drtune.backbones.batch_norm import convert_batch_norms, convertible
from drtune.backbones.classifier import unwrapped
from drtune.banks.bank import FeatureBank
from drtune.base.errors import TrainingError
from drtune.data.batch import Batch
from drtune.methods.daft.settings import DAFTSettings
from drtune.training.contract import Method


class DAFT(Method):
    """Cross entropy after batch norm conversion; linear probing and fine-tuning in one.

    The zero head sends no gradient into the encoder at first, and learns at a rate of its own,
    `train.lr_head`, far above the encoder's in the official recipe. Of the settings released with the code,
    those of phase 1 leave out the conversion and keep batch norm in eval mode; phase 2 has both, as here.
    """

    settings: DAFTSettings

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Convert the encoder's batch norms in one pass over the images.

        A resumed training converts again, to the same values, before its checkpoint replaces them.

        Raises:
            TrainingError: the encoder has no batch norm to convert.
        """
        encoder = unwrapped(model).encoder
        if not convertible(encoder):
            raise TrainingError(
                f"train.method: daft converts batch norm layers, and the backbone ({type(encoder).__name__}) "
                "has none with running statistics, weight and bias; choose lp_ft or finetune, which do "
                "without, or a backbone with batch norm"
            )
        convert_batch_norms(encoder, (batch.images for batch in batches), self.settings.statistics)
