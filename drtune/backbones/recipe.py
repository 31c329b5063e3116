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
        weights: `timm`, those that timm publishes for `backbone.name`; `hub`, those of any model of the
            Hugging Face hub; `random`, drawn with `backbone.seed`.
        repository: of a model of the hub, `OWNER/NAME`.
        revision: commit of the model's repository on the Hugging Face hub; None takes the newest.
        sha256: of the published file; None takes any.
    """

    weights: Literal["timm", "hub", "random"]
    repository: Annotated[str, StringConstraints(pattern=r"^\w[\w.-]{0,95}/\w[\w.-]{0,95}$")] | None = None
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
    if (recipe.weights == "hub") != (recipe.repository is not None):
        raise ConfigError(
            f"{weights}: repository goes with weights: hub, and is OWNER/NAME of the model there, "
            f"facebook/dinov2-base say; got weights: {recipe.weights} and repository: {recipe.repository}"
        )
    return recipe
