"""What a study is about, so that trials of one study can be compared and its winner can be applied."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drtune.base.errors import StudyError
from drtune.base.settings import Params
from drtune.runs.naming import flat
from drtune.runs.stage_key import StageIdentity, current_stage_key
from drtune.studies.domains import Space, described, domain_from
from drtune.studies.space import StudySettings, own_values, read_study

SHORT = 8
"""Characters of a fingerprint in a study's name."""


@dataclass(frozen=True)
class Design:
    """A study's plan, and all that its trials have in common."""

    settings: StudySettings
    space: Space
    own: Mapping[str, Any]  # what params.yaml says of each name of the space
    params: Mapping[str, Any]  # what the train stage depends on, without those names; dotted
    deps: Mapping[str, str]  # path -> md5 of the stage's dependencies: code, data set, bank, weights

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        space = {name: described(domain) for name, domain in self.space.items()}
        return {**vars(self), "settings": self.settings.model_dump(), "space": space}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Design":
        """Back from JSON."""
        space = {name: domain_from(value) for name, value in facts["space"].items()}
        return cls(**{**facts, "settings": StudySettings.model_validate(facts["settings"]), "space": space})

    def comparable(self) -> dict[str, Any]:
        """What is equal in studies whose trials can be compared: all but their number and first point."""
        facts = self.facts()
        del facts["own"], facts["settings"]["trials"], facts["settings"]["space"]  # which is there, parsed
        return facts

    def fingerprint(self) -> str:
        """64 hexadecimal digits that are equal for studies whose trials can be compared."""
        return hashlib.sha256(json.dumps(self.comparable(), sort_keys=True).encode()).hexdigest()


def design_of(params: Params, entry: Mapping[str, Any]) -> Design:
    """The design that params.yaml and the train stage make; a ConfigError lists faults in `study`."""
    settings, space = read_study(params)
    stage = {name: value for file in entry.get("params", {}).values() for name, value in file.items()}
    common = {name: value for name, value in flat(stage).items() if name not in space}
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])}
    return Design(settings, space, own_values(params, space), common, deps)


def train_stage() -> StageIdentity:
    """The train stage of the current folder as it stands; a StudyError where there is none."""
    if (stage := current_stage_key(Path.cwd(), "train")) is None:
        raise StudyError(
            "the train stage has no key here; run this in the project's folder, a DVC repository"
        )
    return stage


def require_same(name: str, then: Design, now: Design) -> None:
    """Make sure that trials of a study can be compared with those that would come now, else a StudyError."""
    before, after = flat(then.comparable()), flat(now.comparable())
    lines = []
    for key in sorted({*before, *after}):
        old, new = (json.dumps(facts[key]) if key in facts else "absent" for facts in (before, after))
        if old != new:
            lines.append(f"  {key}: {'changed' if key.startswith('deps.') else f'{old} then, {new} now'}")
    if lines:
        remedy = "another --name begins another study; to go on with this one, undo the changes"
        raise StudyError(f"study {name!r} is about something else; {remedy}:\n" + "\n".join(lines))
