"""Supervised contrastive fine-tuning: images of one class are pulled together beside the cross entropy.

    L     = (1 - lambda) L_CE + lambda L_SCL
    L_SCL = -(1/B) sum_i 1/|P(i)| sum_{j in P(i)} log( exp(u_i.u_j / tau) / sum_{k != i} exp(u_i.u_k / tau) )

Mix: Gunel, Du, Conneau, Stoyanov, "Supervised Contrastive Learning for Pre-trained Language Model
Fine-tuning", ICLR 2021 (arXiv 2011.01403). L_SCL: L_out^sup of Khosla et al., "Supervised Contrastive
Learning", NeurIPS 2020 (arXiv 2004.11362), Eq. 2. u is the feature, or its projection, at unit length.
"""

from collections.abc import Iterable

from torch import nn

from drtune.backbones.classifier import unwrapped
from drtune.backbones.projection import projection_head
from drtune.banks.bank import FeatureBank
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.supcon.settings import SupConSettings
from drtune.training.contract import Loss, Method
from drtune.training.losses import not_self, similarities, supervised_contrast, unit_rows


class SupCon(Method):
    """Cross entropy and a supervised contrastive loss on one view of each image.

    Khosla et al. contrast two views of every image, so that each has a positive. Here, as in Gunel et al.,
    the positives of an image are the other images of its class in the batch. One that has none adds nothing
    but counts in the mean, so that a rare pair weighs the same in every batch.
    """

    settings: SupConSettings
    projector: nn.Module

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Make the projection head: D - D - projection_dim, or none."""
        head, dim = unwrapped(model).head, self.settings.projection_dim
        self.projector = nn.Identity()
        if dim is not None:
            widths = (head.in_features, head.in_features, dim)
            self.projector = projection_head(widths, generator(self.seed, "supcon", "projector"))
        self.projector.to(head.weight.device)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Both terms, each with its share of the sum."""
        features, logits = model(batch.images)
        units, labels = unit_rows(self.projector(features)), batch.labels
        others = not_self(len(labels), labels.device)
        positives = (labels[:, None] == labels) & others
        contrast = supervised_contrast(
            similarities(units, units, self.settings.temperature),
            positives,
            others,
            focal=False,
            divide_by="positives",
            average_over="all",
        )
        terms = {"cross_entropy": self.cross_entropy(logits, labels), "contrast": contrast}
        return Loss(terms, {"cross_entropy": 1 - self.settings.weight, "contrast": self.settings.weight})
