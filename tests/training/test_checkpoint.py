import pytest
import torch
from torch import nn

from drtune.training.checkpoint import STATE, Progress, read_checkpoint, restore, save_checkpoint


def test_round_trip_restores_parts_progress_and_generators(tmp_path):
    net = nn.Linear(3, 2)
    progress = Progress(2, 10, [{"epoch": 1, "val_loss": 0.5}], 1, {"w": torch.ones(2)})
    torch.manual_seed(4)
    save_checkpoint(tmp_path, progress, {"model": net})
    expected = torch.rand(3)
    other = nn.Linear(3, 2)
    state = read_checkpoint(tmp_path)
    restore(state, {"model": other})
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(net.weight, other.weight)
    again = state["progress"]
    assert (again.epoch, again.step, again.history, again.best_epoch) == (2, 10, progress.history, 1)
    assert torch.equal(again.best_state["w"], torch.ones(2))


def test_no_state_is_none_and_a_failed_write_keeps_the_old_one(tmp_path, monkeypatch):
    assert read_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, Progress(epoch=1), {})

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, Progress(epoch=2), {})
    assert read_checkpoint(tmp_path)["progress"].epoch == 1
    assert [p.name for p in tmp_path.iterdir()] == [STATE]
