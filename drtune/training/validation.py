"""What a training measures after each epoch."""

import math

from drtune.backbones.predictions import Predictions, negative_log_likelihood, topk_accuracy


def validation_scores(predictions: Predictions) -> dict[str, float]:
    """What a training loop needs after each epoch: accuracy p, its standard error, mean cross entropy.

    Returns:
        `accuracy`; `accuracy_se`, sqrt(p (1 - p) / N); `loss`, in nats.
    """
    accuracy = topk_accuracy(predictions.logits, predictions.labels, 1)
    return {
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / len(predictions.labels)),
        "loss": negative_log_likelihood(predictions.logits, predictions.labels),
    }
