"""What becomes of a finished study: its winner in params.yaml and in DVC's cache, a summary for git."""

import difflib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode

from drtune.base.errors import StudyError
from drtune.base.files import replacing, write_json
from drtune.runs.naming import encoded
from drtune.runs.record import git
from drtune.runs.run_cache import record_result
from drtune.runs.stage_key import under
from drtune.studies.design import described
from drtune.studies.standing import Standing
from drtune.studies.study import Study

PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
RESERVED = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""Words that YAML 1.1 or 1.2 does not read as text."""
BLOCKS = ("|", ">")
"""Styles of text that goes on in the lines below."""


def edited(text: str, values: Mapping[str, Any]) -> str:
    """A YAML text with dotted names set; nothing but the values changes, and comments stay in line.

    A value that is there already stays as it is written, unless it is of another type (1 for 1.0): the stage
    key tells them apart.

    Raises:
        StudyError: a name that is not there, or holds no single value of its own.
    """
    top = YAML().compose(text)
    places = {name: place_of(top, name) for name in values}
    for name, node in sorted(places.items(), key=lambda item: -item[1].start_mark.index):
        start, end = node.start_mark.index, node.end_mark.index
        old, new = text[start:end], scalar(values[name])
        rest = text[end:]
        if comment := re.match(r" +(?=#)", rest):
            room = max(1, len(comment[0]) + len(old) - len(new))
            rest = " " * room + rest[len(comment[0]) :]
        there = YAML(typ="safe", pure=True).load(old)
        same = there == values[name] and type(there) is type(values[name])
        if not same or old.lower() in RESERVED:
            text = text[:start] + new + rest
    return text


def place_of(top: Any, name: str) -> Any:
    """The node of a dotted name in a composed document."""
    node = top
    for part in name.split("."):
        pairs = node.value if isinstance(node, MappingNode) else []
        node = next((value for key, value in pairs if key.value == part), None)
    if not isinstance(node, ScalarNode):
        raise StudyError(f"params.yaml: {name} is not there as a single value, so it cannot be set")
    if node.anchor or node.style in BLOCKS or node.start_mark.index == node.end_mark.index:
        remedy = "write it out, without an anchor and not empty"
        raise StudyError(
            f"params.yaml: {name} is no plain value in its own line, so it cannot be set; {remedy}"
        )
    return node


def scalar(value: Any) -> str:
    """A number, text or true/false as YAML 1.1 and 1.2 both read it: no exponents, quotes where needed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        digits = f"{Decimal(repr(value)):f}"
        return digits if "." in digits else f"{digits}.0"
    if isinstance(value, int):
        return str(value)
    plain = PLAIN.fullmatch(str(value)) and str(value).lower() not in RESERVED
    return str(value) if plain else json.dumps(str(value), ensure_ascii=False)


def difference(before: str, after: str, name: str) -> str:
    """Both texts as a unified diff; empty where they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}", n=1
    )
    return "".join(lines)


def chosen(study: Study, number: int | None) -> Standing:
    """The trial to apply: the best one, or the one named.

    Raises:
        StudyError: none is complete, the named one is not, or several are best.
    """
    trials = {trial.first: trial for trial in study.standings()}
    if number is not None:
        if number not in trials or trials[number].state != "COMPLETE":
            complete = ", ".join(str(first) for first, trial in trials.items() if trial.state == "COMPLETE")
            raise StudyError(
                f"study {study.name!r}: trial {number} is not complete; complete: {complete or 'none'}"
            )
        return trials[number]
    best = study.best()
    if not best:
        raise StudyError(
            f"study {study.name!r}: no trial is complete yet; `drtune study resume {study.name}`"
        )
    if len(best) > 1:
        front = ", ".join(str(trial.first) for trial in best)
        what = "has two objectives, no trial is best in both; choose one with --trial"
        raise StudyError(f"study {study.name!r}: {what}: {front}")
    return best[0]


def refuse_uncommitted(params: Path) -> None:
    """Refuse to write over changes of the user's that git does not have.

    Raises:
        StudyError: the file differs from the last commit, or git does not have it or does not answer.
    """
    command = ["status", "--porcelain", "--branch", "--ignored", "--", params.name]
    branch, *state = git(params.absolute().parent, *command).splitlines() or [""]
    remedy = "commit them first, or apply with --force"
    if not branch:
        raise StudyError(f"{params}: git cannot say whether it has changes; {remedy}")
    if state:
        raise StudyError(f"{params}: has changes that are not committed ({state[0].strip()}); {remedy}")


def apply(params: Path, values: Mapping[str, Any]) -> str:
    """Write values into params.yaml; returns the difference, empty where it held them already."""
    before = params.read_bytes().decode("utf-8")  # as text, all ends of lines would become those of Unix
    after = edited(before, values)
    if after != before:
        with replacing(params) as fresh:
            fresh.write_bytes(after.encode("utf-8"))
    return difference(before, after, params.name)


def give_to_dvc(root: Path, entry: Mapping[str, Any], values: Mapping[str, Any], trial: Path) -> bool:
    """Hand a trial's finished model to DVC's cache, so that `dvc repro` takes it and does not train again.

    Args:
        root: the DVC repository.
        entry: the train stage as it stands.
        values: of the trial.
        trial: folder of its first training; the outs lie below it.

    Returns:
        Whether it was there: a trial of another machine leaves its model on that one.
    """
    outs = [out["path"] for out in entry.get("outs", [])]
    if not all((trial / out).exists() for out in outs):
        return False
    record_result(root, under(entry, values), trial)
    return True


def export(study: Study, path: Path) -> None:
    """Write what a study found as small, sorted JSON for git; equal studies give equal bytes."""
    summary: dict[str, Any] = {
        "name": study.name,
        "settings": {name: value for name, value in study.settings.model_dump().items() if name != "space"},
        "space": {name: described(domain) for name, domain in study.space.items()},
        "params": dict(study.design.params),
        "best": [trial.first for trial in study.best()],
        "trials": [
            {
                "number": trial.first,
                "state": trial.state,
                "values": [encoded(value) for value in trial.values],
                "params": dict(trial.params),
                **({"fault": trial.fault} if trial.fault else {}),
            }
            for trial in sorted(study.standings(), key=lambda trial: trial.first)
        ],
    }
    write_json(path, json.loads(json.dumps(summary, sort_keys=True)))
