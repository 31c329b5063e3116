import json
import os
from dataclasses import replace

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from drtune.banks import bank as module
from drtune.banks.bank import BankHeader, FeatureBank, open_bank, plan
from drtune.banks.writer import write_bank
from drtune.base.errors import BankError

HEADER = BankHeader(
    backbone='{"name": "toy"}',
    weights_sha256="aa",
    data_sha256="bb",
    transform='{"size": "é"}',
    views=2,
    augmented=True,
    augment_seed=3,
    dtype="float16",
)
IDS = ["a.png", "höhle/b.png", "c 3"]
LABELS = torch.tensor([2, 0, 1])


def features(dtype=torch.float32):
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def written(path, header=HEADER):
    values = features()
    with write_bank(path, header, LABELS, IDS, 4) as writer:
        for view in (1, 0):
            writer.write(view, torch.tensor([2, 0]), values[view, [2, 0]])
            writer.write(view, torch.tensor([1]), values[view, [1]])
    return path


@pytest.fixture(params=["in_memory", "from_file"])
def source(request, monkeypatch):
    """Read small banks at once, or row by row as large ones are."""
    if request.param == "from_file":
        monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.usefixtures("source")
def test_rows_come_back_as_written(tmp_path, dtype):
    bank = open_bank(written(tmp_path / "bank.safetensors", replace(HEADER, dtype=dtype)))
    assert (bank.views, bank.num_rows, bank.dim) == (2, 3, 4)
    assert bank.header == replace(HEADER, dtype=dtype)
    assert bank.ids == IDS
    assert torch.equal(bank.labels, LABELS)
    view, index = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 2, 2])
    rows = bank.rows(view, index)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, features(getattr(torch, dtype)).float()[view, index])
    assert bank.rows(view[:0], index[:0]).shape == (0, 4)


def test_the_file_is_plain_safetensors(tmp_path):
    with safe_open(written(tmp_path / "bank.safetensors"), "pt") as file:
        assert torch.equal(file.get_tensor("features"), features(torch.float16))
        assert torch.equal(file.get_tensor("labels"), LABELS)
        assert bytes(file.get_tensor("ids").tolist()).decode().split("\n") == IDS
        assert json.loads(file.metadata()["header"])["weights_sha256"] == "aa"


def test_a_bank_of_tensors_answers_as_one_of_a_file(tmp_path):
    bank = FeatureBank.from_tensors(features(torch.float16), LABELS, IDS, HEADER)
    view, index = torch.tensor([1, 0]), torch.tensor([1, 1])
    expected = open_bank(written(tmp_path / "bank.safetensors")).rows(view, index)
    assert torch.equal(bank.rows(view, index), expected)
    assert (bank.ids, bank.views, bank.num_rows, bank.dim) == (IDS, 2, 3, 4)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("view", "row", "text"), [(2, 0, "views 0 to 1, but 2"), (0, -1, "rows 0 to 2, but -1")]
)
def test_rows_that_are_not_there_are_refused(tmp_path, view, row, text):
    bank = open_bank(written(tmp_path / "bank.safetensors"))
    with pytest.raises(BankError, match=text):
        bank.rows(torch.tensor([0, view]), torch.tensor([0, row]))


def test_a_bank_that_belongs_passes():
    FeatureBank.from_tensors(features(), LABELS, IDS, HEADER).require(HEADER)


def test_a_bank_that_does_not_belong_says_what_differs_and_what_to_do():
    bank = FeatureBank.from_tensors(features(), LABELS, IDS, HEADER)
    with pytest.raises(BankError, match="dvc repro extract") as caught:
        bank.require(replace(HEADER, weights_sha256="cc", data_sha256="dd"))
    text = str(caught.value)
    assert "weights_sha256: the bank has 'aa', expected 'cc'" in text
    assert "data_sha256: the bank has 'bb', expected 'dd'" in text
    assert "backbone" not in text
    assert "transform" not in text


def test_a_missing_bank_is_named(tmp_path):
    with pytest.raises(
        BankError, match=r"bank.safetensors: no feature bank to read .* run `dvc repro extract`"
    ):
        open_bank(tmp_path / "bank.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -20])
def test_a_bank_cut_short_is_refused(tmp_path, keep):
    path = written(tmp_path / "bank.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BankError, match=r"bank.safetensors .*(cut short|bytes where its header says)"):
        open_bank(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "bank.safetensors"
    for content in (b"\x89PNG", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(content)
        with pytest.raises(BankError, match="is no feature bank"):
            open_bank(path)
    save_file({"features": features(), "labels": LABELS}, path)
    with pytest.raises(BankError, match="is no feature bank"):
        open_bank(path)


def test_a_header_that_was_tampered_with_is_refused(tmp_path):
    path = written(tmp_path / "bank.safetensors")
    path.write_bytes(path.read_bytes().replace(b"[2, 3, 4]", b"[2, 4, 3]"))
    with pytest.raises(BankError, match="is no feature bank"):
        open_bank(path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    path = written(tmp_path / "bank.safetensors")
    bank = open_bank(path)
    os.truncate(path, 100)
    with pytest.raises(BankError, match="ends early"):
        bank.rows(torch.tensor([0]), torch.tensor([0]))


def test_the_file_is_closed_with_the_bank(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    before = psutil.Process().num_fds()
    bank = open_bank(written(tmp_path / "bank.safetensors"))
    assert psutil.Process().num_fds() == before + 1
    del bank
    assert psutil.Process().num_fds() == before


def test_reading_random_rows_of_a_large_bank_takes_no_memory(tmp_path):
    """512 MiB of features (a file of holes), half of it read in random order."""
    rows, dim = 131072, 2048
    layout = plan(replace(HEADER, views=1), rows, dim, 2 * rows - 1)
    path = tmp_path / "bank.safetensors"
    with path.open("wb") as stream:
        stream.write(layout.head)
        stream.truncate(layout.size)
    assert layout.size > 512 * 1024**2
    process = psutil.Process()
    before, most = process.memory_info().rss, 0
    bank = open_bank(path)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    for index in order[: rows // 2].split(512):
        bank.rows(torch.zeros_like(index), index)
        most = max(most, process.memory_info().rss)
    assert most - before < 100 * 1024**2
