import json
import math
import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtune.runs.naming import as_text, cut, encoded, flat, legal_name


@pytest.mark.parametrize("name", ["loss", "train/loss", "a.b-c_d e:f", "ü"])
def test_legal_names_stay(name):
    assert legal_name(name) == name


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("loss[0]", "loss_0_"),
        ("/a//b/", "a/b"),
        ("a/../b", "a/b"),
        ("", "_"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_other_names_become_legal(name, legal):
    assert legal_name(name) == legal


@given(st.text(alphabet="ab./[ \n", max_size=12))
def test_every_name_meets_mlflow_s_rules(name):
    legal = legal_name(name)
    assert re.fullmatch(r"[/\w.\- :]+", legal)
    assert posixpath.normpath(legal) == legal
    assert legal != "."
    assert not legal.startswith(("..", "/"))


def test_nested_settings_get_dotted_names():
    nested = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, 3: "x"}
    assert flat(nested) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": {}, "3": "x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (1e-05, "1e-05"), (0.001, "0.001"), (True, "true"), (None, "null"), ([1, "ü"], '[1, "ü"]')],
)
def test_values_read_as_in_yaml(value, text):
    assert as_text(value) == text


def test_a_cut_text_says_so():
    assert cut("x" * 10, 10) == "x" * 10
    shortened = cut("x" * 101, 100)
    assert len(shortened) == 100
    assert shortened.endswith("x … (cut)")


@pytest.mark.parametrize("value", [1, 0.5, float("nan"), float("inf"), -float("inf")])
def test_numbers_survive_strict_json(value):
    back = float(json.loads(json.dumps(encoded(value), allow_nan=False)))
    assert back == value or (math.isnan(back) and math.isnan(value))
