import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from drtune.base.errors import ConfigError, StudyError
from drtune.base.yaml import read_yaml
from drtune.params import SETTINGS, parse, with_values
from drtune.runs.stage_key import under
from drtune.studies.design import (
    Design,
    design_of,
    require_same,
)
from drtune.studies.domains import described, domain_from

ROOT = Path(__file__).resolve().parents[2]
RAW = read_yaml(ROOT / "params.yaml")
WEIGHT, RATE = "methods.dr_tune.weight", "train.lr_head"
SPACE = {WEIGHT: {"low": 0.1, "high": 10.0, "log": True}, RATE: [0.25, 0.5]}


def params_of(change=None, **study):
    """The shipped settings with other values and a small study."""
    raw = with_values(RAW, change or {})
    raw["study"] |= {"space": SPACE, "trials": 3} | study
    return parse(raw, "params.yaml", SETTINGS)


def entry_of(raw, **deps):
    """The train stage as dvc.lock will describe it."""
    return {
        "cmd": "python -m pipeline train",
        "deps": [{"path": path, "md5": md5, "size": 1} for path, md5 in {"a.py": "1", **deps}.items()],
        "params": {
            "params.yaml": {
                "train": raw["train"],
                "augment": raw["augment"],
                "methods.dr_tune": raw["methods"]["dr_tune"],
            }
        },
        "outs": [{"path": "models"}],
    }


def design(change=None, deps=None, **study):
    params = params_of(change, **study)
    return design_of(params, entry_of(params.raw, **(deps or {})))


# --- what a study is about


def test_a_design_tells_what_varies_from_what_trials_have_in_common():
    made = design(deps={"data/bank": "2.dir"})
    assert made.space == {
        WEIGHT: FloatDistribution(0.1, 10.0, log=True),
        RATE: CategoricalDistribution((0.25, 0.5)),
    }
    assert made.own == {WEIGHT: 1.0, RATE: 0.25}
    assert made.deps == {"a.py": "1", "data/bank": "2.dir"}
    assert made.params["train.lr_backbone"] == 0.0003
    assert made.params["methods.dr_tune.rotation"] == "proper"
    assert made.params["augment.crop_area"] == [0.6, 1.0]
    assert not {WEIGHT, RATE} & set(made.params)
    assert made.settings.trials == 3


def test_a_dependency_that_is_missing_has_no_content():
    params = params_of()
    entry = entry_of(params.raw)
    entry["deps"].append({"path": "gone"})
    assert design_of(params, entry).deps == {"a.py": "1", "gone": ""}


def test_faults_of_the_study_are_told():
    params = params_of(trials=0)
    with pytest.raises(ConfigError, match="study.trials  expected an integer >= 1, got 0"):
        design_of(params, entry_of(params.raw))


@pytest.mark.parametrize("method", list(SETTINGS))
def test_the_train_stage_depends_on_all_that_a_study_can_vary(method):
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    named = [name.replace("${train.method}", method) for name in stage["params"]]
    entry = {"params": {"params.yaml": {name: section(name) for name in named}}}
    fields = [
        *(f"train.{name}" for name in RAW["train"]),
        *(f"augment.{name}" for name in RAW["augment"]),
        *(f"methods.{method}.{name}" for name in RAW["methods"][method]),
    ]
    changed = under(entry, dict.fromkeys(fields, "changed"))
    assert str(changed).count("'changed'") == len(fields), "each has its place in the stage key"


def differences(then, now):
    """What two designs disagree about, as the user is told."""
    try:
        require_same("s", then, now)
    except StudyError as fault:
        return str(fault).split("\n")[1:]
    return []


def section(name):
    node = RAW
    for part in name.split("."):
        node = node[part]
    return node


# --- as JSON


def test_a_design_comes_back_from_json_with_its_types():
    made = design()
    facts = json.loads(json.dumps(made.facts()))
    back = Design.from_facts(facts)
    assert back == made
    assert back.fingerprint() == made.fingerprint()
    assert json.loads(json.dumps(back.facts())) == facts


@pytest.mark.parametrize(
    "domain",
    [
        FloatDistribution(0.1, 1.0),
        FloatDistribution(0.1, 1.0, log=True),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 8),
        IntDistribution(32, 2048, log=True),
        CategoricalDistribution((True, False)),
        CategoricalDistribution((3, 0.5, "off", True, None)),
    ],
)
def test_a_domain_comes_back_from_json(domain):
    back = domain_from(json.loads(json.dumps(described(domain))))
    assert back == domain
    assert repr(back) == repr(domain), "1 stays 1, and true stays true"


# --- which studies are the same


SAME = [
    {"trials": 50},
    {"change": {WEIGHT: 5.0}},
    {"change": {RATE: 0.5}},
    {"space": dict(reversed(SPACE.items()))},
    {"change": {"evaluate.bootstrap": 500, "data.seed": 3}},
]
"""More trials, another first point, another order, what the train stage does not depend on."""


@pytest.mark.parametrize("change", SAME, ids=str)
def test_trials_can_be_compared(change):
    assert design(**change).fingerprint() == design().fingerprint()
    assert differences(design(), design(**change)) == []
    require_same("s", design(), design(**change))


OTHER = [
    ({"seed": 1}, ["  settings.seed: 0 then, 1 now"]),
    ({"sampler": "random"}, ['  settings.sampler: "auto" then, "random" now']),
    ({"seeds": 3}, ["  settings.seeds: 1 then, 3 now"]),
    (
        {"metric": "val_loss", "direction": "minimize"},
        [
            '  settings.direction: "maximize" then, "minimize" now',
            '  settings.metric: "val_accuracy" then, "val_loss" now',
        ],
    ),
    (
        {"cost": "seconds", "pruner": "none"},
        ['  settings.cost: null then, "seconds" now', '  settings.pruner: "median" then, "none" now'],
    ),
    ({"change": {"train.epochs": 30}}, ["  params.train.epochs: 20 then, 30 now"]),
    (
        {"change": {"augment.crop_area": [0.5, 1.0]}},
        ["  params.augment.crop_area: [0.6, 1.0] then, [0.5, 1.0] now"],
    ),
    ({"deps": {"a.py": "2"}}, ["  deps.a.py: changed"]),
    ({"deps": {"b.py": "2"}}, ["  deps.b.py: changed"]),
    (
        {"space": SPACE | {WEIGHT: {"low": 0.1, "high": 20.0, "log": True}}},
        [f"  space.{WEIGHT}.high: 10.0 then, 20.0 now"],
    ),
    (
        {"space": SPACE | {WEIGHT: {"low": 0.1, "high": 10.0}}},
        [f"  space.{WEIGHT}.log: true then, false now"],
    ),
    (
        {"space": SPACE | {RATE: [0.25, 0.75]}},
        [f"  space.{RATE}.choices: [0.25, 0.5] then, [0.25, 0.75] now"],
    ),
    (
        {"space": {WEIGHT: SPACE[WEIGHT]}},
        [
            f"  params.{RATE}: absent then, 0.25 now",
            f"  space.{RATE}.choices: [0.25, 0.5] then, absent now",
        ],
    ),
]


@pytest.mark.parametrize(("change", "lines"), OTHER, ids=[str(change) for change, _ in OTHER])
def test_trials_cannot_be_compared(change, lines):
    assert design(**change).fingerprint() != design().fingerprint()
    assert differences(design(), design(**change)) == lines
    with pytest.raises(StudyError) as caught:
        require_same("mine", design(), design(**change))
    assert str(caught.value) == "\n".join(
        [
            "study 'mine' is about something else; another --name begins another study; to go on with this "
            "one, undo the changes:",
            *lines,
        ]
    )


def test_a_fingerprint_is_text_for_names():
    assert re.fullmatch(r"[0-9a-f]{64}", design().fingerprint())


def test_true_and_one_are_not_the_same():
    one, true = (replace(design(), params={"x": value}) for value in (1, True))
    assert differences(one, true) == ["  params.x: 1 then, true now"]
    assert one.fingerprint() != true.fingerprint()
