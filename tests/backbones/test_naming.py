"""Names of libraries become those of timm; whole layouts are tested in test_wrappings.py."""

import pytest
import torch

from drtune.backbones.naming import NAMINGS, Naming, joined


def test_a_naming_renames_in_order_where_all_its_marks_are():
    naming = Naming("x", (r"^a\.", r"b$"), ((r"^a\.", "c."), (r"^c\.b$", "d")))
    assert naming.rename({"a.b": 1, "e": 2}) == {"d": 1, "e": 2}
    assert naming.rename({"a.c": 1}) is None


def test_the_first_naming_is_that_of_timm():
    assert NAMINGS[0].rename({"anything": 1}) == {"anything": 1}


def test_queries_keys_and_values_are_joined():
    parts = {f"x.attn.{part}.weight": torch.full((2, 3), float(i)) for i, part in enumerate("qkv")}
    assert joined(parts, {})["x.attn.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("expected", "value", "found"),
    [
        ({"x.attn.q_bias", "x.attn.v_bias"}, 1.0, {"x.attn.q_bias": [1], "x.attn.v_bias": [2]}),
        ({"x.attn.qkv.bias"}, 1.0, {"x.attn.qkv.bias": [1, 0, 2]}),
        (set(), 1.0, {"x.attn.qkv.bias": [1, 0, 2]}),
        (set(), 0.0, {}),
    ],
    ids=["apart", "joined", "no place for them", "none"],
)
def test_keys_without_a_bias(expected, value, found):
    biases = {"x.attn.q.bias": torch.tensor([value]), "x.attn.v.bias": torch.tensor([2 * value])}
    out = joined(biases, dict.fromkeys(expected))
    assert {key: part.tolist() for key, part in out.items()} == found
