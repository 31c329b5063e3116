import random

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from drtune.base.numeric import numeric_state, set_numeric_state


@pytest.fixture(autouse=True)
def _clean(clean_torch):
    pass


def test_every_generator_is_seeded():
    draws = []
    for _ in range(2):
        set_numeric_state(7, 1)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]


@pytest.mark.parametrize("deterministic", [True, False])
def test_whatever_was_set_outside_is_set_anew(deterministic):
    torch.set_num_threads(3)
    torch.backends.cudnn.benchmark = deterministic
    torch.use_deterministic_algorithms(not deterministic)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    set_numeric_state(0, 2, deterministic=deterministic)
    assert numeric_state() == {
        "threads": 2,
        "deterministic": deterministic,
        "cudnn.benchmark": not deterministic,
        "tf32": False,
        "dtype": torch.float32,
        "grad": True,
    }
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} <= {2}


def test_a_switch_that_does_not_take_its_value_is_told(monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(torch, "get_num_threads", lambda: 1)
        with pytest.raises(
            RuntimeError, match=r"the numeric state is .*'threads': 1.*wanted .*'threads': 77"
        ):
            set_numeric_state(0, 77)
