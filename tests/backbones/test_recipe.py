"""Recipes for weights are known by what they hold."""

from pathlib import Path

import pytest

from drtune.backbones.recipe import Recipe, read_recipe
from drtune.base.errors import ConfigError

CATALOG = Path(__file__).resolve().parents[2] / "catalog"


def test_the_recipes_of_the_catalogue():
    assert read_recipe(str(CATALOG / "timm.yaml")) == Recipe(weights="timm")
    assert read_recipe(str(CATALOG / "dinov2_base.yaml")).repository == "facebook/dinov2-base"
    assert read_recipe(str(CATALOG / "random.yaml")) == Recipe(weights="random")


def test_a_copy_works_under_any_name_and_a_checkpoint_is_no_recipe(tmp_path):
    path = tmp_path / "random.yml"
    path.write_text((CATALOG / "timm.yaml").read_text().replace("sha256: null", f"sha256: {'a' * 64}"))
    assert read_recipe(str(path)) == Recipe(weights="timm", sha256="a" * 64)
    assert read_recipe("timm.pth") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("weights: tim", r"weights  expected 'timm', 'hub' or 'random', got 'tim' \(text\)"),
        ("weights: timm\nrevison: x", "revison  unknown key; did you mean revision?"),
        ("weights: timm\nsha256: 5eed", r"sha256  expected 64 hexadecimal digits, got '5eed' \(text\)"),
        ("sha256: null", "weights  is missing; expected timm or hub or random"),
        (
            "weights: hub",
            "repository goes with weights: hub, and is OWNER/NAME of the model there, facebook/",
        ),
        ("weights: timm\nrepository: a/b", "got weights: timm and repository: a/b"),
        ("weights: hub\nrepository: ../etc", "repository  "),
        ("weights: random\nrevision: x", "random weights have no revision and no sha256; remove both"),
    ],
)
def test_faults_are_told_in_words(tmp_path, text, fault):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=fault):
        read_recipe(str(path))


def test_a_recipe_that_is_not_there():
    with pytest.raises(ConfigError, match=r"catalog/tim\.yaml: no such file"):
        read_recipe("catalog/tim.yaml")
