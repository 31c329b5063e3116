import math
from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml import YAML

from drtune.base.errors import ConfigError
from drtune.base.yaml import read_yaml
from drtune.data.settings import AugmentSettings
from drtune.params import SETTINGS, load, parse, with_values
from drtune.studies.domains import ends
from drtune.studies.space import (
    NOT_VARIED,
    number_kinds,
    own_values,
    read_study,
    resolved,
    too_many,
)
from drtune.training.settings import TrainSettings

SHIPPED = Path(__file__).resolve().parents[2] / "params.yaml"
RAW = read_yaml(SHIPPED)
WEIGHT, SIZE, ALPHA = "methods.dr_tune.weight", "methods.dr_tune.bank_size", "methods.sp.alpha"
RANGE = {"low": 0.5, "high": 2.0}
SHAPE = "expected {low: …, high: …, log: true} or {low: …, high: …, step: …} or a list of choices, got"
STEP = "must be above 0, at most high - low, and without log"
KEYS = "metric, direction, cost, trials, seeds, sampler, pruner, warmup_epochs, startup_trials, seed, space"
ALLOWED = "a study varies settings of the train stage alone; allowed: train.*, methods.dr_tune.*, augment.*"
OUTSIDE = "is not among its values; the first trial is params.yaml as it stands; change the domain"


def params_of(space=None, change=None, **study):
    """The shipped settings with another space of two trials, other values, other keys of `study`."""
    raw = with_values(RAW, change or {})
    raw["study"] |= ({} if space is None else {"space": space, "trials": 2}) | study
    return parse(raw, "params.yaml", SETTINGS)


def fault_of(space=None, change=None, **study):
    """What the user sees."""
    with pytest.raises(ConfigError) as caught:
        read_study(params_of(space, change, **study))
    return str(caught.value)


def seen(params, name, domain):
    """The value of a setting in the settings of a trial, for each end of its domain."""
    section, _, field = name.rpartition(".")
    for value in ends(domain):
        trial = resolved(params, {name: value})
        if section == "augment":
            yield getattr(trial[AugmentSettings], field)
        elif section.endswith("train"):
            yield getattr(trial[TrainSettings], field)
        else:
            yield getattr(trial.method(section.removeprefix("methods.")), field)


def moved(params):
    """All that a trial of a study can change, as text to compare."""
    train = params[TrainSettings]
    return repr((train, params.method(train.method), params[AugmentSettings]))


def reaches(params, name, domain):
    """Whether each value of a setting reaches the settings of its trial and makes them other ones."""
    trained = {moved(resolved(params, {name: value})) for value in ends(domain)}
    return list(seen(params, name, domain)) == list(ends(domain)) and len(trained) == len(ends(domain))


# --- the shipped study


def test_the_shipped_study_is_accepted():
    study, space = read_study(load(SHIPPED, SETTINGS))
    assert (study.metric, study.trials, study.sampler) == ("val_accuracy", 20, "auto")
    assert space[WEIGHT] == FloatDistribution(0.03, 30.0, log=True)
    assert space[SIZE] == IntDistribution(32, 2048, log=True)
    assert space["methods.dr_tune.rotation"] == CategoricalDistribution(("proper", "off"))
    assert space["methods.dr_tune.translation"] == CategoricalDistribution((True, False))
    assert list(space) == [name for name in RAW["study"]["space"] if not name.startswith("methods.sp.")]


def test_yaml_1_1_reads_the_same_study():
    assert yaml.safe_load(SHIPPED.read_text())["study"] == RAW["study"]


@pytest.mark.parametrize("name", list(RAW["study"]["space"]))
def test_each_setting_of_the_shipped_study_changes_what_is_trained(name):
    method = name.split(".")[1] if name.startswith("methods.") else RAW["train"]["method"]
    params = parse(with_values(RAW, {"train.method": method}), "params.yaml", SETTINGS)
    assert reaches(params, name, read_study(params)[1][name])


def test_settings_of_another_method_wait_until_it_is_the_active_one():
    space = {WEIGHT: RANGE, ALPHA: RANGE, "train.lr_head": {"low": 0.1, "high": 1.0}}
    assert list(read_study(params_of(space))[1]) == [WEIGHT, "train.lr_head"]
    misspelt = fault_of({WEIGHT: RANGE, "methods.sp.alhpa": RANGE})
    assert "study.space.methods.sp.alhpa  unknown setting; did you mean alpha?" in misspelt
    assert "names no setting of train or methods.dr_tune" in fault_of({ALPHA: RANGE})


# --- every setting of every method, of train and of augment

REPLACED = [
    (method, field) for method, own in RAW["methods"].items() for field in (own or {}).get("train", {})
]
"""(method, field of `train` that it replaces)"""
VARIED = [
    *((method, f"methods.{method}.train.{field}", TrainSettings) for method, field in REPLACED),
    *((method, f"methods.{method}.{field}", section) for method, section in SETTINGS.items()
      for field in section.model_fields),
    *(("finetune", f"train.{field}", TrainSettings) for field in TrainSettings.model_fields),
    *(("finetune", f"augment.{field}", AugmentSettings) for field in AugmentSettings.model_fields),
]  # fmt: skip
"""(method, dotted name, settings type)"""
NO_SCALAR = {"augment.crop_area", "augment.crop_ratio", "methods.delta.layers"}
ONE_VALUE = {"methods.lp_ft.train.head_init"}


def schema_of(section, field):
    return section.model_json_schema()["properties"][field]


def entry_for(section, field, own):
    """An entry of `study.space` that holds `own`; None for what takes no number and no two words."""
    schema = schema_of(section, field)
    options = schema.get("anyOf", [schema])
    words = [word for option in options for word in option.get("enum", [option.get("const")]) if word]
    if "integer" in number_kinds(schema):
        return {"low": own, "high": own + 3}
    if "number" in number_kinds(schema):
        top = min(option.get("maximum", option.get("exclusiveMaximum", math.inf)) for option in options)
        return {"low": own, "high": own + 0.5} if own + 0.5 < top else {"low": own / 2, "high": own}
    if {"type": "boolean"} in [{"type": option.get("type")} for option in options]:
        return [True, False]
    return words if len(words) > 1 else None


@pytest.mark.parametrize(("method", "name", "section"), VARIED, ids=[name for _, name, _ in VARIED])
def test_every_setting_can_be_varied_by_params_yaml_alone(tmp_path, method, name, section):
    raw = with_values(RAW, {"train.method": method, "train.optimizer": "sgd"})
    own = own_values(parse(raw, "params.yaml", SETTINGS), {name: None})[name]
    if own is None:  # what is switched off has no place in a range
        own = {"integer": 8, "number": 0.5}[min(number_kinds(schema_of(section, name.rpartition(".")[2])))]
        raw = with_values(raw, {name: own})
    entry = entry_for(section, name.rpartition(".")[2], own)
    if entry is None or name in NOT_VARIED:
        assert name in {*NO_SCALAR, *NOT_VARIED}
        return
    if name in ONE_VALUE:
        assert "expected 'bank'" in fault_of({name: entry}, {"train.method": method})
        return
    raw["study"] |= {"trials": 2, "space": {name: entry}}
    YAML(typ="safe", pure=True).dump(raw, tmp_path / "params.yaml")
    params = load(tmp_path / "params.yaml", SETTINGS)
    assert reaches(params, name, read_study(params)[1][name])


def test_these_are_all_settings_of_a_training():
    names = [name for _, name, _ in VARIED]
    assert len(set(names)) == len(names) > 70
    assert set(names) >= NO_SCALAR | ONE_VALUE | set(NOT_VARIED)


def test_alpha_of_sp_by_editing_params_yaml_alone(tmp_path):
    text = SHIPPED.read_text().replace("method: dr_tune ", "method: sp ")
    head = text.partition("  space: ")[0]
    file = tmp_path / "params.yaml"
    file.write_text(head + f"  space:\n    {ALPHA}: {{low: 0.001, high: 1e1, log: true}}\n")
    params = load(file, SETTINGS)
    assert read_study(params)[1] == {ALPHA: FloatDistribution(0.001, 10.0, log=True)}
    assert resolved(params, {ALPHA: 0.7}).method("sp").alpha == 0.7
    assert params.method("sp").alpha == 0.1, "the settings at hand stay as they are"


def test_what_replaces_a_setting_of_train_reaches_it():
    name = "methods.sp.train.weight_decay"
    params = params_of({name: [0.0, 0.5]}, {"train.method": "sp"})
    read_study(params)
    assert resolved(params, {name: 0.5})[TrainSettings].weight_decay == 0.5
    waiting = params_of({WEIGHT: RANGE, name: [0.0, 0.5]})
    assert list(read_study(waiting)[1]) == [WEIGHT], "of another method"
    assert "unknown setting; did you mean weight_decay?" in fault_of({WEIGHT: RANGE, f"{name}x": [0.0, 0.5]})


@pytest.mark.parametrize(("method", "field"), REPLACED)
def test_a_setting_of_train_that_the_method_replaces_is_refused(method, field):
    own, other = RAW["train"][field], {"head_init": "zero", "batch_norm": "train"}.get(field, 0.5)
    change, space = {"train.method": method}, {f"train.{field}": [own, other]}
    assert fault_of(space, change) == (
        f"params.yaml: 1 fault\n  study.space.train.{field}  "
        f"is replaced by methods.{method}.train.{field}; vary that one"
    )
    if f"methods.{method}.train.{field}" not in ONE_VALUE:
        params = params_of(space, change | {f"methods.{method}.train": {}})
        assert reaches(params, f"train.{field}", read_study(params)[1][f"train.{field}"])


def test_what_a_method_does_not_replace_is_varied_in_train():
    assert fault_of({"methods.dr_tune.train.lr_head": {"low": 0.1, "high": 1.0}}) == (
        "params.yaml: 1 fault\n  study.space.methods.dr_tune.train.lr_head  "
        "is not in params.yaml; vary train.lr_head, or write it there first"
    )
    seed = {"methods.dr_tune.train": {"seed": 3}}
    assert "cannot be varied: `study.seeds`" in fault_of({"methods.dr_tune.train.seed": [3, 4]}, seed)
    read_study(params_of({WEIGHT: RANGE}, seed))
    text = "2 trainings a trial would all take methods.dr_tune.train.seed; leave that out"
    assert f"study.seeds  {text}" in fault_of({WEIGHT: RANGE}, seed, seeds=2)


def test_augmentation_may_be_varied_while_the_bank_holds_none_of_it():
    space = {"augment.rotation": [10.0, 20.0]}
    params = params_of(space)
    assert reaches(params, "augment.rotation", read_study(params)[1]["augment.rotation"])
    assert fault_of(space, {"extract.views": 2}) == (
        "params.yaml: 1 fault\n  study.space.augment.rotation  "
        "the bank holds augmented rows, extract.views is 2; set that to 0"
    )


def test_what_is_switched_off_may_be_one_of_the_choices():
    space = {"train.ema_decay": [None, 0.99, 0.999], "train.clip_norm": [None, 1.0]}
    params = params_of(space)
    _, found = read_study(params)
    assert found["train.ema_decay"] == CategoricalDistribution((None, 0.99, 0.999))
    assert all(reaches(params, name, domain) for name, domain in found.items())


# --- faults of one entry


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (3, f"{SHAPE} 3 (integer)"),
        (None, f"{SHAPE} nothing (null)"),
        ({}, f"{SHAPE} {{}} (section)"),
        ({"low": 1}, f"{SHAPE} {{'low': 1}} (section)"),
        (RANGE | {"hihg": 3}, f"{SHAPE} {RANGE | {'hihg': 3}} (section)"),
        ([1.0], "needs at least two different choices, got [1.0]"),
        ([1.0, [2.0]], "choices must be numbers, text, true/false or null, got [1.0, [2.0]]"),
        ([1.0, None], f"{WEIGHT} expected a number > 0 or bank_over_batch, got nothing (null)"),
        ([1.0, math.inf], "choices must be finite, got [1.0, inf]"),
        (RANGE | {"low": "0.5"}, "low: expected a number, got '0.5' (text)"),
        (RANGE | {"low": True}, "low: expected a number, got True (true/false)"),
        (RANGE | {"high": math.inf}, "high: expected a number, got inf (number)"),
        (RANGE | {"low": math.nan}, "low: expected a number, got nan (number)"),
        (RANGE | {"step": None}, "step: expected a number, got nothing (null)"),
        (RANGE | {"log": "yes"}, "log: expected true or false, got 'yes' (text)"),
        (RANGE | {"low": 3}, "the range is empty: low 3 is not below high 2"),
        (RANGE | {"low": 2}, "the range is empty: low 2 is not below high 2"),
        (
            RANGE | {"low": 0, "log": True},
            "a log range must lie above zero, got low 0; raise low or drop log",
        ),
        (RANGE | {"step": 0.5, "log": True}, f"step 0.5: {STEP}"),
        (RANGE | {"step": 0}, f"step 0: {STEP}"),
        (RANGE | {"step": 9}, f"step 9: {STEP}"),
        (RANGE | {"step": 0.4}, "high 2 is no whole number of steps above low 0.5; set high: 1.7"),
        (RANGE | {"low": 0}, f"{WEIGHT} expected a number > 0 or bank_over_batch, got 0.0 (number)"),
        ([1.0, -1.0], f"{WEIGHT} expected a number > 0 or bank_over_batch, got -1.0 (number)"),
        ([1.0, "many"], f"{WEIGHT} expected a number > 0 or bank_over_batch, got 'many' (text)"),
        ([1, 1.0, 2.0], "needs at least two different choices, got [1, 1.0, 2.0]"),
        ([0.5, 2.0], f"params.yaml's own value 1.0 {OUTSIDE}"),
        ({"low": 2.0, "high": 3.0}, f"params.yaml's own value 1.0 {OUTSIDE}"),
        (RANGE | {"low": 0.4, "step": 0.4}, f"params.yaml's own value 1.0 {OUTSIDE}"),
    ],
)
def test_an_entry_that_is_refused(entry, text):
    assert fault_of({WEIGHT: entry}) == f"params.yaml: 1 fault\n  study.space.{WEIGHT}  {text}"


@pytest.mark.parametrize(
    ("name", "entry", "text"),
    [
        (
            "methods.dr_tune.wieght",
            RANGE,
            f"unknown setting; did you mean weight? known: {', '.join(SETTINGS['dr_tune'].model_fields)}",
        ),
        ("train.lr_haed", RANGE, "unknown setting; did you mean lr_head?"),
        ("weight", RANGE, ALLOWED),
        ("train", RANGE, ALLOWED),
        ("methods.none.alpha", RANGE, ALLOWED),
        ("evaluate.bootstrap", [100, 200], ALLOWED),
        ("data.shots", [5, 10], ALLOWED),
        ("backbone.name", ["resnet10t", "resnet18"], ALLOWED),
        ("study.trials", [5, 10], ALLOWED),
        *((name, [0, 1], f"cannot be varied: {why}") for name, why in NOT_VARIED.items()),
        (SIZE, {"low": 32.5, "high": 2048}, "takes whole numbers, got low 32.5, high 2048, step 1"),
        (
            SIZE,
            {"low": 32, "high": 2048, "step": 0.5},
            "takes whole numbers, got low 32, high 2048, step 0.5",
        ),
        (SIZE, [2048, 64.0], f"{SIZE} expected an integer >= 1, got 64.0 (number)"),
        (
            SIZE,
            {"low": 8, "high": 2048},
            f"train.batch_size 32 exceeds {SIZE} 8; a batch must fit in the ring",
        ),
        (
            "methods.dr_tune.rotation",
            RANGE,
            f"takes no numbers; give a list of choices, got {RANGE} (section)",
        ),
        (
            "methods.dr_tune.rotation",
            ["proper", False],
            "methods.dr_tune.rotation expected 'proper', 'orthogonal' or 'off', got False (true/false)",
        ),
        (
            "methods.dr_tune.translation",
            [True, "false"],
            "methods.dr_tune.translation expected true or false, got 'false' (text)",
        ),
        (
            "methods.dr_tune.translation",
            [True, 0],
            "methods.dr_tune.translation expected true or false, got 0 (integer)",
        ),
        (
            "augment.rotation",
            [10.0, 200.0],
            "augment.rotation expected a number >= 0 and <= 180, got 200.0 (number)",
        ),
        ("train.clip_norm", {"low": 0.1, "high": 1.0}, f"params.yaml's own value None {OUTSIDE}"),
    ],
)
def test_a_setting_that_is_refused(name, entry, text):
    assert fault_of({name: entry}) == f"params.yaml: 1 fault\n  study.space.{name}  {text}"


# --- faults between settings, and of the study itself


@pytest.mark.parametrize(
    ("space", "change", "key", "text"),
    [
        (
            {"train.batch_size": [32, 64], SIZE: {"low": 32, "high": 2048}},
            {},
            SIZE,
            f"32 together with train.batch_size 64: train.batch_size 64 exceeds {SIZE} 32; "
            "a batch must fit in the ring",
        ),
        (
            {"train.optimizer": ["adamw", "sgd"], "train.momentum": {"low": 0.0, "high": 0.9}},
            {},
            "train.momentum",
            "0.0 together with train.optimizer 'sgd': train.nesterov true needs train.momentum > 0, got 0; "
            "set one of the two",
        ),
        (
            {
                "train.nesterov": [False, True],
                "train.optimizer": ["adamw", "sgd"],
                "train.momentum": {"low": 0.0, "high": 0.9},
            },
            {"train.nesterov": False},
            "train.momentum",
            "0.0 together with train.nesterov True and train.optimizer 'sgd': "
            "train.nesterov true needs train.momentum > 0, got 0; set one of the two",
        ),
        (
            {"train.head_init": ["bank", "zero"], "methods.sp.penalty": ["l2_sp", "l2_sp_fisher"]},
            {"train.method": "sp"},
            "methods.sp.penalty",
            "'l2_sp_fisher' together with train.head_init 'zero': train.head_init 'zero' gives no gradient, "
            "so the Fisher information of methods.sp.penalty l2_sp_fisher would be 0 for every weight; "
            "set bank, or another penalty",
        ),
    ],
)
def test_ends_that_fault_together(space, change, key, text):
    assert fault_of(space, change) == f"params.yaml: 1 fault\n  study.space.{key}  {text}"


def test_a_fault_of_one_setting_is_not_told_of_the_others():
    space = {
        "methods.dr_tune.temperature": {"low": 0.0, "high": 1.0},
        "train.lr_head": {"low": 0.1, "high": 1.0},
        WEIGHT: RANGE,
    }
    assert fault_of(space) == (
        "params.yaml: 1 fault\n  study.space.methods.dr_tune.temperature  "
        "methods.dr_tune.temperature expected a number > 0, got 0.0 (number)"
    )


def test_a_fault_of_two_settings_is_not_told_of_a_third():
    space = {"train.batch_size": [32, 64], SIZE: {"low": 32, "high": 2048}, WEIGHT: RANGE}
    assert fault_of(space) == (
        f"params.yaml: 1 fault\n  study.space.{SIZE}  32 together with train.batch_size 64: "
        f"train.batch_size 64 exceeds {SIZE} 32; a batch must fit in the ring"
    )


def test_all_faults_are_listed_at_once():
    space = {WEIGHT: 3, "train.lr_haed": RANGE, "train.seed": [0, 1], "train.lr_head": RANGE | {"low": 3}}
    text = fault_of(space, direction="minimize")
    assert text.split("\n")[0] == "params.yaml: 5 faults"
    assert [line.split()[0] for line in text.split("\n")[1:]] == [
        "study.direction",
        f"study.space.{WEIGHT}",
        "study.space.train.lr_haed",
        "study.space.train.seed",
        "study.space.train.lr_head",
    ]
    late = fault_of({WEIGHT: [0.5, 2.0], "train.lr_head": {"low": 0.0, "high": 1.0}}, trials=5_000_000)
    assert [line.split()[0] for line in late.split("\n")[1:]] == [
        f"study.space.{WEIGHT}",
        "study.space.train.lr_head",
        "study.trials",
    ]


@pytest.mark.parametrize(
    ("change", "key", "text"),
    [
        ({"metric": "accuracy"}, "metric", "expected 'val_accuracy' or 'val_loss', got 'accuracy' (text)"),
        ({"direction": 3}, "direction", "expected 'maximize' or 'minimize', got 3 (integer)"),
        ({"direction": "minimize"}, "direction", "minimize val_accuracy seeks the worst model; set maximize"),
        ({"metric": "val_loss"}, "direction", "maximize val_loss seeks the worst model; set minimize"),
        ({"cost": "minutes"}, "cost", "expected 'seconds', got 'minutes' (text)"),
        (
            {"cost": "seconds"},
            "pruner",
            "median needs one objective, study.cost adds a second; set one to none/null",
        ),
        ({"trials": 0}, "trials", "expected an integer >= 1, got 0 (integer)"),
        ({"seeds": True}, "seeds", "expected an integer >= 1, got True (true/false)"),
        ({"sampler": "cma"}, "sampler", "expected 'auto', 'gp', 'tpe' or 'random', got 'cma' (text)"),
        ({"pruner": None}, "pruner", "expected 'median' or 'none', got nothing (null)"),
        ({"warmup_epochs": -1}, "warmup_epochs", "expected an integer >= 0, got -1 (integer)"),
        ({"startup_trials": "5"}, "startup_trials", "expected an integer >= 1, got '5' (text)"),
        ({"seed": 1.5}, "seed", "expected an integer >= 0, got 1.5 (number)"),
        ({"trails": 3}, "trails", f"unknown key; did you mean trials? known: {KEYS}"),
        ({"space": 3}, "space", "expected a section (key: value), got 3 (integer)"),
        (
            {"space": {}},
            "space",
            "names no setting of train or methods.dr_tune; give at least one: {low: …, high: …} or a list",
        ),
        (
            {"space": {"methods.dr_tune.translation": [True, False]}, "trials": 20},
            "trials",
            "20 trials, but the space has only 2 different points; ask for fewer, or widen study.space",
        ),
    ],
)
def test_a_study_that_is_refused(change, key, text):
    assert fault_of(**change) == f"params.yaml: 1 fault\n  study.{key}  {text}"


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (None, "expected a section (key: value), got nothing (null)"),
        (3, "expected a section (key: value), got 3 (integer)"),
        ([], "expected a section (key: value), got [] (list)"),
    ],
)
def test_a_section_that_is_missing_or_of_another_kind(section, text):
    raw = {**RAW, "study": section}
    with pytest.raises(ConfigError) as caught:
        read_study(parse(raw, "params.yaml", SETTINGS))
    assert str(caught.value) == f"params.yaml: 1 fault\n  study  {text}"
    del raw["study"]
    with pytest.raises(ConfigError, match=f"study  section is missing; known keys: {KEYS}"):
        read_study(parse(raw, "params.yaml", SETTINGS))


def test_a_key_that_is_missing():
    raw = {**RAW, "study": {key: value for key, value in RAW["study"].items() if key != "trials"}}
    with pytest.raises(ConfigError) as caught:
        read_study(parse(raw, "params.yaml", SETTINGS))
    assert str(caught.value) == "params.yaml: 1 fault\n  study.trials  is missing; expected an integer >= 1"


def test_two_objectives_and_losses_are_accepted():
    assert read_study(params_of(cost="seconds", pruner="none"))[0].cost == "seconds"
    assert read_study(params_of(metric="val_loss", direction="minimize"))[0].metric == "val_loss"


def test_each_trial_needs_a_point_of_its_own():
    space = {
        "a": FloatDistribution(0.1, 0.4, step=0.1),
        "b": CategoricalDistribution(("x", "y")),
        "c": IntDistribution(1, 6),
    }
    assert too_many(space, 48) == ""
    remedy = "ask for fewer, or widen study.space"
    assert too_many(space, 49) == f"49 trials, but the space has only 48 different points; {remedy}"
    assert too_many(space | {"d": FloatDistribution(0.0, 1.0)}, 10**6) == ""


# --- values


def test_values_are_put_into_a_copy():
    changed = with_values(RAW, {"train.lr_head": 1.5, WEIGHT: "bank_over_batch"})
    assert (changed["train"]["lr_head"], changed["methods"]["dr_tune"]["weight"]) == (1.5, "bank_over_batch")
    assert (RAW["train"]["lr_head"], RAW["methods"]["dr_tune"]["weight"]) == (0.25, 1.0)
    assert with_values(changed, {"train.lr_head": 0.25, WEIGHT: 1.0}) == RAW
    params = load(SHIPPED, SETTINGS)
    assert own_values(params, {WEIGHT: None, "train.seed": None}) == {WEIGHT: 1.0, "train.seed": 0}


def test_values_that_are_not_accepted_are_refused():
    with pytest.raises(ConfigError, match="train.lr_head  expected a number > 0, got -1 "):
        resolved(load(SHIPPED, SETTINGS), {"train.lr_head": -1})
