import math

import pytest

from drtune.training.selection import kept_epoch


def history(scores, images=None):
    """Records of (accuracy, loss), with the standard error of a split of so many images."""
    return [
        {"epoch": epoch, "val_accuracy": p, "val_loss": loss}
        | ({} if images is None else {"val_accuracy_se": math.sqrt(p * (1 - p) / images)})
        for epoch, (p, loss) in enumerate(scores)
    ]


def kept(records, monitor):
    """Number of the epoch that is kept after each record."""
    return [kept_epoch(records[: i + 1], monitor)["epoch"] for i in range(len(records))]


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [("accuracy", [0, 0, 2, 2, 2]), ("loss", [0, 1, 2, 2, 2]), ("last", [0, 1, 2, 3, 4])],
)
def test_the_best_is_kept_of_equals_by_the_other_score_and_then_the_first(monitor, expected):
    assert kept(history([(0.9, 0.3), (0.5, 0.2), (0.9, 0.2), (0.9, 0.2), (0.8, 9.0)]), monitor) == expected


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (100, [0, 1, 2, 2, 4]),  # one standard error of 0.90 is 0.030: 0.88 is within, 0.86 is not
        (20, [0, 1, 2, 3, 4]),  # 0.067: all after the best are within
        (1000, [0, 1, 2, 2, 2]),  # 0.009: none
    ],
)
def test_the_latest_within_one_standard_error_of_the_best_accuracy_is_kept(images, expected):
    scores = [(0.5, 0.9), (0.6, 0.8), (0.9, 0.3), (0.86, 0.3), (0.88, 0.4)]
    assert kept(history(scores, images), "accuracy_1se") == expected


def test_an_epoch_that_was_near_the_best_gives_way_to_a_better_one_however_late():
    records = history([(0.7, 1.0), (0.68, 1.0), (0.9, 1.0), (0.7, 1.0)], 100)
    assert kept(records, "accuracy_1se") == [0, 1, 2, 2]


def test_one_standard_error_below_is_still_within_and_a_perfect_score_admits_no_less():
    edge = [
        {"epoch": 0, "val_accuracy": 0.75, "val_accuracy_se": 0.25, "val_loss": 1.0},
        {"epoch": 1, "val_accuracy": 0.5, "val_accuracy_se": 0.25, "val_loss": 1.0},
    ]
    assert kept(edge, "accuracy_1se") == [0, 1]
    assert kept(history([(1.0, 0.1), (0.99, 0.1), (1.0, 0.2)], 100), "accuracy_1se") == [0, 0, 2]
