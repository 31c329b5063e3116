"""The shape of the house: the border, layers, stage dependencies, sizes, the sealed test split."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from drtune.params import SETTINGS
from drtune.runs.closures import closure, edges, has_code, imported, modules, place_of, stage_code, tree

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"base"},
    {"data"},
    {"sources", "backbones"},
    {"banks", "evaluation"},
    {"training"},
    {"methods"},
    {"params"},
    {"runs"},
    {"serving"},
    {"studies"},
    {"cli"},
]
"""Imports go only to the left; modules of one layer may import each other, without cycles."""
WATCHING = {"params", "runs", "serving", "studies", "cli"}
"""What no stage depends on."""
RUNS_STAGES = {"drtune.studies.trial"}
"""Modules that import a stage's script: a trial does what the train stage does."""
ALLOWED_IN = {
    "mlflow": {
        "drtune.runs.mlflow_run",
        "drtune.runs.run_store",
        "drtune.serving.registry",
        "drtune.serving.pyfunc",  # what a served request may not hold is answered as MLflow answers
    },
    "optuna": {
        "drtune.studies.domains",
        "drtune.studies.pictures",
        "drtune.studies.sampling",
        "drtune.studies.standing",
        "drtune.studies.storage",
        "drtune.studies.study",
    },
    "dvc": {"drtune.runs.stage_key"},
}
MODULES = modules()
STAGES = ("download", "extract", "train", "evaluate")
DVC_FILES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob("**/dvc.yaml")
    if not {".venv", ".drtune", "mlruns"} & set(path.relative_to(ROOT).parts)
)


def part(name):
    """`data` of `drtune.data.packed`; empty for the stages and the top package."""
    return name.split(".")[1] if name.startswith("drtune.") else ""


def layer(name):
    return next((i for i, parts in enumerate(LAYERS) if part(name) in parts), None)


def test_every_module_has_a_layer_and_imports_only_to_its_left():
    wrong = []
    for name in MODULES:
        if part(name) == "":
            continue
        assert layer(name) is not None, f"{name} stands in no layer of LAYERS"
        for other in edges(name):
            if other.startswith("pipeline"):
                wrong += [] if name in RUNS_STAGES else [f"{name} imports {other}"]
            elif layer(other) > layer(name):
                wrong.append(f"{name} imports {other}")
    assert wrong == []
    assert len(MODULES) > 100


def test_no_module_is_part_of_an_import_cycle():
    cycles = [name for name in MODULES if any(name in closure(other) for other in edges(name))]
    assert cycles == []


def test_packages_hold_a_docstring_and_nothing_else():
    found = [name for name, path in MODULES.items() if path.name == "__init__.py"]
    assert len(found) > 20
    assert [name for name in found if len(tree(name).body) != 1 or not ast.get_docstring(tree(name))] == []


def test_nobody_imports_relatively():
    for name in MODULES:
        for node in ast.walk(tree(name)):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, f"{name}: write the full name"


def method_modules(method):
    return {name for name in MODULES if name.startswith(f"drtune.methods.{method}.")}


@pytest.mark.parametrize("method", SETTINGS)
def test_a_method_is_a_folder_that_knows_no_other(method):
    own = method_modules(method)
    assert f"drtune.methods.{method}.method" in own
    for name in own:
        others = {other for other in edges(name) if other.startswith("drtune.methods.")} - own
        assert others == set(), name
    assert MODULES[f"drtune.methods.{method}.method"].read_text().count("\n") <= 150


def test_trackers_and_searchers_are_imported_in_their_one_place():
    for name in MODULES:
        for package, places in ALLOWED_IN.items():
            uses = any(other == package or other.startswith(f"{package}.") for other in imported(name))
            assert not uses or name in places, f"{name} imports {package}"


# the border -----------------------------------------------------------------------------------------------


def stages_of(file):
    return yaml.safe_load((ROOT / file).read_text())["stages"]


def code_of(deps):
    return {dep for dep in deps if dep.split("/")[0] in ("drtune", "pipeline")}


def test_every_dvc_yaml_is_looked_at():
    assert DVC_FILES[0] == "dvc.yaml"
    lines = (ROOT / "dvc.yaml").read_text().count("\n")
    assert lines <= 80


@pytest.mark.parametrize(
    ("file", "stage"),
    [(file, stage) for file in DVC_FILES for stage in stages_of(file) if stage in STAGES],
)
def test_a_stage_depends_on_the_folders_that_it_imports(file, stage):
    entry = stages_of(file)[stage]
    assert entry["cmd"].endswith(f"python -m pipeline {stage}")
    assert code_of(entry["deps"]) == stage_code(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reaches_nothing_that_only_watches(stage):
    reached = set(closure(f"pipeline.{stage}"))
    if stage == "train":
        reached |= {name for method in SETTINGS for name in closure(f"drtune.methods.{method}.method")}
    assert {part(name) for name in reached} & WATCHING == set()
    packages = {package.split(".")[0] for name in reached for package in imported(name)}
    assert packages & {"mlflow", "dvc", "optuna"} == set()


@pytest.mark.parametrize(("stage", "own"), [("train", "drtune/training"), ("evaluate", "drtune/evaluation")])
def test_training_and_evaluation_are_apart(stage, own):
    code = stage_code(stage)
    assert own in code
    assert len(code & {"drtune/training", "drtune/evaluation"}) == 1


def test_what_is_loaded_is_what_the_closure_says(tmp_path):
    # a module that is imported in a way which the syntax tree does not show would be missed
    for stage in STAGES:
        code = (
            f"import sys, pipeline.{stage}; "
            "print(*[n for n in sys.modules if n.split('.')[0] in ('drtune', 'pipeline')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        loaded = {name for name in done.stdout.split() if has_code(name)}
        assert {place_of(name) for name in loaded} <= stage_code(stage)


def test_code_folders_hold_only_what_dvc_sees():
    # a JSON file beside the modules would move numbers: DVC sees it, but git may not
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "drtune", "pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    there = {
        str(path.relative_to(ROOT))
        for top in ("drtune", "pipeline")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == set(tracked)
    assert {Path(name).suffix for name in there} == {".py"}


def test_stages_are_the_four_of_the_design():
    stages = stages_of("dvc.yaml")
    assert tuple(stages) == STAGES
    for name, stage in stages.items():
        assert all(isinstance(out, str) for out in stage["outs"]), (
            f"{name}: only plain cached outs, so the run cache works"
        )
        assert not stage.get("always_changed")
        assert "runtime" not in stage["params"]
    assert stages["train"]["metrics"] == [{"metrics/validation.json": {"cache": False}}]
    assert stages["evaluate"]["metrics"] == [{"metrics/test.json": {"cache": False}}]


def test_only_evaluate_opens_the_sealed_test_split():
    may = {"pipeline.evaluate"}
    for name in MODULES:
        if part(name) in ("data", "sources"):
            continue
        opens = any(
            isinstance(node, ast.Attribute)
            and node.attr == "TEST"
            and getattr(node.value, "id", "") == "Split"
            for node in ast.walk(tree(name))
        ) or any(
            isinstance(node, ast.Constant) and node.value in ("test", "test.arrow")
            for node in ast.walk(tree(name))
        )
        assert not opens or name in may, f"{name} names the test split"
    assert "Split.TEST" in MODULES["pipeline.evaluate"].read_text()


# size -----------------------------------------------------------------------------------------------------


def test_files_and_functions_stay_short_and_documented():
    for name, path in MODULES.items():
        lines = path.read_text().count("\n")
        assert lines <= (100 if name.startswith("pipeline") else 300), f"{name}: {lines} lines"
        assert ast.get_docstring(tree(name)), f"{name}: no module docstring"
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno <= 50, f"{name}.{node.name}"


def test_only_the_terminal_s_side_prints():
    may = {"drtune.runs.console", "drtune.runs.runner", "drtune.studies.process"}
    for name in MODULES:
        if name not in may and part(name) != "cli":
            calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
            assert not any(getattr(call.func, "id", "") == "print" for call in calls), name


def test_tests_mirror_the_modules():
    missing = []
    for name, path in MODULES.items():
        if path.name in ("__init__.py", "__main__.py", "settings.py"):
            continue  # settings are tested together, in test_params.py and test_shipped_params.py
        parts = path.relative_to(ROOT).parts
        parts = parts[1:] if parts[0] == "drtune" else parts
        if not (ROOT / "tests" / Path(*parts[:-1]) / f"test_{parts[-1]}").is_file():
            missing.append(name)
    assert missing == []
