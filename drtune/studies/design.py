"""What a study is about, so that trials of one study can be compared and its winner can be applied."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drtune.base.errors import StudyError
from drtune.base.settings import Params
from drtune.runs.naming import flat
from drtune.runs.stage_key import StageIdentity
from drtune.studies.domains import Choices, Domain, Interval
from drtune.studies.space import StudySettings, own_values, read_study

SHORT = 8
"""Characters of a fingerprint in a study's name."""


@dataclass(frozen=True)
class Design:
    """A study's plan, and all that its trials have in common.

    Attributes:
        settings: `study` in params.yaml.
        space: dotted name -> domain.
        own: what params.yaml says of each name of the space.
        params: what the train stage depends on, without the names of the space; dotted.
        deps: path -> md5 of the train stage's dependencies: code, data set, bank, weights.
    """

    settings: StudySettings
    space: Mapping[str, Domain]
    own: Mapping[str, Any]
    params: Mapping[str, Any]
    deps: Mapping[str, str]

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "settings": self.settings.model_dump(),
            "space": {name: described(domain) for name, domain in self.space.items()},
            "own": dict(self.own),
            "params": dict(self.params),
            "deps": dict(self.deps),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Design":
        """Back from JSON."""
        space = {name: domain_from(value) for name, value in facts["space"].items()}
        settings = StudySettings.model_validate(facts["settings"])
        return cls(settings, space, facts["own"], facts["params"], facts["deps"])

    def fingerprint(self) -> str:
        """64 hexadecimal digits that are equal for studies whose trials can be compared."""
        text = json.dumps(comparable(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def design_of(params: Params, entry: Mapping[str, Any]) -> Design:
    """The design that params.yaml and the train stage as it stands make.

    Args:
        params: settings, read with every method's.
        entry: the train stage as dvc.lock will describe it, from `current_stage_key`.

    Raises:
        ConfigError: faults in `study`.
    """
    settings, space = read_study(params)
    own = own_values(params, space)
    stage = {name: value for file in entry.get("params", {}).values() for name, value in file.items()}
    common = {name: value for name, value in flat(stage).items() if name not in space}
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    return Design(settings, space, own, common, deps)


def keyed(stage: StageIdentity | None) -> StageIdentity:
    """The train stage as it stands, as `current_stage_key` found it.

    Raises:
        StudyError: it found none.
    """
    if stage is None:
        what = "the train stage has no key here; run this in the project's folder, a DVC repository"
        raise StudyError(what)
    return stage


def comparable(design: Design) -> dict[str, Any]:
    """What must be equal: all but the number of trials and the first point."""
    facts = design.facts()
    del facts["own"]
    for name in ("trials", "space"):  # the space stands beside the settings, parsed
        del facts["settings"][name]
    return facts


def differences(then: Design, now: Design) -> list[str]:
    """One line for each thing that two designs disagree about; empty where their trials can be compared."""
    before, after = flat(comparable(then)), flat(comparable(now))
    lines = []
    for name in sorted({*before, *after}):
        old, new = (json.dumps(facts[name]) if name in facts else "absent" for facts in (before, after))
        if old != new:
            what = "changed" if name.startswith("deps.") else f"{old} then, {new} now"
            lines.append(f"  {name}: {what}")
    return lines


def require_same(name: str, then: Design, now: Design) -> None:
    """Make sure that trials of a study can be compared with those that would come now.

    Raises:
        StudyError: with one line for each difference.
    """
    if found := differences(then, now):
        remedy = "another --name begins another study; to go on with this one, undo the changes"
        raise StudyError(f"study {name!r} is about something else; {remedy}:\n" + "\n".join(found))


def described(domain: Domain) -> dict[str, Any]:
    """A domain as JSON."""
    if isinstance(domain, Choices):
        return {"choices": list(domain.values)}
    return asdict(domain)


def domain_from(value: Mapping[str, Any]) -> Domain:
    """Back from JSON."""
    return Choices(tuple(value["choices"])) if "choices" in value else Interval(**value)
