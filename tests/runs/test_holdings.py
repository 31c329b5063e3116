import json
import os

import pytest

from drtune.runs import holdings
from drtune.runs.holdings import POINTER, SIGNATURE, holding, write_pointer
from drtune.runs.journal import Journal, Shipper, entries_of
from drtune.runs.record import collect
from drtune.runs.run import StageRun
from drtune.runs.stage_key import StageIdentity
from drtune.runs.system_metrics import peak_memory

DEPS = {"data/dataset": "1" * 32 + ".dir", "assets/w.safetensors": "2" * 32, "drtune/x.py": "3" * 32}
ENTRY = {"cmd": "python -m pipeline.train", "deps": [{"path": "data/dataset"}], "outs": [{"path": "models"}]}
IDENTITY = StageIdentity("f" * 64, DEPS, ("models", "metrics.json"), ENTRY)


class Nowhere:
    def open(self, header, journal):
        return False

    def send(self, entries):
        pass


@pytest.fixture
def project(tmp_path, git, monkeypatch):
    """A folder below a git repository, as `pretrain/` is, with a model that a stage has made."""
    folder = tmp_path / "top" / "pretrain"
    (folder / "models").mkdir(parents=True)
    for name in ("model.safetensors", "model.json"):
        (folder / "models" / name).write_text(name)
    (folder / "params.yaml").write_text("a: 1\n")
    git(tmp_path, "init", "-q", "top")
    git(folder, "add", "params.yaml")
    git(folder, "commit", "-q", "-m", "a")
    monkeypatch.setenv("DVC_ROOT", str(folder.parent))
    return folder


def open_run(project):
    journal = Journal(project.parent / "j.jsonl", {})
    return StageRun(journal, Shipper(journal.path, Nowhere()), str)


def held(project, identity=IDENTITY):
    """Entries of the journal after a stage that prints a word."""
    run = open_run(project)
    with holding(run, collect(project), identity, project, "train"):
        print("word")
    return run, list(entries_of(run.journal.path))


def values(entries, kind):
    return {
        name: value for entry in entries if entry["kind"] == kind for name, value in entry["values"].items()
    }


def test_a_run_holds_what_restores_it(project):
    run, entries = held(project)
    files = run.journal.files
    names = {f"{entry['folder']}/{entry['name']}" for entry in entries if entry["kind"] == "artifact"}
    assert names >= {"provenance/params.yaml", "provenance/pip-freeze.txt", "provenance/stage.lock.json"}
    assert {"/stage.log", "/model"} <= names
    assert (files / "stage.log").read_text() == "word\n"
    tags = values(entries, "tags")
    assert tags["drtune.folder"] == "pretrain"
    outs = json.loads(tags["dvc.outs"])
    assert list(outs) == ["models"], "metrics.json was not made"
    entry = json.loads((files / "provenance/stage.lock.json").read_text())
    assert entry["cmd"] == ENTRY["cmd"]
    assert entry["outs"][0]["md5"] == outs["models"]
    pointer = json.loads((files / "model/pointer.json").read_text())
    assert (pointer["md5"], pointer["path"], pointer["stage_key"]) == (outs["models"], "models", "f" * 64)
    assert values(entries, "metrics")["peak_memory_megabytes"] > 10


def test_inputs_are_what_the_stage_reads_but_no_code(project):
    _, entries = held(project)
    inputs = [
        (entry["path"], entry["md5"], entry["context"]) for entry in entries if entry["kind"] == "input"
    ]
    assert inputs == [(path, md5, "train") for path, md5 in DEPS.items() if not path.endswith(".py")]


def test_a_stage_that_fails_says_so_and_names_no_outs(project):
    run = open_run(project)
    with (
        pytest.raises(ValueError, match="broken"),
        holding(run, collect(project), IDENTITY, project, "train"),
    ):
        raise ValueError("broken")
    entries = list(entries_of(run.journal.path))
    assert "dvc.outs" not in values(entries, "tags")
    assert "ValueError: broken" in (run.journal.files / "stage.log").read_text()
    entry = json.loads((run.journal.files / "provenance/stage.lock.json").read_text())
    assert entry == ENTRY, "what it was made from is known all the same"
    assert "peak_memory_megabytes" in values(entries, "metrics")


def test_outside_dvc_there_are_neither_inputs_nor_outs(project):
    _, entries = held(project, identity=None)
    assert not [entry for entry in entries if entry["kind"] == "input"]
    assert "dvc.outs" not in values(entries, "tags")


def test_the_commit_outlives_the_branch(project, git):
    head = git(project, "rev-parse", "HEAD").strip()
    held(project)
    git(project, "commit", "-q", "--amend", "-m", "amended")
    git(project, "reflog", "expire", "--expire=now", "--all")
    git(project, "gc", "-q", "--prune=now")
    assert git(project, "cat-file", "-t", head).strip() == "commit"


def test_a_continued_stage_goes_on_in_its_log(project):
    run, _ = held(project)
    run.journal.close()
    run.journal.release()
    again, _ = held(project)
    assert again.journal.continued
    assert (again.journal.files / "stage.log").read_text() == "word\nword\n"


def test_peak_memory_counts_this_process():
    before = peak_memory()["peak_memory_megabytes"]
    block = bytearray(int(before * 1.5e6))
    block[:: os.sysconf("SC_PAGESIZE")] = b"x" * len(range(0, len(block), os.sysconf("SC_PAGESIZE")))
    assert peak_memory()["peak_memory_megabytes"] > before * 1.4
    del block


def test_outs_that_cannot_be_read_are_reported(project, caplog, monkeypatch):
    def unreadable(folder, names):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(holdings, "describe_outs", unreadable)
    held(project)
    assert "not recorded: outs: [Errno 13] Permission denied" in caplog.text


OUT = {"path": "models", "md5": "0" * 32 + ".dir", "size": 5, "nfiles": 3}


def test_a_pointer_is_a_model_to_mlflow(tmp_path):
    from mlflow.models import Model
    from mlflow.types import DataType

    write_pointer(tmp_path / "model", {**OUT, "root": "here"})
    model = Model.load(str(tmp_path / "model"))
    assert model.flavors["python_function"]["loader_module"] == "drtune.serving.pointer"
    assert model.metadata == {"dvc.md5": OUT["md5"], "dvc.path": "models"}
    (column,) = model.signature.inputs.inputs
    assert (column.name, column.type) == ("image", DataType.binary)
    assert model.signature.outputs.input_names() == ["label", "probability", "probabilities"]
    assert {side: json.dumps(columns) for side, columns in SIGNATURE.items()} == {
        side: text for side, text in model.signature.to_dict().items() if text
    }
    assert json.loads((tmp_path / "model" / POINTER).read_text()) == {**OUT, "root": "here"}


def test_a_pointer_is_small_and_replaces_an_earlier_one(tmp_path):
    for md5 in ("1", "2"):
        write_pointer(tmp_path / "model", OUT | {"md5": md5})
    files = list((tmp_path / "model").iterdir())
    assert sorted(file.name for file in files) == ["MLmodel", "pointer.json"]
    assert sum(file.stat().st_size for file in files) < 2000
    assert json.loads((tmp_path / "model" / POINTER).read_text())["md5"] == "2"
