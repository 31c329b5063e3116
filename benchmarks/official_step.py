"""The training step of DR-Tune's official code, transcribed plainly to be timed against ours.

weeknan/DR-Tune at ef9a7b1, worker.py:119-146 and model.py:27-117. Like that code it sets no memory layout;
who builds the model chooses it.
"""

import copy

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.optim import Optimizer

from drtune.backbones.classifier import Classifier


class Official:
    """One model with its frozen twin and its bank.

    The frozen encoder sees every batch; a Python loop runs over the classes; a full SVD and a determinant
    give the rotation of every tenth step; the head sees B + K rows.
    """

    def __init__(self, model: Classifier, optimizer: Optimizer, bank: Tensor, labels: Tensor, bfloat16: bool):
        self.model, self.optimizer, self.bfloat16 = model, optimizer, bfloat16
        self.frozen = copy.deepcopy(model.encoder).requires_grad_(False).eval()
        self.pretrained, self.downstream = bank.clone(), bank.clone()
        self.labels, self.next = labels.clone(), 0

    def step(self, number: int, images: Tensor, labels: Tensor) -> Tensor:
        """Forward, backward and update; returns the loss."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            features = self.model.encoder(images)
            with torch.no_grad():
                old = self.frozen(images)
        features = features.float()
        rows = self.calibrate(features, number)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model.head(torch.cat([features, rows]))
        loss = cross_entropy(logits.float(), torch.cat([labels, self.labels]))
        here = slice(self.next, self.next + len(labels))
        self.pretrained[here], self.downstream[here], self.labels[here] = old, features.detach(), labels
        self.next = (self.next + len(labels)) % len(self.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def calibrate(self, features: Tensor, number: int) -> Tensor:
        """[K, D] rows of the pretrained bank, calibrated."""
        length = features.norm(dim=1).mean()
        P, Q = normalize(self.pretrained), normalize(self.downstream)
        if number % 10 == 0:
            P = self.align(P, Q)
        prototypes = normalize(self.model.head.weight)
        for c in range(len(prototypes)):
            rows = (self.labels == c).nonzero().flatten()
            share = (Q[rows] @ prototypes[c]).softmax(dim=0)
            P[rows] += (share[:, None] * Q[rows]).sum(dim=0) - P[rows].mean(dim=0)
        return normalize(P) * length  # type: ignore[no-any-return]

    @staticmethod
    def align(P: Tensor, Q: Tensor) -> Tensor:
        """Rotate rows P onto rows Q, both centred."""
        X, Y = (P - P.mean(dim=0)).T, (Q - Q.mean(dim=0)).T
        U, _, Vh = torch.linalg.svd(X @ Y.T)
        signs = torch.ones(len(U), device=P.device)
        signs[-1] = torch.linalg.det(Vh.T @ U.T)
        R = Vh.T @ torch.diag(signs) @ U.T
        return (R @ X + (Y - R @ X).mean(dim=1, keepdim=True)).T.contiguous()  # type: ignore[no-any-return]
