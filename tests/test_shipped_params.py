"""params.yaml: every leaf is known, typed, explained, and read by what it steers."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from drtune.banks.settings import ExtractSettings
from drtune.base.faults import rule_of
from drtune.base.report import NullReport
from drtune.base.settings import Settings
from drtune.base.yaml import read_yaml
from drtune.params import SECTIONS, SETTINGS, load
from drtune.studies.space import StudySettings
from pipeline import download, evaluate, extract, train

ROOT = Path(__file__).resolve().parents[1]
FILE, PRETRAINING = ROOT / "params.yaml", ROOT / "pretrain/params.yaml"
TYPES = {**SECTIONS, **{f"methods.{name}": section for name, section in SETTINGS.items()}}
"""Section name -> settings class."""
FREE = {"backbone.kwargs", "data.columns", "study.space"}
"""Sections of the user's own keys: handed on as a whole, so they count as one leaf."""
REPLACED = re.compile(r"methods\.\w+\.(train\.\w+)")
"""Name of what a method replaces of `train`."""
VARIANTS = [
    {"train.method": "dr_tune"},
    {"train.method": "finetune", "train.optimizer": "adamw", "extract.views": 2, "train.ema_decay": 0.9},
    {"train.method": "linear_probe", "train.clip_norm": 1.0, "train.schedule_every": "epoch"},
    {"train.method": "lp_ft", "train.wise_ft": 0.5, "train.monitor": "last"},
    {"train.method": "sp", "methods.sp.penalty": "gl_sp_fisher", "methods.sp.fisher_samples": 4},
    {"train.method": "core_tuning"},
    {"train.method": "bi_tuning"},
    {"train.method": "supcon", "methods.supcon.projection_dim": 8},
    {"train.method": "bss"},
    {"train.method": "delta", "train.head_init": "bank"},
    {"train.method": "daft"},
]
"""Toy runs that together read everything."""


def leaves(values, prefix=""):
    """Dotted names of all leaves of a settings file, in its order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in FREE:
            yield from leaves(value, f"{name}.")
        else:
            yield name


def fields():
    """Dotted names of all settings that the code knows."""
    return {f"{name}.{field}" for name, section in TYPES.items() for field in section.model_fields}


def test_leaves_and_settings_are_the_same_things():
    study = {f"study.{field}" for field in StudySettings.model_fields}  # of no stage
    found = set(leaves(read_yaml(FILE)))
    replaced = {name for name in found if REPLACED.fullmatch(name)}
    assert found - replaced == fields() | study
    assert {REPLACED.fullmatch(name)[1] for name in replaced} <= fields()
    assert replaced >= {"methods.sp.train.weight_decay", "methods.daft.train.batch_norm"}
    assert len(fields()) > 60
    assert load(FILE, SETTINGS).source == "params.yaml"


def test_pretraining_has_the_same_keys_in_the_same_order():
    keys = [
        [name for name in leaves(read_yaml(file)) if not name.startswith("study.")]
        for file in (PRETRAINING, FILE)
    ]
    assert [key for key in keys[0] if "methods." not in key] == [k for k in keys[1] if "methods." not in k]
    assert set(keys[0]) <= set(keys[1]), "sections of methods that it does not use may be left out"
    assert load(PRETRAINING, SETTINGS).source == "params.yaml"


@pytest.mark.parametrize("file", [FILE, PRETRAINING], ids=["params.yaml", "pretrain/params.yaml"])
def test_yaml_1_1_reads_the_same_values(file):
    assert yaml.safe_load(file.read_text()) == read_yaml(file)


def test_no_setting_has_a_default_in_code():
    defaults = [
        f"{name}.{field}"
        for name, section in TYPES.items()
        for field, about in section.model_fields.items()
        if not about.is_required()
    ]
    assert defaults == []


def lines_of(node, prefix=""):
    """Dotted name -> line number, from 0, of every leaf."""
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in FREE:
            found |= lines_of(value, f"{name}.")
        else:
            found[name] = node.lc.key(key)[0]
    return found


def test_every_number_says_its_unit_meaning_or_source():
    text = FILE.read_text().splitlines()
    numbers = {name: line for name, line in lines_of(YAML().load(FILE)).items() if is_number(name)}
    silent = [f"{FILE.name}:{line + 1} {name}" for name, line in numbers.items() if "#" not in text[line]]
    assert silent == []
    assert len(numbers) > 30


def is_number(name):
    """Whether a setting takes a number or a list of numbers."""
    section, _, field = (REPLACED.fullmatch(name) or [name, name])[1].rpartition(".")
    words = rule_of({**TYPES, "study": StudySettings}[section], field)
    return any(word in words for word in ("integer", "a number", "numbers"))


@pytest.fixture
def read(monkeypatch):
    """Names of settings that are looked at; empty it after loading, because checking looks too."""
    seen = set()
    names = {section: name for name, section in TYPES.items()}
    original = Settings.__getattribute__

    def look(self, attribute):
        section = type(self)
        if section in names and attribute in section.model_fields:
            seen.add(f"{names[section]}.{attribute}")
        return original(self, attribute)

    monkeypatch.setattr(Settings, "__getattribute__", look)
    return seen


def test_every_setting_is_read(read, tmp_path, squares, tiny_params, monkeypatch, clean_torch):
    squares(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    used = set()
    for change in VARIANTS:
        params = load(tiny_params(tmp_path / "params.yaml", change), SETTINGS)
        read.clear()
        report = NullReport(tmp_path / "running" / change["train.method"])
        for script in (download, extract, train):
            script.main(params, report)
        used |= read
    evaluate.main(params, report)  # once: it draws figures for seconds
    used |= read
    assert sorted(fields() - used) == []
    assert used <= fields()


def test_a_setting_that_nobody_looks_at_is_noticed(read):
    params = load(FILE, SETTINGS)
    read.clear()
    section = params[ExtractSettings]
    assert section.model_dump()["seed"] == 0
    assert read == set(), "a dump for the log is no use of a setting"
    assert section.views == 0
    assert read == {"extract.views"}
