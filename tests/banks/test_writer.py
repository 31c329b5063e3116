import re
import tracemalloc
from dataclasses import replace

import pytest
import torch

from drtune.banks.bank import BankHeader, open_bank
from drtune.banks.writer import write_bank
from drtune.base.errors import BankError

HEADER = BankHeader(
    backbone="toy", weights_sha256="aa", data_sha256="bb", transform="{}", views=1, augmented=False,
    augment_seed=0, dtype="float16",
)  # fmt: skip
IDS = ["a", "b", "c"]
LABELS = torch.tensor([0, 1, 0])


def write(path, batches, header=HEADER, ids=IDS, labels=LABELS):
    with write_bank(path, header, labels, ids, 2) as writer:
        for index, rows in batches:
            writer.write(0, torch.tensor(index), rows)


def test_bytes_do_not_depend_on_time_place_or_order(tmp_path):
    rows = torch.randn(3, 2)
    write(tmp_path / "one.safetensors", [([0, 1, 2], rows)])
    write(tmp_path / "there" / "other.safetensors", [([2], rows[2:]), ([0, 1], rows[:2])])
    one, other = tmp_path / "one.safetensors", tmp_path / "there" / "other.safetensors"
    assert one.read_bytes() == other.read_bytes()


def test_labels_of_any_integer_kind_are_kept(tmp_path):
    write(tmp_path / "bank", [([0, 1, 2], torch.ones(3, 2))], labels=LABELS.int())
    assert torch.equal(open_bank(tmp_path / "bank").labels, LABELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_by_name(tmp_path, value):
    rows = torch.ones(2, 2)
    rows[1, 0] = value
    with pytest.raises(BankError, match=r"1 of 2 features are not finite: 'c'; .*backbone.weights"):
        write(tmp_path / "bank", [([0, 2], rows)])
    assert list(tmp_path.iterdir()) == []


def test_features_beyond_the_dtype_are_refused_with_the_remedy(tmp_path):
    rows = torch.tensor([[1.0, 2.0], [70000.0, 0.0]])
    with pytest.raises(
        BankError, match=r"exceed 65504, .* float16 holds: 'b'; set extract.dtype to bfloat16"
    ):
        write(tmp_path / "bank", [([0, 1], rows)])
    wide = replace(HEADER, dtype="bfloat16")
    write(tmp_path / "bank", [([0, 1], rows), ([2], rows[:1])], header=wide)
    assert open_bank(tmp_path / "bank").rows(torch.tensor([0]), torch.tensor([1]))[0, 0] == 70144


def test_rows_left_out_are_named_and_the_bank_that_was_there_stays(tmp_path):
    path = tmp_path / "bank"
    write(path, [([0, 1, 2], torch.ones(3, 2))])
    before = path.read_bytes()
    with pytest.raises(BankError, match="1 of 3 rows were not written, the first is view 0 of sample 'b'"):
        write(path, [([0, 2], torch.zeros(2, 2))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("ids", "labels", "text"),
    [
        ([], torch.zeros(0), "one label per sample, got 0 for 0"),
        (["a"], torch.zeros(2), "got 2 for 1"),
        (["a", "b\n"], torch.zeros(2), re.escape(r"'b\n' holds a line break")),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path, ids, labels, text):
    with pytest.raises(BankError, match=text):
        write(tmp_path / "bank", [], ids=ids, labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_a_large_bank_is_streamed(tmp_path):
    rows, dim, step = 10000, 1024, 100
    tracemalloc.start()
    with write_bank(tmp_path / "bank", HEADER, torch.zeros(rows), ["x"] * rows, dim) as writer:
        for start in range(0, rows, step):
            writer.write(0, torch.arange(start, start + step), torch.full((step, dim), float(start)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "bank").stat().st_size > rows * dim * 2
    assert most < rows * dim * 2 / 8
    bank = open_bank(tmp_path / "bank")
    assert bank.rows(torch.tensor([0]), torch.tensor([9999]))[0, 0] == torch.tensor(9900.0).half()
