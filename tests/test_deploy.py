"""Image, compose file and workflows: they parse, keep their rules, and agree with what they name."""

import fnmatch
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from mlflow.server.security_utils import is_allowed_host_header
from ruamel.yaml import YAML

from drtune.runs.record import collect
from drtune.runs.run import run_tags

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRYPOINT = ROOT / "docker/entrypoint.py"
SECRET = re.compile(r"(?i)passw|secret|token|credential|api_?key")


def read_yaml(path):
    return YAML(typ="safe").load(ROOT / path)


WORKFLOWS = {path.name: read_yaml(path) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
COMPOSE = read_yaml("compose.yaml")
SERVICES = COMPOSE["services"]


def instructions():
    """(keyword, rest) of every instruction of the Dockerfile, continued lines joined, comments dropped."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def stages():
    """Instructions of each build stage by name; the last, which is shipped, is `shipped`."""
    found = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            name = rest.split(" AS ")[1] if " AS " in rest else "shipped"
            found[name] = []
        elif found:
            found[name].append((keyword, rest))
    return found


def targets():
    return set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))


def stage_deps():
    """Every path that a stage of dvc.yaml depends on, with the names of params.yaml put in."""
    params = read_yaml("params.yaml")

    def value(match):
        node = params
        for key in match[1].split("."):
            node = node[key]
        return str(node)

    stages = read_yaml("dvc.yaml")["stages"].values()
    outs = {out for stage in stages for out in stage["outs"]}
    return {re.sub(r"\$\{([\w.]+)\}", value, dep) for stage in stages for dep in stage["deps"]} - outs


# ---- the image


def test_each_run_leaves_no_cache_behind():
    runs = [rest for keyword, rest in instructions() if keyword == "RUN"]
    assert runs
    assert not any("<<" in rest for rest in runs), "old builders know no heredoc"
    for rest in runs:
        assert ("apt-get install" in rest) == ("rm -rf /var/lib/apt/lists/*" in rest)
        assert rest.count("apt-get install") == rest.count("--no-install-recommends")
        assert rest.count(" install --no-cache-dir") == len(re.findall(r"pip [^&|;]*? install ", rest))


def test_packages_are_installed_before_any_code_is_copied():
    copied = [rest.split() for keyword, rest in stages()["packages"] if keyword == "COPY"]
    sources = {word for words in copied for word in words[:-1] if not word.startswith("--from")}
    assert sources == {"/wanted/packages.txt", "docker/requirements.lock", "requirements.lock"}
    shipped = [rest for keyword, rest in stages()["shipped"] if keyword == "COPY"]
    assert shipped[0] == "--from=packages /opt/venv /opt/venv"
    assert [keyword for keyword, _ in stages()["shipped"]].index("COPY") == 1, (
        "folders first, then the packages"
    )


def test_the_image_runs_dvc_repro_as_no_root_under_tini():
    shipped = dict(stages()["shipped"])
    user, group = shipped["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(shipped["ENTRYPOINT"]) == ["tini", "--", "entrypoint"]
    assert json.loads(shipped["CMD"]) == ["dvc", "repro"]
    assert "docker/entrypoint.py /usr/local/bin/entrypoint" in [rest for _, rest in stages()["shipped"]]
    assert all(os.access(ROOT / "docker" / name, os.X_OK) for name in ("entrypoint.py", "drtune"))


def test_no_secret_goes_into_a_layer():
    given = [rest for keyword, rest in instructions() if keyword in ("ARG", "ENV", "LABEL")]
    assert given
    assert not any(SECRET.search(rest) for rest in given)


def test_telemetry_is_off_in_the_image_as_in_make():
    image = dict(re.findall(r"(\w+)=(\S+)", " ".join(r for k, r in stages()["shipped"] if k == "ENV")))
    make = dict(re.findall(r"(?m)^export (\w+) := (\S+)$", MAKEFILE))
    for name in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "OMP_WAIT_POLICY"):
        assert image[name] == make[name], name


def test_only_listed_paths_reach_the_builder_and_they_hold_all_that_stages_read():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert all((ROOT / path).exists() for path in allowed), "a listed path that does not exist"

    def reaches(path):
        return any(path == name or path.startswith(f"{name}/") for name in allowed)

    assert {dep for dep in stage_deps() if not (reaches(dep) or reaches(f"{dep}/README.md"))} == set()
    for path in (
        ".git/config",
        ".env",
        ".dvc/config.local",
        ".dvc/cache/x",
        "data/x",
        "mlflow.db",
        ".venv/x",
    ):
        assert not reaches(path), path


def test_the_code_in_the_image_is_that_of_the_current_folder():
    code = dict(re.findall(r"(\w+)=(\S+)", " ".join(r for k, r in stages()["shipped"] if k == "ENV")))
    assert code["PYTHONPATH"] == "/workspace:/opt/project", (
        "the workspace, then what the package says of itself"
    )
    copied = [rest for keyword, rest in stages()["shipped"] if keyword == "COPY"]
    assert {"--from=project /opt/project /opt/project", "--from=project /workspace /workspace"} < set(copied)
    assert "python -c " in (ROOT / "docker/drtune").read_text(), "-c looks into the current folder first"


def test_the_command_in_the_image_is_that_of_pyproject():
    module, name = PYPROJECT["project"]["scripts"]["drtune"].split(":")
    assert f"from {module} import {name}; {name}(" in (ROOT / "docker/drtune").read_text()


def test_what_only_the_image_has_is_pinned_once_and_moves_no_stage():
    def names(path):
        found = (re.match(r"[A-Za-z0-9_.-]+", line) for line in (ROOT / path).read_text().splitlines())
        return {match[0].lower() for match in found if match}

    own = {
        re.split(r"[=; ]", line)[0] for line in (ROOT / "docker/requirements.lock").read_text().splitlines()
    }
    assert names("docker/requirements.in") <= own
    assert all("==" in line for line in (ROOT / "docker/requirements.lock").read_text().splitlines())
    assert (own & names("requirements.lock")) <= {"tzdata"}, "tzdata stands in both, for Windows alone"
    assert not any(dep.startswith("docker/") for dep in stage_deps())


def test_digest_and_commit_reach_the_tags_of_every_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DRTUNE_IMAGE", "sha256:5eed")
    monkeypatch.setenv("GIT_COMMIT", "c0ffee")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    tags = run_tags("train", collect(tmp_path), "")
    assert (tags["env.image"], tags["git.commit"]) == ("sha256:5eed", "c0ffee")
    assert "DRTUNE_IMAGE" in MAKEFILE
    assert {"DRTUNE_IMAGE", "GIT_COMMIT"} <= set(re.findall(r"(\w+)=", dict(stages()["shipped"])["ENV"]))


# ---- its first process


def entrypoint(script, workspace):
    """The entrypoint around a Python script, in a process group of its own as under tini."""
    command = [sys.executable, str(ENTRYPOINT), sys.executable, "-c", script]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, cwd=workspace)


def wait_for(path):
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("script", "code"), [("raise SystemExit(7)", 7), ("", 0), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_code_of_the_command_is_kept(script, code, tmp_path):
    assert entrypoint(script, tmp_path).wait(20) == code


def test_a_command_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, ENTRYPOINT, "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (127, "no-such-command: No such file or directory\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_command_and_stage_as_sigint_and_both_are_waited_for(tmp_path, signum):
    stage = f"""
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(0.5)
    pathlib.Path({str(tmp_path / "closed")!r}).touch()
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
pathlib.Path({str(tmp_path / "started")!r}).touch()
time.sleep(60)
"""
    dvc = f"""
import signal, subprocess, sys
stage = subprocess.Popen([sys.executable, "-c", {stage!r}])
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(4 if stage.wait() == 130 else 5)
"""
    process = entrypoint(dvc, tmp_path)
    wait_for(tmp_path / "started")
    process.send_signal(signum)
    assert process.wait(20) == 4
    assert (tmp_path / "closed").exists()


def test_a_stage_whose_dvc_was_killed_is_waited_for(tmp_path):
    stage = f"import pathlib, time; time.sleep(1); pathlib.Path({str(tmp_path / 'closed')!r}).touch()"
    dvc = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", {stage!r}])
os.kill(os.getpid(), 9)
"""
    assert entrypoint(dvc, tmp_path).wait(20) == 137
    assert (tmp_path / "closed").exists()


def test_the_notes_of_killed_containers_are_dropped_and_those_of_others_kept(tmp_path):
    folder = tmp_path / ".dvc/tmp"
    folder.mkdir(parents=True)
    killed = {"pid": 8, "cmd": f"{sys.prefix}/bin/dvc repro"}
    host = {"pid": 8, "cmd": "/home/me/.venv/bin/dvc repro"}
    notes = {
        "write": {"/w/data": killed, "/w/models": host},
        "read": {"/w/a": [killed, host], "/w/b": [killed]},
    }
    (folder / "rwlock").write_text(json.dumps(notes))
    assert entrypoint("", tmp_path).wait(20) == 0
    kept = {"write": {"/w/models": host}, "read": {"/w/a": [host]}}
    assert json.loads((folder / "rwlock").read_text()) == kept


def test_no_note_is_dropped_while_another_container_works_here(tmp_path):
    folder = tmp_path / ".dvc/tmp"
    folder.mkdir(parents=True)
    first = entrypoint("import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)", tmp_path)
    wait_for(tmp_path / "started")
    notes = json.dumps({"write": {"/w/data": {"pid": 8, "cmd": f"{sys.prefix}/bin/dvc repro"}}})
    (folder / "rwlock").write_text(notes)
    assert entrypoint("", tmp_path).wait(20) == 0
    assert (folder / "rwlock").read_text() == notes
    first.send_signal(signal.SIGTERM)
    first.wait(20)
    assert entrypoint("", tmp_path).wait(20) == 0
    assert json.loads((folder / "rwlock").read_text()) == {"read": {}, "write": {}}


@pytest.mark.parametrize("left", ["", "{}", "not JSON"])
def test_a_file_of_notes_that_says_nothing_stops_nobody(tmp_path, left):
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text(left)
    assert entrypoint("", tmp_path).wait(20) == 0


# ---- outside against inside


def write_lock(path, model):
    outs = [{"path": "models", "md5": model}, {"path": "metrics.json", "md5": "m"}]
    path.write_text(json.dumps({"schema": "2.0", "stages": {"train": {"cmd": "x", "outs": outs}}}))


def test_verify_compares_every_out(tmp_path):
    verify = runpy.run_path(str(ROOT / "docker/verify.py"))
    write_lock(tmp_path / "a", "1")
    write_lock(tmp_path / "b", "2")
    outside, inside = verify["outs"](tmp_path / "a"), verify["outs"](tmp_path / "b")
    assert outside == {"models": "1", "metrics.json": "m"}
    assert re.findall(r"(?m)^\S+ +\S+", verify["table"](outside, inside)) == [
        "identical  metrics.json",
        "DIFFERENT  models",
    ]
    assert verify["table"](outside, {}).count("DIFFERENT") == 2


# ---- the report of a pull request


def test_the_report_shows_parameters_metrics_and_curves(tmp_path, monkeypatch):
    dvc = tmp_path / "dvc"
    rows = r'[ "$1" = params ] && printf "|Param|new|\n|-|-|\n|train.epochs|5|\n" || printf "|a|\n|-|\n"'
    dvc.write_text(f"#!/bin/sh\n{rows}\n")
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    history = [
        {"epoch": 0, "val_accuracy": 0.5, "val_loss": 2.0},
        {"epoch": 1, "val_accuracy": 0.75, "val_loss": 1.5, "train_loss": 1.0},
    ]
    (tmp_path / "history.json").write_text(json.dumps(history))
    text = runpy.run_path(str(ROOT / ".ci/report"))["report"]("0123456789" * 4, tmp_path / "history.json")
    assert "Against `012345678901`." in text
    assert "|train.epochs|5|" in text
    assert text.count("No change.") == 1
    assert '  x-axis "epoch" [0, 1]\n  line [0.5, 0.75]\n' in text
    assert '  x-axis "epoch" [1]\n  line [1]\n  line [1.5]\n' in text


# ---- compose


def test_what_a_service_waits_for_is_there_and_says_when_it_is_ready():
    waits = {name: entry.get("depends_on", {}) for name, entry in SERVICES.items()}
    assert waits["trainer"] == {"mlflow": {"condition": "service_healthy"}}
    assert waits["mlflow"] == {"postgres": {"condition": "service_healthy"}}
    for name, entry in waits.items():
        for other, how in entry.items():
            assert "healthcheck" in SERVICES[other], f"{name} waits for {other}"
            assert how == {"condition": "service_healthy"}


def test_the_server_takes_the_name_under_which_the_trainer_calls_it():
    command = SERVICES["mlflow"]["command"]
    option = next(word for word in command if word.startswith("--allowed-hosts="))
    allowed = re.search(r"\$\{ALLOWED_HOSTS:-(.*)\}$", option)[1].split(",")
    called = SERVICES["trainer"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert called == "mlflow:5000"
    assert "--port=5000" in command
    assert "--serve-artifacts" in command
    for host in (called, "localhost:5000", "127.0.0.1:5000"):
        assert is_allowed_host_header(allowed, host), host
    assert not is_allowed_host_header(allowed, "evil.example:5000")


def test_a_team_machine_shows_its_server_to_itself_alone_until_told_otherwise():
    assert SERVICES["mlflow"]["ports"] == ["${LISTEN:-127.0.0.1:5000}:5000"]
    assert "ports" not in SERVICES["postgres"]


def test_volumes_are_declared_and_mounted_files_exist():
    for name, entry in SERVICES.items():
        for volume in entry.get("volumes", []):
            source = volume.split(":")[0]
            there = (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
            assert there, f"{name}: {volume}"
    made = " ".join(re.findall(r"mkdir --mode=1?777 ([^&]+)", dict(stages()["shipped"])["RUN"])).split()
    mounts = {v.split(":")[1] for name in ("mlflow", "trainer") for v in SERVICES[name]["volumes"]}
    assert mounts - {"/etc/xdg/dvc/config"} == set(made), "a volume takes the rights of its folder"


def test_no_password_stands_in_the_compose_file():
    text = (ROOT / "compose.yaml").read_text()
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"] == "${PGPASSWORD:?set it in .env}"
    assert re.findall(r"\w+://\w+:[^@\s]+@", text) == [], "an address that holds a password"
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_both_databases_are_made_and_used():
    url = "postgresql+psycopg://drtune@postgres:5432"
    assert SERVICES["postgres"]["environment"]["POSTGRES_DB"] == "mlflow"
    assert f"--backend-store-uri={url}/mlflow" in SERVICES["mlflow"]["command"]
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["command"] == ["drtune", "study", "run", "--storage", f"{url}/studies"]
    assert "CREATE DATABASE studies;" in (ROOT / "docker/databases.sql").read_text()


def test_profiles_decide_who_works_and_where():
    profiles = {name: entry.get("profiles") for name, entry in SERVICES.items()}
    assert profiles == {
        "postgres": None,
        "mlflow": None,
        "trainer": ["cpu"],
        "trainer-gpu": ["gpu"],
        "worker": ["study"],
        "worker-gpu": ["study-gpu"],
    }
    for name, entry in SERVICES.items():
        gpu = name.endswith("-gpu")
        assert ("deploy" in entry) == gpu, name
        if name != "postgres":
            kind = "cuda" if gpu else "cpu"
            assert entry["build"]["args"]["TORCH"] == kind
            assert entry["image"].endswith(f":-drtune:{kind}}}"), "the name that make docker-build gives"
            assert "container_name" not in entry, "a name would forbid --scale"
        if entry.get("profiles"):
            assert "hostname" not in entry, "runs tell processes apart by host and process id"
            assert entry["stop_grace_period"] == "30s"


# ---- workflows, docs, make


def test_workflows_call_nothing_but_make_and_make_knows_it():
    assert set(WORKFLOWS) == {"ci.yml", "pipeline.yml", "audit.yml"}
    steps = [s for w in WORKFLOWS.values() for job in w["jobs"].values() for s in job["steps"] if "run" in s]
    called = [re.match(r"make (?:--silent )?([a-z-]+)", step["run"]) for step in steps]
    assert [s["run"] for s, match in zip(steps, called, strict=True) if not match] == [
        'gh pr comment "$NUMBER" --edit-last --create-if-none --body-file report.md'
    ]
    assert {match[1] for match in called if match} <= targets()
    assert {match[1] for match in called if match} >= {
        "check",
        "in-step",
        "test",
        "docker-build",
        "docker-verify",
    }


def test_workflows_test_every_python_that_the_package_takes():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"]).groups()
    supported = [f"3.{minor}" for minor in range(int(low), int(high))]
    assert WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == supported
    assert f"(3, {low}) <= v <= (3, {int(high) - 1})" in MAKEFILE


def test_a_change_of_anything_that_a_stage_reads_runs_the_pipeline():
    patterns = WORKFLOWS["pipeline.yml"]["on"]["pull_request"]["paths"]
    for path in stage_deps() | {"params.yaml", "dvc.yaml", "Dockerfile"}:
        assert any(fnmatch.fnmatch(path, pattern.replace("**", "*")) for pattern in patterns), path


def test_workflows_hold_no_rights_they_do_not_use():
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert "timeout-minutes" in job
            own, steps = job.get("permissions", {}), job["steps"]
            checked_out = [step for step in steps if "checkout" in step.get("uses", "")]
            assert own == ({"pull-requests": "write"} if name == "comment" else {})
            assert not (own and checked_out), "a job that may write runs no code of a pull request"
            assert all(step["with"]["persist-credentials"] is False for step in checked_out)
            assert not any("${{" in step.get("run", "") for step in steps), (
                "values reach a shell by its environment"
            )


def test_actions_are_pinned_by_commit():
    used = [
        step["uses"]
        for workflow in WORKFLOWS.values()
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if "uses" in step
    ]
    assert len(used) > 5
    assert [name for name in used if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name)] == []


def test_the_secrets_reach_only_the_services_that_need_them():
    given = {name for name, entry in SERVICES.items() if "env_file" in entry}
    assert given == {"mlflow"}
    with_password = {n for n, entry in SERVICES.items() if "PGPASSWORD" in entry.get("environment", {})}
    assert with_password == {"worker", "worker-gpu"}
    assert "(umask 077; printf" in (ROOT / "docs/deploy.md").read_text(), "others may not read .env"


def test_the_page_on_deployment_names_what_there_is():
    text = (ROOT / "docs/deploy.md").read_text()
    assert set(re.findall(r"(?m)(?:^|`|&& )make ([a-z-]+)", text)) <= targets()
    assert {name for name in targets() if name.startswith("docker-")} <= set(re.findall(r"docker-\w+", text))
    assert set(re.findall(r"--profile ([a-z-]+)", text)) <= {
        p for s in SERVICES.values() for p in s.get("profiles", [])
    }
    assert {"trainer"} < set(re.findall(r"compose run --rm ([a-z-]+)", text)) <= set(SERVICES)
