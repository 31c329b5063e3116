from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from drtune.base.faults import describe, each_once, explain, render, some, unknown_keys, unknown_value


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    size: Annotated[int, Field(ge=1)]


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: Annotated[int, Field(ge=1)]
    rate: Annotated[float, Field(gt=0, le=1)] | None
    kind: Literal["a", "b"]
    on: bool
    weight: Annotated[float, Field(gt=0)] | Literal["auto"]
    triple: Annotated[list[float], Field(min_length=3, max_length=3)]
    kinds: Annotated[list[Literal["a", "b"]], AfterValidator(each_once)]
    levels: Annotated[list[Literal[1, 2]], Field(min_length=1)]
    names: list[str] | None = None
    parts: list[Part] = []


GOOD = {
    "count": 1,
    "rate": 0.5,
    "kind": "a",
    "on": True,
    "weight": 1.0,
    "triple": [1.0, 2.0, 3.0],
    "kinds": ["b", "a"],
    "levels": [1],
}


@pytest.mark.parametrize(
    ("change", "key", "text"),
    [
        ({"count": "100"}, "s.count", "expected an integer >= 1, got '100' (text)"),
        ({"count": 0}, "s.count", "expected an integer >= 1, got 0 (integer)"),
        ({"count": 1.5}, "s.count", "expected an integer >= 1, got 1.5 (number)"),
        ({"count": True}, "s.count", "expected an integer >= 1, got True (true/false)"),
        ({"count": None}, "s.count", "expected an integer >= 1, got nothing (null)"),
        ({"rate": 2.0}, "s.rate", "expected a number > 0 and <= 1 or null, got 2.0 (number)"),
        ({"kind": "c"}, "s.kind", "expected 'a' or 'b', got 'c' (text)"),
        ({"weight": -1.0}, "s.weight", "expected a number > 0 or auto, got -1.0 (number)"),
        ({"weight": "b"}, "s.weight", "expected a number > 0 or auto, got 'b' (text)"),
        ({"triple": [1.0, "x", 2.0]}, "s.triple.1", "expected a list of 3 numbers, got 'x' (text)"),
        ({"on": "yes"}, "s.on", "expected true or false, got 'yes' (text)"),
        ({"triple": [1.0]}, "s.triple", "expected a list of 3 numbers, got [1.0] (list)"),
        ({"kinds": ["a", "c"]}, "s.kinds.1", "expected 'a' or 'b', got 'c' (text)"),
        ({"kinds": "a"}, "s.kinds", "expected a list of a or b, got 'a' (text)"),
        ({"kinds": ["a", "b", "a"]}, "s.kinds", "names a twice; name each once, got ['a', 'b', 'a'] (list)"),
        ({"levels": []}, "s.levels", "expected a list of 1 or 2, at least one, got [] (list)"),
        ({"names": "a"}, "s.names", "expected a list of texts or null, got 'a' (text)"),
        ({"parts": "a"}, "s.parts", "expected a list of sections, got 'a' (text)"),
        (
            {"parts": [{"size": 1}, {"size": 0}]},
            "s.parts.1.size",
            "expected an integer >= 1, got 0 (integer)",
        ),
        ({"parts": [{}]}, "s.parts.0.size", "is missing; expected an integer >= 1"),
        (
            {"parts": [{"size": 1, "sice": 2}]},
            "s.parts.0.sice",
            "unknown key; did you mean size? known: size",
        ),
        ({"parts": [3]}, "s.parts.0", "expected a list of sections, got 3 (integer)"),
        ({"triple": 1.0}, "s.triple", "expected a list of 3 numbers, got 1.0 (number)"),
        (
            {"cuont": 1},
            "s.cuont",
            "unknown key; did you mean count? known: count, rate, kind, on, weight, triple, kinds, "
            "levels, names, parts",
        ),
    ],
)
def test_explain_says_what_is_allowed_and_what_came(change, key, text):
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate({**GOOD, **change})
    assert [explain("s", Sample, fault) for fault in caught.value.errors()][:1] == [(key, text)]


def test_explain_missing_says_what_is_expected():
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate({k: v for k, v in GOOD.items() if k != "count"})
    assert explain("s", Sample, caught.value.errors()[0]) == (
        "s.count",
        "is missing; expected an integer >= 1",
    )


def test_render_aligns_and_counts_and_keeps_one_line_a_key():
    text = render("params.yaml", [("a", "first"), ("a", "second"), ("long.key", "third")])
    assert text == "params.yaml: 2 faults\n  a         first\n  long.key  third"
    assert render("f", [("a", "x")]).startswith("f: 1 fault\n")


def test_suggestions_name_the_nearest_or_list_all():
    assert unknown_value("resnet5", ["resnet50", "vit"]) == (
        "'resnet5' is unknown; did you mean resnet50? known: resnet50, vit"
    )
    assert unknown_value("qqq", ["resnet50", "vit"]) == "'qqq' is unknown; known: resnet50, vit"
    many = [f"name{i}" for i in range(40)]
    assert unknown_value("name399", many) == "'name399' is unknown; did you mean name39?"
    assert unknown_keys("x.", {"a": 1, "b": 2}, ["a"]) == [("x.b", "unknown key; known: a")]


def test_describe_names_the_kind():
    assert [describe(v) for v in (1, 1.5, "1", True, None, [1], {})] == [
        "1 (integer)", "1.5 (number)", "'1' (text)", "True (true/false)", "nothing (null)", "[1] (list)",
        "{} (section)",
    ]  # fmt: skip


def test_a_value_without_end_is_shown_in_part():
    assert describe("x" * 10_000) == f"'{'x' * 399}… (text)"
    assert describe(10**5000) == "a value without end (integer)"


def test_some_of_many():
    assert some("abc") == "a, b, c"
    assert some("abcde") == "a, b, c, … (2 more)"
