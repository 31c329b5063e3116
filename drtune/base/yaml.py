"""Read YAML files: a mapping as it stands, or one section as closed, typed settings."""

from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from drtune.base.errors import ConfigError
from drtune.base.faults import describe, explain, render
from drtune.base.settings import Settings

S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (so that `1e-3` is a number).

    Raises:
        ConfigError: no such file, a syntax error, a key given twice, or not a mapping.
    """
    from ruamel.yaml import YAML  # here, so that settings are checked where only PyYAML is installed
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None
    except YAMLError as fault:
        raise ConfigError(f"{path.name}: not valid YAML\n{fault}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: expected sections (key: value), got {describe(raw)}")
    return raw


class UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which by itself takes the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Build a mapping, or refuse a key that is given twice."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_settings(path: Path, kind: type[S]) -> S:
    """Read a small file that holds one section and nothing else.

    PyYAML reads it, because an encoder is also built where ruamel.yaml is not installed.

    Raises:
        ConfigError: no such file, a syntax error, or the list of all faults of keys and values.
    """
    try:
        raw = yaml.load(path.read_bytes(), UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as fault:
        raise ConfigError(f"{path}: not valid YAML\n{fault}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected lines `key: value`, got {describe(raw)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [explain("", kind, fault) for fault in error.errors()]
        raise ConfigError(render(str(path), faults)) from None
