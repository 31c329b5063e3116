"""Read YAML files: a mapping as it stands, or one section as closed, typed settings."""

from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from drtune.base.errors import ConfigError
from drtune.base.faults import describe, explain, render
from drtune.base.settings import Settings

S = TypeVar("S", bound=Settings)
LARGEST, DEEPEST = 32_000_000, 30
"""Bytes of a file (a dvc.lock of thousands of stages has one million), and levels in it."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping (so that `1e-3` is a number).

    Raises:
        ConfigError: no such file, a syntax error, a key given twice, or not a mapping.
    """
    from ruamel.yaml import YAML  # here, so that settings are checked where only PyYAML is installed
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe", pure=True).load(bounded(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; run from the folder that holds dvc.yaml") from None
    except (YAMLError, yaml.YAMLError, ValueError) as fault:
        raise ConfigError(f"{path.name}: not valid YAML\n{str(fault)[:2000]}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: expected sections (key: value), got {describe(raw)}")
    return raw


def bounded(path: Path) -> str:
    """The text of a YAML file of reasonable size and depth; without aliases, which mean more than they say.

    Raises:
        ConfigError: it is too large or too deep, or has an alias.
        yaml.YAMLError: it is no YAML.
        FileNotFoundError: there is none.
    """
    if path.stat().st_size > LARGEST:
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; settings have at most {LARGEST:,}")
    text, depth = path.read_text(encoding="utf-8"), 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ConfigError(f"{path}: line {line} refers to *{event.anchor}; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{path}: line {event.start_mark.line + 1} is more than {DEEPEST} levels deep")
    return text


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
        raw = yaml.load(bounded(path), UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, ValueError) as fault:
        raise ConfigError(f"{path}: not valid YAML\n{str(fault)[:2000]}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected lines `key: value`, got {describe(raw)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        faults = [explain("", kind, fault) for fault in error.errors()]
        raise ConfigError(render(str(path), faults)) from None
