"""PostgreSQL as the store, as in compose.yaml: first uses at once, and a run that is shipped twice."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

import drtune
from drtune.runs import record
from drtune.runs.journal import ship, write_offset
from drtune.runs.mlflow_run import MlflowTarget, stage_run
from drtune.runs.stage_key import StageIdentity

PROJECT = str(Path(drtune.__file__).parents[1])
FOUND = shutil.which("initdb") or next(
    iter(sorted(map(str, Path("/usr/lib").glob("postgresql/*/bin/initdb")))), None
)
USER = "nobody" if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root."""
FIRST_USE = """
import sys
from pathlib import Path
sys.path.insert(0, {project!r})
from drtune.runs import mlflow_run
from drtune.runs import record
mlflow_run.CLOSE_SECONDS = 240
root = Path(sys.argv[1])
with mlflow_run.stage_run("toy", sys.argv[2], record.collect(root), None, root=root) as run:
    run.log_metrics({{"loss": 1.0}}, 0)
"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.skipif(FOUND is None, reason="needs PostgreSQL's initdb: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def uri():
    """A database of its own on a free port; without passwords it may listen on loopback only."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if USER:
        shutil.chown(folder, USER)
    tool = str(Path(FOUND).resolve().parent)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"

    def run(name, *arguments):
        # a server that inherits pytest's pipe would keep it open
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            subprocess.run(
                [f"{tool}/{name}", "-D", f"{folder}/data", *arguments],
                check=True,
                user=USER,
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(folder)},
            )

    run("initdb", "-U", "drtune", "-A", "trust", "--no-sync")
    run("pg_ctl", "-w", "-o", options, "-l", f"{folder}/log", "start")
    yield f"postgresql+psycopg://drtune:v3ry-s3cret@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)
    (folder.parent / f"{folder.name}.log").unlink()


def runs(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy/pipeline")
    return client, client.search_runs([experiment.experiment_id])


def test_first_uses_at_once_then_the_same_lines_twice(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code = FIRST_USE.format(project=PROJECT)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), f"stage{i}"], stderr=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert not any("journal keeps" in text for text in said), said
    assert [run.info.status for run in runs(uri)[1]] == ["FINISHED"] * 3

    identity = StageIdentity("0123456789abcdef" * 4, {}, ())
    with stage_run(
        "toy", "train", record.collect(tmp_path), identity, root=tmp_path, lock=tmp_path / "dvc.lock"
    ) as run:
        for step in range(1200):
            run.log_metrics({"loss": step, "nan": float("nan")}, step)
    write_offset(run.journal.path, 0)
    ship(run.journal.path, MlflowTarget(tmp_path))
    client, found = runs(uri)
    (train,) = (one for one in found if one.info.run_name == "train")
    for name in ("loss", "nan"):
        assert [p.step for p in client.get_metric_history(train.info.run_id, name)] == list(range(1200))
    (pipeline,) = (one for one in found if one.data.tags.get("drtune.kind") == "pipeline")
    assert (pipeline.info.status, train.data.tags["mlflow.parentRunId"]) == ("FINISHED", pipeline.info.run_id)
    assert "v3ry-s3cret" not in run.journal.path.read_text() + run.link
