"""The whole pipeline as a user runs it: DVC, git and MLflow in a repository of their own."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TASK = {"data.source": "data/raw/squares", "backbone.weights": "catalog/random.yaml"}
DRTUNE = [sys.executable, "-c", "from drtune.cli.main import app; app()"]
STAGES = ["download", "extract", "train", "evaluate"]
FIGURES = ["confusion_matrix.png", "learning_curves.png", "reliability.png"]
SEVERAL = "import sys; from dvc.cli import main; sys.exit(max(main(line.split()) for line in sys.argv[1:]))"


class Repository:
    """A clone's worth of files; `ran` lists every stage that ran in it, in order."""

    def __init__(self, folder):
        self.folder, self.ran = folder, []
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
        self.environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",  # the repository's own modules, not the ones under test here
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{who}_NAME": "a" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
        }

    def __call__(self, *command):
        """Standard output of a command."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def stages_of(self, *command):
        """Run a command and return the stages that it ran."""
        ran = re.findall(r"^Running stage '(?:.*:)?(\w+)':$", self(*command), re.MULTILINE)
        self.ran += ran
        return ran

    def dvc(self, *commands):
        """Standard output of several DVC commands in one process, which starts faster than several."""
        return self(sys.executable, "-c", SEVERAL, *commands)

    def commit(self, text):
        self("git", "add", "-A")
        self("git", "commit", "-q", "-m", text)

    def outs(self):
        """Path -> md5 of everything that the stages wrote."""
        from drtune.base.yaml import read_yaml

        stages = read_yaml(self.folder / "dvc.lock")["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}

    def runs(self):
        """(stage, status, stage key) of every MLflow run, in the order of their start."""
        query = (
            "select substr(name, 1, instr(name, ' ') - 1), status, value "
            "from runs join tags using (run_uuid) where key = 'drtune.stage_key' order by start_time"
        )
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            return store.execute(query).fetchall()

    def pipelines(self):
        """Of every pipeline run: its status, and stage -> (key, run id of it, whether it is a child)."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            tags = {}
            for run, status, key, value in store.execute(
                "select run_uuid, status, key, value from runs join tags using (run_uuid) order by start_time"
            ):
                tags.setdefault(run, {"status": status})[key] = value
        return [
            (
                held["status"],
                {
                    stage: (
                        held[f"drtune.key.{stage}"],
                        held[f"drtune.run.{stage}"],
                        tags[held[f"drtune.run.{stage}"]]["mlflow.parentRunId"] == run,
                    )
                    for stage in STAGES
                },
            )
            for run, held in tags.items()
            if held["drtune.kind"] == "pipeline"
        ]

    def cached_keys(self):
        """The keys under which DVC's run cache holds stages."""
        return {path.name for path in self.folder.glob(".dvc/cache/runs/*/*")}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, copy_code, tiny_params, squares, empty_database):
    """A repository that holds code, settings and images, and its twin in a folder of an odd name."""
    folder = copy_code(tmp_path_factory.mktemp("end to end") / "project")
    tiny_params(folder / "params.yaml", TASK)
    squares(folder / "data/raw/squares")
    made = Repository(folder)
    made("git", "init", "-q")
    made.dvc("add -q data/raw/squares")
    made.commit("code and images")
    twin = tmp_path_factory.mktemp("twin") / "Müller #1, what? 50%41"
    shutil.copytree(folder, twin)
    shutil.copy(empty_database, folder)  # the twin makes its own, as a user's project does
    return made, Repository(twin)


@pytest.fixture(scope="module")
def twin(repositories):
    """The twin and its `dvc repro`, which goes on beside the other tests."""
    _, made = repositories
    with (made.folder.parent / "shown").open("w") as shown:
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=made.folder, env=made.environment, stdout=shown, stderr=subprocess.STDOUT
        )
    yield made, process
    process.terminate()  # where the test that waits for it was not reached
    process.wait()


@pytest.fixture(scope="module")
def repository(repositories, twin):
    """A repository in which `dvc repro` has run once; the tests change it one after the other."""
    made, _ = repositories
    made.stages_of("dvc", "repro")
    made.first = made("git", "status", "--short").split()
    made.commit("results")
    return made


def test_four_stages_give_model_metrics_and_figures(repository):
    assert repository.ran[:4] == STAGES
    folder = repository.folder
    assert repository.first == ["??", "dvc.lock", "??", "metrics/"], "all else belongs to DVC"
    metrics = json.loads((folder / "metrics/test.json").read_text())
    assert metrics["test"]["n"] == 9
    assert 0 <= metrics["test"]["accuracy"] <= 1
    names = {path.name for path in (folder / "models").iterdir()}
    assert names == {"model.safetensors", "model.json", "history.json"}
    assert [record["epoch"] for record in json.loads((folder / "models/history.json").read_text())] == [1, 2]
    assert set(FIGURES) <= {path.name for path in (folder / "reports").iterdir()}
    assert not any((folder / ".drtune/ckpt").iterdir()), "a finished stage leaves no running state"


def test_a_second_repro_runs_nothing(repository):
    assert repository.stages_of("dvc", "repro") == []
    repository.dvc("status -q")


def test_dvc_s_own_commands_work(repository):
    shown = repository.dvc("metrics show --json")
    metrics = json.loads(shown)[""]["data"]
    assert metrics["metrics/test.json"]["data"]["test"]["n"] == 9
    assert 0 <= metrics["metrics/validation.json"]["data"]["val_accuracy"] <= 1
    repository.dvc("plots show -o plots", "plots diff HEAD -o difference", "metrics diff")
    for page in ("plots/index.html", "difference/index.html"):
        text = (repository.folder / page).read_text()
        assert "val_accuracy" in text
        assert "confusion_matrix.png" in text
    for page in ("plots", "difference"):
        shutil.rmtree(repository.folder / page)


def test_an_experiment_aside_runs_what_its_setting_touches_and_logs_into_the_same_store(repository):
    before, outs = repository.runs(), repository.outs()
    command = ["dvc", "exp", "run", "--temp", "-n", "lighter", "-S", "methods.dr_tune.weight=0.5"]
    assert repository.stages_of(*command) == ["train", "evaluate"]
    fresh = repository.runs()[len(before) :]
    assert [(stage, status) for stage, status, _ in fresh] == [
        ("train", "FINISHED"),
        ("evaluate", "FINISHED"),
    ]
    assert repository.outs() == outs, "the workspace stays as it was"

    table = json.loads(repository.dvc("exp show --json"))
    trials = [trial for row in table for trial in row["experiments"] or []]
    assert [trial["name"] for trial in trials] == ["lighter"]
    (revision,) = trials[0]["revs"]
    assert revision["data"]["params"]["params.yaml"]["data"]["methods"]["dr_tune"]["weight"] == 0.5
    assert revision["data"]["metrics"]["metrics/test.json"]["data"]["test"]["n"] == 9
    made = {path: out["hash"] for path, out in revision["data"]["outs"].items()}
    assert made["models"] != outs["models"], "the weight changes the model"
    assert (made["data/bank"], made["data/dataset"]) == (outs["data/bank"], outs["data/dataset"])


def shapes(pipelines):
    """What is equal when the same journals make a store anew: all but the ids of the runs."""
    return [
        (status, {name: (key, child) for name, (key, _, child) in held.items()}) for status, held in pipelines
    ]


def test_stages_from_the_cache_show_the_runs_that_made_them(repository):
    (status, shipped), (other_status, lighter) = repository.pipelines()
    assert status == other_status == "FINISHED"
    assert [child for _, _, child in shipped.values()] == [True, True, True, True]
    assert [child for _, _, child in lighter.values()] == [False, False, True, True]
    assert lighter["extract"][:2] == shipped["extract"][:2]

    runs = repository.runs()
    repository.dvc("exp apply lighter")
    assert repository.stages_of("dvc", "repro") == [], "all of it comes from the cache"
    sync = [*DRTUNE, "sync"]
    assert "0 adopted" in repository(*sync)
    assert repository.pipelines() == [(status, shipped), (status, lighter)]

    store, journals = repository.folder / "mlflow.db", repository.folder / ".drtune/journal"
    store.rename(store.with_suffix(".aside"))  # a store that is lost: the journals hold it all
    try:
        assert f"journals: {len(runs)} shipped" in (said := repository(*sync))
        assert "0 adopted" in said
        assert shapes(repository.pipelines()) == shapes([(status, shipped), (status, lighter)])
        store.unlink()
        journals.rename(journals.with_name("aside"))  # as in a fresh clone: DVC's cache, but no runs
        assert "4 adopted" in repository(*sync)
        assert "0 adopted" in repository(*sync)
        ((status, adopted),) = repository.pipelines()
        assert {stage: key for stage, (key, _, _) in adopted.items()} == {
            stage: key for stage, (key, _, _) in lighter.items()
        }
        assert {status for _, status, _ in repository.runs()} == {"FINISHED"}
    finally:
        store.with_suffix(".aside").rename(store)
        shutil.rmtree(journals)
        journals.with_name("aside").rename(journals)
    repository("git", "checkout", "--", ".")
    repository.dvc("checkout")
    assert repository.runs() == runs


ALL = ["download", "extract", "train", "evaluate"]
STALE = {
    "drtune/base": ALL,
    "drtune/data": ALL,
    "drtune/sources": ["download"],
    "drtune/backbones": ["extract", "train", "evaluate"],
    "drtune/banks": ["extract", "train"],
    "drtune/training": ["train"],
    "drtune/methods/dr_tune": ["train"],
    "drtune/methods/sp": [],
    "drtune/evaluation": ["evaluate"],
    "drtune/runs": [],
    "drtune/studies": [],
    "drtune/serving": [],
    "drtune/cli": [],
    "pipeline/train.py": ["train"],
    "pipeline/__main__.py": [],
    "drtune/params.py": [],
    "numbers.lock": ["extract", "train", "evaluate"],
}
"""What is edited -> the stages that it makes stale."""
EDIT_EACH = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

for name in sys.argv[1:]:
    file = Path(name) / "edited.py" if Path(name).is_dir() else Path(name)
    before = file.read_bytes() if file.exists() else None
    with file.open("ab") as stream:
        stream.write(b"# edited\\n")
    with Repo() as repo:
        print(json.dumps([name, list(repo.status())]))
    file.unlink() if before is None else file.write_bytes(before)
"""


def test_an_edit_makes_stale_what_it_can_move_and_nothing_else(repository):
    shown = repository(sys.executable, "-c", EDIT_EACH, *STALE)
    assert dict(map(json.loads, shown.splitlines())) == STALE
    folders = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "drtune").glob("*/__init__.py")}
    assert folders - set(STALE) == {"drtune/methods"}


def test_what_python_leaves_beside_modules_makes_nothing_stale(repository):
    code = "import drtune.params, pipeline.train, drtune.methods.sp.method, drtune.runs.runner"
    environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": ""}
    repository.environment |= environment
    repository(sys.executable, "-c", code)
    assert list((repository.folder / "drtune/methods/sp/__pycache__").glob("method.*.pyc"))
    assert json.loads(repository.dvc("status --json")) == {}


BARE = """
import random, sys
from importlib import import_module
from pathlib import Path
import numpy, torch

random.random(), numpy.random.rand(5), torch.manual_seed(99), torch.rand(3)
torch.set_num_threads(3)
torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("medium")
from drtune.base.report import NullReport
from drtune.params import PARAMS, load

for stage in sys.argv[1:]:
    import_module(f"pipeline.{stage}").main(load(PARAMS), NullReport(Path("bare")))
"""


def test_a_stage_run_bare_in_a_hostile_process_gives_the_same_bytes(repository, tmp_path):
    from drtune.runs.outs import describe_out

    bare = Repository(tmp_path / "bare")
    names = ["drtune", "pipeline", "catalog", "params.yaml", "data/raw"]
    (bare.folder / "data").mkdir(parents=True)
    for name in names:
        (bare.folder / name).symlink_to(repository.folder / name)
    bare.environment |= {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    bare(sys.executable, "-c", BARE, *STAGES)
    made = {name: describe_out(bare.folder / name)["md5"] for name in repository.outs()}
    assert made == repository.outs()


def test_a_checkpoint_of_an_edited_method_is_not_found(repository):
    from drtune.runs.stage_key import current_stage_key

    before = current_stage_key(repository.folder, "train")
    method = repository.folder / "drtune/methods/dr_tune/method.py"
    text = method.read_text()
    method.write_text(text + "# edited\n")
    edited = current_stage_key(repository.folder, "train")
    method.write_text(text)
    assert edited.key != before.key, "the folder of running state is named after the key"
    assert current_stage_key(repository.folder, "train").key == before.key


def test_a_second_clone_pulls_and_has_nothing_to_run(repository, tmp_path):
    repository.dvc(f"remote add -q --default storage {tmp_path}/storage", "push -q")
    repository.commit("remote")
    clone = Repository(tmp_path / "clone")
    repository("git", "clone", "-q", str(repository.folder), str(clone.folder))
    assert json.loads((clone.folder / "metrics/validation.json").read_text())["val_accuracy"] >= 0
    clone.dvc("pull -q")
    assert (clone.folder / "data/raw/squares/red/0.png").is_file()
    assert clone.stages_of("dvc", "repro") == []
    assert json.loads(clone.dvc("status --json")) == {}
    assert clone.outs() == repository.outs()


def test_every_executed_stage_has_one_finished_run_with_dvc_s_own_key(repository):
    runs = repository.runs()
    assert [stage for stage, _, _ in runs] == repository.ran
    assert {status for _, status, _ in runs} == {"FINISHED"}
    keys = [key for _, _, key in runs]
    assert len(set(keys)) == len(keys)
    assert set(keys) == repository.cached_keys()
    artifacts = {path.name for path in repository.folder.glob("mlruns/**/artifacts/*")}
    assert artifacts >= {"dataset.json", "history.json", "model.json", "reports", "test.json"}


def test_all_over_again_in_another_folder_gives_the_same_bytes_and_keys(repository, twin):
    again, process = twin
    assert process.wait() == 0, (again.folder.parent / "shown").read_text()
    again(*DRTUNE, "sync")  # what a busy machine had no time to ship
    assert again.outs() == repository.outs()
    assert again.runs() == repository.runs()[:4]


def test_a_project_that_moves_keeps_runs_files_and_caches(twin, tmp_path):
    again, process = twin
    assert process.wait() == 0
    again.commit("results")
    moved = Repository(again.folder.rename(tmp_path / "ñ #2, 100% who?"))
    assert json.loads(moved.dvc("status --json")) == {}
    assert moved.stages_of("dvc", "repro") == []
    shown = moved(*DRTUNE, "runs")
    assert re.findall(rf"  ({'|'.join(STAGES)})  +FINISHED", shown) == STAGES[::-1]
    (run,) = re.findall(r"download  +FINISHED +(\w{8})", shown)
    assert "identical; " in moved(*DRTUNE, "verify", run)
    moved.environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    code = "import mlflow; print(mlflow.artifacts.load_text(mlflow.search_runs(search_all_experiments=True, "
    code += "filter_string=\"tags.`drtune.stage` = 'evaluate'\").artifact_uri[0] + '/test.json'))"
    metrics = json.loads((moved.folder / "metrics/test.json").read_text())
    assert json.loads(moved(sys.executable, "-c", code)) == metrics
    assert not again.folder.exists(), "nothing is written where the project was"
    assert {path.name for path in tmp_path.iterdir()} == {moved.folder.name, "site"}
