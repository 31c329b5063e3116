from typing import Annotated

import pytest
from pydantic import Field

from drtune.base.errors import ConfigError
from drtune.base.settings import Settings
from drtune.base.yaml import read_settings, read_yaml


class Toy(Settings):
    size: Annotated[int, Field(ge=1)]
    name: str = ""


def test_exponents_are_numbers_and_doubled_keys_are_faults(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("a: 1e-3\n")
    assert read_yaml(path) == {"a": 0.001}
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match="p.yaml: not valid YAML"):
        read_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"expected sections \(key: value\), got \[1\] \(list\)"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="no such file; run from the folder that holds dvc.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_settings_of_a_file_of_their_own(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text("size: 3\n")
    assert read_settings(path, Toy) == Toy(size=3)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "size: 0\nnmae: x",
            r"toy\.yaml: 2 faults\n  size  expected an integer >= 1, got 0 .*\n  nmae  unknown key",
        ),
        ("size: 1\nsize: 2", r"(?s)toy\.yaml: not valid YAML\nsize is given twice.*line 1"),
        ("size: [1", r"toy\.yaml: not valid YAML"),
        ("- 1", r"toy\.yaml: expected lines `key: value`, got \[1\] \(list\)"),
        ("", r"toy\.yaml: expected lines `key: value`, got nothing \(null\)"),
        ("\x00", r"toy\.yaml: not valid YAML"),
    ],
)
def test_faults_of_a_file_in_words(tmp_path, text, fault):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        read_settings(path, Toy)


def test_a_file_that_is_not_there_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"toy\.yaml: no such file"):
        read_settings(tmp_path / "toy.yaml", Toy)
    (tmp_path / "toy.yaml").write_bytes(b"\xff\xfe\x9a")
    with pytest.raises(ConfigError, match=r"toy\.yaml: not valid YAML"):
        read_settings(tmp_path / "toy.yaml", Toy)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!bool x", "a: !!int ''", "a: !!float ''", "a: 2001-99-99", "a: 0x" + "f" * 100_000,
        "a: " + "9" * 4000, "a: " + "x" * 5000, "a: [" + "1," * 200_000 + "]",
        "\n".join(f"k{i}: 1" for i in range(100_000)), "a: \x00", "a: ['\udcff']",
    ],
)  # fmt: skip
def test_no_text_ends_in_a_trace_or_takes_minutes(text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_settings(path, Settings)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="expected a file of at most 8,000,000"):
        read_yaml(tmp_path)
