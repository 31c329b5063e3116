"""Bi-tuning: the classifier contrasts images for a class, a projector contrasts images with each other.

    L      = L_CE + lambda (L_CCE + L_CCL)
    L_CCL  = mean_i KL( uniform on P(i) || softmax_j( z_i.k_j / tau ) ),      z: projection, k: its keys
    L_CCE  = mean_i KL( uniform on P(i) || softmax_j( w_{y_i}.h_j / tau ) ),  h: feature,    w: head

j runs over the image itself (its key under CCL, its feature under CCE) and over all queued keys, the last K
of each class, from a slowly following copy of encoder and projector. P(i) is the image itself and the keys of
its class. Zhong, Wang, Kou, Wang, Long, "Bi-tuning of Pre-trained Representations" (arXiv 2011.06182); code:
tllib/regularization/bi_tuning.py of thuml/Transfer-Learning-Library at c4aa59e.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from drtune.backbones.classifier import Classifier, unwrapped
from drtune.backbones.projection import projection_head
from drtune.banks.bank import FeatureBank
from drtune.base.seeding import generator
from drtune.data.batch import Batch
from drtune.methods.bi_tuning.queues import ClassQueues
from drtune.methods.bi_tuning.settings import BiTuningSettings
from drtune.training.contract import Loss, Method
from drtune.training.losses import similarities, supervised_contrast, unit_rows


class BiTuning(Method):
    """Cross entropy beside two contrasts with queued keys of every class.

    The library gives its two encoders two views of an image; a batch here has one, so an image's own key
    differs from it by the momentum alone. The library's queues start as random unit vectors; here a slot
    counts from when it is filled, because noise would be taken for the class's own images, and in a small
    data set for long.
    """

    settings: BiTuningSettings

    def prepare(self, model: nn.Module, bank: FeatureBank | None, batches: Iterable[Batch]) -> None:
        """Make the linear projector, the slow copies and empty queues."""
        classifier, use = unwrapped(model), self.settings
        dim, classes, device = classifier.feature_dim, classifier.num_classes, classifier.head.weight.device
        random = generator(self.seed, "bi_tuning", "projector")
        self.projector = projection_head((dim, use.projection_dim), random).to(device)
        slow = {"encoder": classifier.encoder, "projector": self.projector}
        self.slow = copy.deepcopy(nn.ModuleDict(slow)).requires_grad_(False)
        self.queues = ClassQueues(classes, use.queue_size, (dim, use.projection_dim), device)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross entropy, and the two contrasts with the queues as they were before the batch."""
        classifier, labels, use = unwrapped(model), batch.labels, self.settings
        slow_features, slow_projections = self.follow(classifier, batch.images)
        features, logits = model(batch.images)
        projections, prototypes = unit_rows(self.projector(features)), classifier.head.weight[labels]
        if use.class_scores == "cosine":
            features, prototypes = unit_rows(features), unit_rows(prototypes)
            slow_features = unit_rows(slow_features)
        of_features, of_projections = self.queues.tables
        terms = {
            "cross_entropy": self.cross_entropy(logits, labels),
            "class_contrast": self.contrast(prototypes, features, of_features, labels),
            "projection_contrast": self.contrast(projections, slow_projections, of_projections, labels),
        }
        weights = {"class_contrast": use.weight, "projection_contrast": use.weight}
        return Loss(terms, weights, kept=(slow_features, slow_projections))

    @torch.no_grad()
    def follow(self, classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """Move the slow copies towards what they copy, in its mode, and return features and unit projections.

        As in MoCo the parameters follow; batch norm statistics are the slow encoder's own.
        """
        slow, fast = self.slow["encoder"], classifier.encoder
        for copied, original in zip(slow.modules(), fast.modules(), strict=True):
            copied.training = original.training
        followed = [*fast.parameters(), *self.projector.parameters()]
        for parameter, target in zip(self.slow.parameters(), followed, strict=True):
            parameter.lerp_(target, 1 - self.settings.key_momentum)
        features = slow(images)
        return features, unit_rows(self.slow["projector"](features))

    def contrast(self, anchors: Tensor, own: Tensor, queue: Tensor, labels: Tensor) -> Tensor:
        """KL of the module's docstring, for anchors [B, D], their own keys [B, D] and a queue [C, K, D]."""
        of_class = self.queues.filled_of(labels).flatten(1)
        itself = torch.ones_like(of_class[:, :1])
        positives = torch.cat([itself, of_class], dim=1)
        candidates = torch.cat([itself, self.queues.filled.flatten().expand_as(of_class)], dim=1)
        temperature = self.settings.temperature
        first = (anchors.float() * own.float()).sum(dim=1, keepdim=True) / temperature
        scores = torch.cat([first, similarities(anchors, queue.flatten(0, 1), temperature)], dim=1)
        entropy = supervised_contrast(
            scores, positives, candidates, focal=False, divide_by="positives", average_over="all"
        )
        return entropy - positives.sum(dim=1).log().mean()

    def after_step(self, batch: Batch, kept: tuple[Tensor, Tensor]) -> None:
        """Put the batch's keys into the queues of their classes."""
        self.queues.push(kept, batch.labels)
