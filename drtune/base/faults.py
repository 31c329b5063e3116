"""Faults in settings, in plain words: dotted name, value found, what is allowed, the nearest known name."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from drtune.base.errors import shown

Fault = tuple[str, str]
"""(dotted name, what is wrong with it)"""
LONG_LIST, LONG_TEXT, MOST_FAULTS, LONGEST_NAME = 16, 400, 40, 255
T = TypeVar("T")


def unknown_keys(prefix: str, given: Mapping[str, Any], known: list[str]) -> list[Fault]:
    """One fault for each key of `given` that is not in `known`."""
    return [
        (f"{prefix}{key}", "unknown key" + suggestion(str(key), known)) for key in given if key not in known
    ]


def unknown_value(value: str, known: list[str]) -> str:
    """Say that `value` is none of `known`, with the nearest one."""
    return f"{value!r} is unknown" + suggestion(value, known)


def suggestion(word: str, known: list[str]) -> str:
    """Return '; did you mean X? known: …'; a long list is left out where a near name was found."""
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    return hint if near and len(known) > LONG_LIST else f"{hint} known: {', '.join(known)}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = [f"… ({len(every) - most} more)"] if len(every) > most else []
    return ", ".join(every[:most] + more)


def how_many(faults: Sized) -> str:
    """`1 fault`, `2 faults`."""
    return f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"


def render(source: str, faults: list[Fault]) -> str:
    """Lay faults out as an aligned list under a count."""
    faults = list(dict(reversed(faults)).items())[::-1]  # a union's branches each complain of the same key
    width = max(len(key) for key, _ in faults)
    head = f"{source}: {how_many(faults)}"
    return "\n".join([head, *(f"  {key:<{width}}  {text}" for key, text in faults)])


def describe(value: Any) -> str:
    """Show a value with its kind in words: '100' (text), 3 (integer), nothing (null)."""
    kinds = {str: "text", bool: "true/false", int: "integer", float: "number", list: "list", dict: "section"}
    if value is None:
        return "nothing (null)"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        text = "a value without end"
    text = text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]}…"
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"


WORDS: Mapping[str, str] = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section (key: value)",
    "model_type": "a section (key: value)",
}
LIMITS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
    "less_than": ("lt", "<"),
}


def each_once(values: list[T]) -> list[T]:
    """Validate that a list names nothing twice."""
    for value, count in Counter(values).items():
        if count > 1:
            raise PydanticCustomError("repeated", "names {value} twice; name each once", {"value": value})
    return values


def plain_names(names: list[str]) -> list[str]:
    """Validate that names of classes can be written into a line of a file or terminal."""
    for name in names:
        if not plain_name(name):
            text = (
                f"{name!r:.100} is no name of a class; allowed are 1 to {LONGEST_NAME} signs without control"
            )
            raise PydanticCustomError("sentence", "{text}", {"text": text})
    return names


def plain_name(name: str) -> bool:
    """Whether a name is short, can be encoded, and steers no terminal."""
    sound = name.encode("utf-8", "replace").decode() == name and not re.search("[\n\t]", name)
    return bool(name) and len(name) <= LONGEST_NAME and sound and shown(name) == name


def hexadecimal(length: int) -> AfterValidator:
    """Validate that a text is a digest of so many hexadecimal digits."""

    def check(value: str) -> str:
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
            raise PydanticCustomError("digest", "expected {length} hexadecimal digits", {"length": length})
        return value

    return AfterValidator(check)


def faults_of(
    prefix: str, section: type[BaseModel], error: ValidationError, passed_over: str = ""
) -> list[Fault]:
    """What pydantic found, in plain words; a file of thousands of faults is no settings file.

    Args:
        prefix: dotted name of the section; empty where it is the whole file.
        section: the settings type.
        error: as pydantic raises it.
        passed_over: pydantic's type of faults that are none here.
    """
    wrong = [fault for fault in error.errors() if fault["type"] != passed_over]
    return [explain(prefix, section, fault) for fault in wrong[:MOST_FAULTS]]


def explain(prefix: str, section: type[BaseModel], fault: Any) -> Fault:
    """Turn one pydantic fault into (dotted name, plain words); one of type `sentence` is words already."""
    place = fault["loc"]  # the field, then branches of a union (text) and places in a list (numbers)
    if not place:
        return prefix or "all of it", f"expected a section (key: value), got {describe(fault['input'])}"
    field = section.model_fields.get(place[0])
    if field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and place[1:]:
        return explain(joined(prefix, place[0]), field.annotation, {**fault, "loc": place[1:]})
    if len(place) > 2 and (inner := section_in_list(section, place[0])):
        return explain(joined(prefix, *place[:2]), inner, {**fault, "loc": place[2:]})
    parts = [str(place[0]), *(str(part) for part in place[1:] if isinstance(part, int))]
    key, kind, context = joined(prefix, *parts), fault["type"], fault.get("ctx", {})
    got = describe(fault["input"])
    if kind == "extra_forbidden":
        return key, "unknown key" + suggestion(parts[-1], list(section.model_fields))
    if kind == "missing":
        return key, "is missing" + rule_of(section, parts[0], "; expected ")
    if kind == "literal_error":
        return key, f"expected {context['expected']}, got {got}"
    if kind in WORDS:
        return key, f"expected {rule_of(section, parts[0]) or WORDS[kind]}, got {got}"
    if kind in LIMITS:
        name, sign = LIMITS[kind]
        return key, f"expected {rule_of(section, parts[0]) or f'a value {sign} {context[name]}'}, got {got}"
    if kind in ("too_short", "too_long"):
        return key, f"expected {rule_of(section, parts[0])}, got {got}"
    return key, fault["msg"] if kind == "sentence" else f"{fault['msg']}, got {got}"


def joined(*names: int | str) -> str:
    """A dotted name; empty parts are left out."""
    return ".".join(str(name) for name in names if name != "")


def section_in_list(section: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The settings type that a field lists, or None where it is no list of sections."""
    kinds = get_args(section.model_fields[field].annotation) if field in section.model_fields else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def rule_of(section: type[BaseModel], field: str, prefix: str = "") -> str:
    """Say in words what a field accepts, from its JSON schema: 'an integer >= 1 or null'."""
    schema = section.model_json_schema()["properties"].get(field)
    return prefix + rule(schema) if schema else ""


def rule(schema: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema accepts."""
    if "anyOf" in schema:
        return " or ".join(rule(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(map(str, schema.get("enum", [schema.get("const")])))
    kinds = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false"}
    kinds |= {"null": "null", "object": "a section (key: value)"}
    if "enum" in schema.get("items", {}):
        return f"a list of {rule(schema['items'])}" + (", at least one" if schema.get("minItems") else "")
    if schema.get("type") == "array":
        items = schema["items"]
        what = "sections" if "$ref" in items else "texts" if items.get("type") == "string" else "numbers"
        return f"a list of {schema.get('minItems', '')} {what}".replace("  ", " ")
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([kinds.get(str(schema.get("type")), "a value"), " and ".join(limits)]).strip()
