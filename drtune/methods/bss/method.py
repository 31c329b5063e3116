"""BSS: cross entropy plus the smallest singular values of the batch's features.

    L = L_CE + eta sum_{i=1..k} sigma_{-i}(F)²,   F [B, D] the features of the batch

sigma_{-i} is the i-th smallest singular value: directions that carry next to nothing are thought not to
transfer, and are shrunk. Chen, Wang, Fu, Long, Wang, "Catastrophic Forgetting Meets Negative Transfer: Batch
Spectral Shrinkage for Safe Transfer Learning", NeurIPS 2019; official code thuml/Batch-Spectral-Shrinkage
BSS.py (`Net.forward`) at 5103c00, the same in thuml/Transfer-Learning-Library tllib/regularization/bss.py at
ff06720.
"""

import torch
from torch import Tensor, nn

from drtune.data.batch import Batch
from drtune.methods.bss.settings import BSSSettings
from drtune.training.contract import Loss, Method


def spectral_shrinkage(features: Tensor, k: int) -> Tensor:
    """Sum of the k smallest squared singular values of [B, D], float32; all where min(B, D) < k.

    Singular values, and not eigenvalues of the smaller Gram matrix, whose rounding error is a share of the
    largest one squared and would drown the smallest. The gradient, the sum of 2 sigma u vᵀ, stays finite for
    repeated and for zero singular values. Values that are not finite count as zero, because the factorisation
    refuses them; the cross entropy of the same features reports them.
    """
    finite = torch.nan_to_num(features.float(), nan=0.0, posinf=0.0, neginf=0.0)
    values: Tensor = torch.linalg.svdvals(finite)  # in descending order
    return values[-k:].square().sum()


class BSS(Method):
    """Batch spectral shrinkage of the features before the head.

    The sum is not divided by B, in the paper and here: it grows with the batch.
    """

    settings: BSSSettings

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Mean cross entropy of the batch, and the shrinkage of its features."""
        features, logits = model(batch.images)
        terms = {
            "cross_entropy": self.cross_entropy(logits, batch.labels),
            "shrinkage": spectral_shrinkage(features, self.settings.k),
        }
        return Loss(terms, {"shrinkage": self.settings.eta})
