"""Core-tuning: contrast and mixing of hard pairs of features regularise the fine-tuning.

    L       = L_ce^m + eta L_con^f
    L_ce^m  = cross entropy of the head on 3B rows: features z, hard negatives z', hard positives z''
    L_con^f = mean_i -(1/c_i) sum_{j in P(i)} (1 - p_ij) log p_ij,   p over the 3B projected rows but i
    z'_i    = (1 - l) z_i + l z_{pi(i)},    l = max(Beta(alpha, alpha), 0.8), pi a permutation of the batch
    z''_i   = l z_{hp(i)} + (1 - l) z_{hn(i)},  l ~ Beta(alpha, alpha)

Labels are mixed as the features. Zhang, Hooi, Hu, Liang, Feng, "Unleashing the Power of Contrastive
Self-Supervised Visual Models via Contrast-Regularized Fine-Tuning", NeurIPS 2021 (arXiv 2102.06605); official
code Vanint/Core-tuning, Core-tuning.py:137-273,424-429 at f70e1bf.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from drtune.backbones.classifier import unwrapped
from drtune.backbones.projection import projection_head
from drtune.banks.bank import FeatureBank
from drtune.base.seeding import derive, generator
from drtune.data.batch import Batch, sent
from drtune.methods.core_tuning.mixing import hard_pairs, mix, mixing, same_labels
from drtune.methods.core_tuning.settings import CoreTuningSettings
from drtune.training.contract import Loss, Method
from drtune.training.losses import not_self, similarities, supervised_contrast, unit_rows


class CoreTuning(Method):
    """Contrast-regularised fine-tuning; `faithful` decides where paper and official code differ.

    | | paper | official_code |
    |---|---|---|
    | hp | among the anchor's positives | never a positive where features are >= 0 (C1) |
    | c_i | the number of positives | 3B (C4) |
    | originals | with gradient | cut from the encoder: it learns through mixed rows alone (C5) |
    """

    settings: CoreTuningSettings

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Make the projection head D - D - projection_dim (Core-tuning.py:137-146)."""
        head = unwrapped(model).head
        widths = (head.in_features, head.in_features, self.settings.projection_dim)
        self.projector = projection_head(widths, generator(self.seed, "core_tuning", "projector"))
        self.projector.to(head.weight.device)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Both terms on the mixed rows of the batch."""
        features, labels = model(batch.images).features.float(), batch.labels
        head, official = unwrapped(model).head, self.settings.faithful == "official_code"
        mixed = mixing(*hard_pairs(features, labels, official), *self.draw(len(labels), labels.device))
        rows = mix(features, mixed)
        if official:
            rows = torch.cat([features.detach(), rows[len(labels) :]])
        targets = mix(one_hot(labels, head.out_features).float(), mixed)
        units, others = unit_rows(self.projector(rows)), not_self(len(rows), rows.device)
        contrast = supervised_contrast(
            similarities(units, units, self.settings.temperature),
            same_labels(labels, mixed, head.out_features) & others,
            others,
            focal=True,
            divide_by="columns" if official else "positives",
            average_over="with_positives",
        )
        terms = {"cross_entropy": self.cross_entropy(head(rows), targets), "contrast": contrast}
        return Loss(terms, {"contrast": self.settings.eta})

    def draw(self, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Random choices, each [B], a function of seed and step: permutation, two kinds of shares.

        The shares are those of hard negatives and of hard positives.
        """
        random = np.random.default_rng(derive(self.seed, "core_tuning", self.step))
        order = sent(torch.from_numpy(random.permutation(size)), device)
        shares = random.beta(self.settings.alpha, self.settings.alpha, (2, size)).astype(np.float32)
        negative, positive = sent(torch.from_numpy(shares), device)
        return order, negative, positive
