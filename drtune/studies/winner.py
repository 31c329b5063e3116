"""What becomes of a finished study: its winner in params.yaml and in DVC's cache."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode

from drtune.base.errors import StudyError
from drtune.base.files import replacing
from drtune.params import PARAMS, load
from drtune.runs.record import git
from drtune.runs.run_cache import record_result
from drtune.runs.stage_key import stage_key, under
from drtune.studies.design import train_stage
from drtune.studies.domains import written
from drtune.studies.standing import Standing
from drtune.studies.study import Study
from drtune.studies.worker import made_with, trial_folder
from drtune.training.settings import TrainSettings

PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
RESERVED = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
"""Words that YAML 1.1 or 1.2 does not read as text."""
BLOCKS = ("|", ">")
"""Styles of text that goes on in the lines below."""


def apply_trial(
    root: Path, study: Study, number: int | None, force: bool, say: Callable[[str], None]
) -> None:
    """Write a trial's settings into params.yaml, and give its model to DVC where it is on this machine.

    A ConfigError where a setting of the study does not move the train stage as it stands; a StudyError where
    there is no such complete trial or no train stage, or params.yaml has uncommitted changes.
    """
    trial = chosen(study, number)
    if not force:
        refuse_uncommitted(PARAMS)
    entry = train_stage().entry
    place = trial_folder(root, study.name, trial.first)
    folder = place / f"seed-{load(PARAMS)[TrainSettings].seed}"
    made = made_with(place, stage_key(entry, trial.params))
    given = made and give_to_dvc(root, entry, trial.params, folder)
    say(apply(PARAMS, trial.params) or "params.yaml has these values already")
    if given:
        say(f"`dvc repro` takes the model of trial {trial.first}, it is not trained again")
    else:
        why = "was made from other code, data or settings" if place.exists() else "is not on this machine"
        say(f"the model of trial {trial.first} {why}: `dvc repro` trains with its settings")


def chosen(study: Study, number: int | None) -> Standing:
    """The trial to apply: the best one, or the one named; a StudyError says why there is none."""
    trials = {trial.first: trial for trial in study.standings() if trial.state == "COMPLETE"}
    best = study.best()
    if number is not None:
        if number in trials:
            return trials[number]
        what = f"trial {number} is not complete; complete: {', '.join(map(str, trials)) or 'none'}"
    elif len(best) == 1:
        return best[0]
    elif best:
        front = ", ".join(str(trial.first) for trial in best)
        what = f"has two objectives, no trial is best in both; choose one with --trial: {front}"
    else:
        what = f"no trial is complete yet; `drtune study resume {study.name}`"
    raise StudyError(f"study {study.name!r}: {what}")


def refuse_uncommitted(params: Path) -> None:
    """Refuse in a StudyError to write over changes of the user's that git does not have, or may not have."""
    command = ["status", "--porcelain", "--branch", "--ignored", "--", params.name]
    branch, *state = git(params.absolute().parent, *command).splitlines() or [""]
    remedy = "commit them first, or apply with --force"
    if not branch:
        raise StudyError(f"{params}: git cannot say whether it has changes; {remedy}")
    if state:
        raise StudyError(f"{params}: has changes that are not committed ({state[0].strip()}); {remedy}")


def give_to_dvc(root: Path, entry: Mapping[str, Any], values: Mapping[str, Any], folder: Path) -> bool:
    """Hand a trial's finished model to DVC's cache, so that `dvc repro` takes it and does not train again.

    Returns whether the outs of the stage `entry` are there: a trial leaves them on the machine that ran it.
    """
    there = all((folder / out["path"]).exists() for out in entry.get("outs", []))
    if there:
        record_result(root, under(entry, values), folder)
    return there


def apply(params: Path, values: Mapping[str, Any]) -> str:
    """Write values into params.yaml; returns the difference, empty where it held them already."""
    before = params.read_bytes().decode("utf-8")  # as text, all ends of lines would become those of Unix
    after = edited(before, values)
    if after != before:
        with replacing(params) as fresh:
            fresh.write_bytes(after.encode("utf-8"))
    texts = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*texts, f"a/{params.name}", f"b/{params.name}", n=1))


def edited(text: str, values: Mapping[str, Any]) -> str:
    """A YAML text with dotted names set; nothing but the values changes, and comments stay in line.

    A value that is there already stays as it is written, unless it is of another type (1 for 1.0): the stage
    key tells them apart. A StudyError names what is not there, or holds no single value of its own.
    """
    top = YAML().compose(text)
    places = [(place_of(top, name), value) for name, value in values.items()]
    for node, value in sorted(places, key=lambda place: -place[0].start_mark.index):
        start, end = node.start_mark.index, node.end_mark.index
        old, new, rest = text[start:end], scalar(value), text[end:]
        there = YAML(typ="safe", pure=True).load(old)
        if there == value and type(there) is type(value) and old.lower() not in RESERVED:
            continue
        if comment := re.match(r" +(?=#)", rest):
            room = max(1, len(comment[0]) + len(old) - len(new))
            rest = " " * room + rest[len(comment[0]) :]
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
        what = "is no plain value in its own line, so it cannot be set; write it out, without an anchor"
        raise StudyError(f"params.yaml: {name} {what} and not empty")
    return node


def scalar(value: Any) -> str:
    """A number, text or true/false as YAML 1.1 and 1.2 both read it: no exponents, quotes where needed."""
    if isinstance(value, float):
        digits = f"{Decimal(repr(value)):f}"
        return digits if "." in digits else f"{digits}.0"
    if not isinstance(value, str) or (PLAIN.fullmatch(value) and value.lower() not in RESERVED):
        return written(value)
    return json.dumps(value, ensure_ascii=False)
