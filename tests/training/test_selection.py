import pytest

from drtune.training.selection import rank

SCORES = [(0.9, 0.3), (0.5, 0.2), (0.9, 0.2), (0.9, 0.2), (0.8, 9.0)]
HISTORY = [{"epoch": e, "val_accuracy": a, "val_loss": loss} for e, (a, loss) in enumerate(SCORES)]


@pytest.mark.parametrize(
    ("monitor", "order"),
    [("accuracy", [2, 3, 0, 4, 1]), ("loss", [2, 3, 1, 0, 4]), ("last", [4, 3, 2, 1, 0])],
)
def test_epochs_are_in_the_order_of_what_is_monitored_and_equals_in_that_of_time(monitor, order):
    ranked = sorted(HISTORY, key=lambda one: rank(one, monitor), reverse=True)
    assert [one["epoch"] for one in ranked] == order
