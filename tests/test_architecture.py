"""The shape of the house: layers, stage dependencies, sizes, the sealed test split."""

import ast
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"errors", "faults", "config", "files", "seeding", "memory", "losses", "calibration", "metrics"},
    {"data"},
    {"backbones"},
    {"evaluation", "robustness"},
    {"plots"},
    {"banks", "fisher"},
    {"methods"},
    {"training"},
    {"tracking"},
    {"serving"},
    {"search"},
    {"cli", "cli_runs", "cli_study", "cli_upkeep"},
]
"""Imports go only to the left; modules of one layer may import each other, without cycles."""
CORE = ("losses", "calibration", "banks", "methods", "training")
ALLOWED_IN = {
    "mlflow": {
        "drtune.runs.mlflow_run",
        "drtune.runs.mlflow_store",
        "drtune.runs.run_store",
        "drtune.serving.materialize",
    },
    "optuna": {
        "drtune.studies.sampling",
        "drtune.studies.standing",
        "drtune.studies.storage",
        "drtune.studies.study",
    },
    "dvc": {"drtune.runs.stage_key"},
}
METHOD_PARTS = {"drtune.methods", "drtune.training.contract"}


def modules():
    """Dotted name -> file of every module of the project."""
    found = {}
    for top in ("drtune", "pipeline"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def tree(name):
    return ast.parse(MODULES[name].read_text())


@cache
def imported(name):
    """Every dotted name that a module imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import; write the full name"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def edges(name):
    """Our modules that a module imports itself."""
    return {other for other in imported(name) if other in MODULES} - {name}


def closure(start):
    """Every module of ours that is executed when `start` is imported, packages included."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += edges(name)
        waiting += [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
    return seen


def layer(name):
    part = name.split(".")[1] if name.startswith("drtune.") else ""
    return next((i for i, parts in enumerate(LAYERS) if part in parts), None)


def test_every_module_has_a_layer_and_imports_only_to_its_left():
    wrong = []
    for name in MODULES:
        if name in ("drtune",) or name.startswith("pipeline"):
            continue
        assert layer(name) is not None, f"{name} stands in no layer of LAYERS"
        for other in edges(name) - {"drtune"}:
            if other.startswith("pipeline") or layer(other) > layer(name):
                wrong.append(f"{name} imports {other}")
    assert wrong == []
    assert len(MODULES) > 30


def test_no_module_is_part_of_an_import_cycle():
    cycles = [name for name in MODULES if any(name in closure_of_edges(o) for o in edges(name))]
    assert cycles == []


@cache
def closure_of_edges(name):
    seen, waiting = set(), [name]
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += edges(here)
    return seen


def method_files():
    return {n for n in MODULES if n.startswith("drtune.methods.")} - METHOD_PARTS


def test_methods_do_not_know_one_another_and_stay_small():
    assert len(method_files()) >= 3
    for name in method_files():
        assert not edges(name) & (method_files() | {"drtune.methods"}), name
        assert MODULES[name].read_text().count("\n") <= 150, name


def test_trackers_and_searchers_are_imported_in_their_one_place():
    for name in MODULES:
        for package, places in ALLOWED_IN.items():
            uses = any(other == package or other.startswith(f"{package}.") for other in imported(name))
            assert not uses or name in places, f"{name} imports {package}"


def test_the_core_runs_without_tracker_dvc_and_optuna():
    for name in MODULES:
        if name.startswith("drtune.") and name.split(".")[1] in CORE:
            reached = {package for other in closure(name) for package in imported(other)}
            assert not reached & {"mlflow", "dvc", "optuna"}, name


def stage_lists():
    for file in ("dvc.yaml", "pretrain/dvc.yaml"):
        stages = YAML(typ="safe").load(ROOT / file)["stages"]
        for stage, entry in stages.items():
            script = next(word for word in str(entry["cmd"]).split() if word.startswith("pipeline."))
            yield pytest.param(file, script, entry["deps"], id=f"{file}:{stage}")


@pytest.mark.parametrize(("file", "script", "deps"), list(stage_lists()))
def test_a_stage_depends_on_everything_that_its_script_imports(file, script, deps):
    up = "../" * file.count("/")
    wanted = {up + str(MODULES[name].relative_to(ROOT)) for name in closure(script) - method_files()}
    if method_files() & closure(script):
        # the stage reads one method; the others are in the table but never run
        wanted.add(up + "drtune/methods/${train.method}.py")
    given = {dep for dep in deps if dep.endswith(".py")}
    paste = "\n".join(f"      - {dep}" for dep in sorted(wanted))
    assert given == wanted, f"{file}: the .py deps of {script} should be\n{paste}"


def test_stages_are_the_four_of_the_design():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert list(stages) == ["download", "extract", "train", "evaluate"]
    for name, stage in stages.items():
        outs = [*stage.get("outs", []), *stage.get("plots", [])]
        assert all(isinstance(out, str) for out in outs), (
            f"{name}: only plain cached outs, so the run cache works"
        )
        assert not stage.get("always_changed")
    assert stages["evaluate"]["metrics"] == [{"metrics.json": {"cache": False}}]
    assert not any("metrics" in stages[name] for name in ("download", "extract", "train"))


def test_only_evaluate_opens_the_sealed_test_split():
    may = {"pipeline.evaluate"}
    for name in MODULES:
        if name.startswith("drtune.data"):
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


def test_files_and_functions_stay_short_and_documented():
    for name, path in MODULES.items():
        lines = path.read_text().split("\n")
        if path.parent.name == "pipeline":
            lines = [line for line in lines if line.strip()]
        assert len(lines) <= (60 if path.parent.name == "pipeline" else 300), f"{name}: {len(lines)} lines"
        assert ast.get_docstring(tree(name)), f"{name}: no module docstring"
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno <= 50, f"{name}.{node.name}"


def test_the_library_never_prints():
    for name in MODULES:
        if name.startswith("drtune") and name != "drtune.cli.main":
            calls = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Call)]
            assert not any(getattr(c.func, "id", "") == "print" for c in calls), name


def test_tests_mirror_the_modules():
    missing = []
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            continue
        parts = path.relative_to(ROOT).parts
        parts = parts[1:] if parts[0] == "drtune" else parts
        if not (ROOT / "tests" / Path(*parts[:-1]) / f"test_{parts[-1]}").is_file():
            missing.append(name)
    assert missing == []
