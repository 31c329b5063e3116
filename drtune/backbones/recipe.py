"""What `backbone.weights` names: a checkpoint, or a recipe that says where else the weights come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from drtune.base.errors import ConfigError
from drtune.base.faults import hexadecimal
from drtune.base.settings import Settings
from drtune.base.yaml import ENDINGS, read_settings


class Recipe(Settings):
    """Weights that are no file of the user; catalog/ holds one of each kind.

    Attributes:
        weights: `timm`, those that timm publishes for `backbone.name`; `random`, drawn with `backbone.seed`.
        revision: commit of the model's repository on the Hugging Face hub; None takes the newest.
        sha256: of the published file; None takes any.
    """

    weights: Literal["timm", "random"]
    revision: Annotated[str, StringConstraints(min_length=1)] | None = None
    sha256: Annotated[str, hexadecimal(64)] | None = None


def read_recipe(weights: str) -> Recipe | None:
    """Read the recipe that `backbone.weights` names; None where it names a checkpoint.

    Raises:
        ConfigError: listing every fault of the recipe.
    """
    if not weights.endswith(ENDINGS):
        return None
    recipe = read_settings(Path(weights), Recipe)
    if recipe.weights == "random" and (recipe.revision or recipe.sha256):
        raise ConfigError(
            f"{weights}: random weights have no revision and no sha256; remove both, or set weights: timm"
        )
    return recipe
