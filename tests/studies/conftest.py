"""Small studies, processes that work on them and can be killed, and a PostgreSQL that can be stopped."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import drtune

sys.path.insert(0, str(Path(__file__).parent))  # for `stand_ins`
PROJECT = str(Path(drtune.__file__).parents[1])
PASSWORD = "v3ry-s3cret"
PROCESS = {"proc.host": "host", "proc.pid": "17"}
SETTINGS = {
    "metric": "val_accuracy",
    "direction": "maximize",
    "cost": None,
    "trials": 4,
    "seeds": 1,
    "sampler": "random",
    "startup_trials": 1,
    "pruner": "none",
    "warmup_epochs": 0,
    "seed": 0,
    "space": {"a": {"low": 1, "high": 8}, "b": {"low": 1, "high": 8}},
}
WORKER = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {PROJECT!r})
from drtune.studies.storage import open_storage, patiently
from drtune.studies.study import Study
from drtune.studies.process import end_with_supervisor
from drtune.studies.worker import work_through
from drtune.runs.lifecycle import stopping
from drtune.runs.record import collect

def note(what, attempt):
    with open("notes", "a") as notes:
        notes.write(f"{{what}} {{attempt.first}} {{attempt.number}} {{os.getpid()}}\\n")

def run(attempt):
    note("begin", attempt)
    while Path(f"hold-{{attempt.first}}").exists():
        time.sleep(0.01)
    for step in range(3):
        attempt.report(attempt.params["a"] + step, step)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    note("end", attempt)
    return [float(attempt.params["a"] * attempt.params["b"])]

end_with_supervisor()
with stopping():
    process = {{name: text for name, text in collect(Path.cwd()).tags().items() if name.startswith("proc.")}}
    study = patiently(Study, patiently(open_storage, os.environ["OPTUNA_STORAGE"]), sys.argv[1])
    work_through(study, Path.cwd(), process, None, run)
"""
ZYGOTE = f"""
import json, os, runpy, sys, traceback
sys.path.insert(0, {PROJECT!r})
import drtune.studies.worker, drtune.runs.record, optuna.storages._rdb.storage, sqlalchemy.dialects.sqlite
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        log = os.open("/dev/null", os.O_RDONLY), os.open(order["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        for source, target in ((log[0], 0), (log[1], 1), (log[1], 2)):
            os.dup2(source, target)
        os.chdir(order["folder"])
        os.environ.update(order["environment"])
        sys.argv, code = order["command"], 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
"""


def pytest_collection_modifyitems(items):
    """Pytest puts back Optuna's warnings, which `storage` switches off for the whole process."""
    off = "ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage is supposed"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(*off))


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a condition holds, and return what it returned."""

    def wait(condition, seconds=60.0):
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)
        return found

    return wait


class Process:
    """A child of the zygote."""

    def __init__(self, ask, pid, log):
        self.ask, self.pid, self.log = ask, pid, log
        self.code = None

    def kill(self, signum=signal.SIGKILL):
        os.kill(self.pid, signum)

    def wait(self):
        if self.code is None:
            self.code = self.ask({"wait": self.pid})
        return self.code

    @property
    def said(self):
        return self.log.read_text()


@pytest.fixture(scope="session")
def zygote():
    """Ask one process, which has loaded all modules, to fork or to wait: PyTorch alone loads for seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(order):
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield ask


@pytest.fixture
def spawn(zygote, tmp_path):
    """Start a Python script in `tmp_path`; what is left of it at the end is killed."""
    running = []

    def start(code, *arguments, **environment):
        number = len(running)
        script, log = tmp_path / f"script-{number}.py", tmp_path / f"log-{number}"
        script.write_text(code)
        command = [str(script), *map(str, arguments)]
        order = {"command": command, "environment": environment, "log": str(log), "folder": str(tmp_path)}
        running.append(Process(zygote, zygote(order), log))
        return running[-1]

    yield start
    for process in running:
        if process.code is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture
def toy_worker(tmp_path):
    """Code of a worker that notes its trials and holds those with a file `hold-FIRST`; also as a module."""
    (tmp_path / "toy_worker.py").write_text(WORKER)
    return WORKER


@pytest.fixture
def notes(tmp_path):
    """What the toy workers noted: (begin or end, first, number, pid)."""

    def read(what=""):
        path = tmp_path / "notes"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(word, *map(int, numbers)) for word, *numbers in lines if word.startswith(what)]

    return read


@pytest.fixture
def sqlite_url(tmp_path, empty_storage):
    """A storage of its own without studies."""
    shutil.copy(empty_storage, tmp_path / "optuna.db")
    return f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture
def make_study(sqlite_url):
    """Begin a study, or go on with it, in 64 points: whole numbers `a` and `b` from 1 to 8."""
    from optuna.distributions import IntDistribution

    from drtune.studies.design import Design
    from drtune.studies.space import StudySettings
    from drtune.studies.storage import open_storage
    from drtune.studies.study import begin

    opened = []

    def make(name="s", url=sqlite_url, **change):
        settings = StudySettings.model_validate({**SETTINGS, **change})
        space = {"a": IntDistribution(1, 8), "b": IntDistribution(1, 8)}
        design = Design(settings, space, {"a": 2, "b": 3}, {}, {})
        opened.append(open_storage(url))
        return begin(opened[-1], name, design, settings.trials)

    yield make
    for storage in opened:
        storage.engine.dispose()


@pytest.fixture
def end():
    """End the next trials: with values, pruned with reports (a list), with a fault, or stopped (None)."""

    def end_trials(study, *ends):
        for what in ends:
            attempt = study.next(PROCESS)
            if isinstance(what, str):
                attempt.failed(what)
            elif isinstance(what, list):
                for step, value in enumerate(what):
                    attempt.trial.report(value, step)
                attempt.pruned()
            elif what is None:
                attempt.stopped()
            else:
                attempt.complete(what if isinstance(what, tuple) else (what,))
        return study

    return end_trials


class Postgres:
    """A server of its own on a free port; without passwords it may listen on loopback only."""

    def __init__(self, initdb):
        self.tools, self.user = Path(initdb).resolve().parent, "nobody" if os.geteuid() == 0 else None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.count = Path(tempfile.mkdtemp(prefix="postgres-")), 0
        if self.user:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, self.user)
        self("initdb", "-D", self.folder / "data", "-U", "drtune", "-A", "trust", "--no-sync")

    def __call__(self, tool, *arguments):
        # a server that inherits pytest's pipe would keep it open
        subprocess.run(
            [self.tools / tool, *arguments],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self.folder)},
        )

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += " -c fsync=off"  # a server that is killed loses nothing by that, only a machine does
        log = self.folder / "log"
        self("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", log, "start")

    def stop(self):
        self("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

    def url(self, database):
        return f"postgresql+psycopg://drtune:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new(self):
        """Address of a new database."""
        self.count += 1
        self("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "drtune", f"d{self.count}")
        return self.url(f"d{self.count}")


@pytest.fixture(scope="session")
def postgres():
    """PostgreSQL, running; a test that stops it starts it again."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
    installed = sorted(map(str, Path("/usr/lib").glob("postgresql/*/bin/initdb")))
    initdb = shutil.which("initdb") or next(iter(installed), None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's initdb: apt-get install postgresql")
    server = Postgres(initdb)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder)
