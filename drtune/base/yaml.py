"""Read YAML files: a mapping as it stands, or one section as closed, typed settings."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from drtune.base.errors import ConfigError
from drtune.base.faults import describe, faults_of, render
from drtune.base.settings import Settings

S = TypeVar("S", bound=Settings)
ENDINGS = (".yaml", ".yml")
LARGEST, DEEPEST, MOST, LONGEST = 8_000_000, 30, 100_000, 4000
"""Bytes of a file (a dvc.lock of thousands of stages has one million), levels, values, letters of a value."""
HUGE = re.compile(r"[-+]?\d[\d_]{18,}$|0[xo][\da-fA-F_]{16,}$")
WRONG = (yaml.YAMLError, ValueError, LookupError, AttributeError)
"""What PyYAML and ruamel.yaml raise, the last three for tags such as `!!bool x` and numbers without end."""


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
    except (YAMLError, *WRONG) as fault:
        raise ConfigError(f"{path.name}: not valid YAML\n{str(fault)[:2000]}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: expected sections (key: value), got {describe(raw)}")
    return raw


def bounded(path: Path) -> str:
    """The text of a YAML file of reasonable size and depth; without aliases, which mean more than they say.

    Raises:
        ConfigError: it is no file, too large or too deep, or has an alias.
        yaml.YAMLError: it is no YAML.
        FileNotFoundError: there is none.
    """
    if path.stat().st_size > LARGEST or not path.is_file():
        raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; expected a file of at most {LARGEST:,}")
    text, depth = path.read_text(encoding="utf-8"), 0
    for number, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}: line {line} refers to *{event.anchor}; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        is_value = isinstance(event, yaml.ScalarEvent)
        long = is_value and (len(event.value) > LONGEST or (event.implicit[0] and HUGE.match(event.value)))
        if depth > DEEPEST:
            raise ConfigError(f"{path}: line {line} is more than {DEEPEST} levels deep")
        if number > MOST or long:
            limits = f"at most {MOST:,} values, of {LONGEST:,} letters or 18 digits each"
            raise ConfigError(f"{path}: line {line}: not valid YAML here: {limits}")
    return text


class UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which by itself takes the last of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Build a mapping, or refuse a key that is given twice."""
        given = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in given.items() if times > 1]:
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
    except WRONG as fault:
        raise ConfigError(f"{path}: not valid YAML\n{str(fault)[:2000]}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected lines `key: value`, got {describe(raw)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(render(str(path), faults_of("", kind, error))) from None
