import torch

from benchmarks import bank_memory
from drtune.banks.bank import open_bank


def test_it_writes_a_bank_and_reads_an_epoch_of_it(tmp_path):
    path = tmp_path / "bank.safetensors"
    bank_memory.write(path, bank_memory.CHUNK + 3, 4)
    bank = open_bank(path)
    assert (bank.num_rows, bank.dim, bank.header.dtype) == (bank_memory.CHUNK + 3, 4, "float16")
    first, again = bank.rows(torch.zeros(2, dtype=torch.long), torch.tensor([1, bank_memory.CHUNK + 1]))
    assert torch.equal(first, again)
    bank_memory.forget(path)
    assert "65 batches of 64" in bank_memory.replay(path, 64, None)
    assert "; 2 batches of 64" in bank_memory.replay(path, 64, 2)
