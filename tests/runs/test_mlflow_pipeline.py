import functools

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from drtune.runs import record
from drtune.runs.journal import ship, write_offset
from drtune.runs.mlflow_pipeline import find, join, pipeline_name, run_of_key, sweep
from drtune.runs.mlflow_run import MlflowTarget, stage_run
from drtune.runs.mlflow_study import StudyName, trial_run
from drtune.runs.run_store import RunStore
from drtune.runs.stage_key import StageIdentity, stage_key

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


class Project:
    """A dvc.lock of three stages, data -> train -> evaluate, that are run one by one."""

    def __init__(self, root):
        self.root, self.lock = root, root / "dvc.lock"
        self.stages = {}
        self.record = record.collect(root)

    def entry(self, stage, setting):
        before = {"data": [], "train": ["data"], "evaluate": ["train"]}[stage]
        deps = [{"path": f"{name}.out", "md5": self.stages[name]["outs"][0]["md5"]} for name in before]
        params = {"params.yaml": {"setting": setting}}
        md5 = f"{stage} made with {setting} from {[dep['md5'] for dep in deps]}"
        return {"cmd": stage, "deps": deps, "params": params, "outs": [{"path": f"{stage}.out", "md5": md5}]}

    def run(self, stage, setting, metrics=None, fault=None):
        """Run a stage, or take it from the cache, as `dvc repro` does; then the lock has its entry."""
        entry = self.entry(stage, setting)
        identity = StageIdentity(stage_key(entry), {}, (f"{stage}.out",))
        with stage_run(
            "toy", stage, self.record, identity, resume=True, root=self.root, lock=self.lock
        ) as run:
            run.log_metrics(metrics or {})
            if fault:
                raise fault
        self.take(stage, setting)
        return run

    def take(self, stage, setting):
        self.stages[stage] = self.entry(stage, setting)
        YAML().dump({"schema": "2.0", "stages": self.stages}, self.lock)


@pytest.fixture
def project(root):
    return Project(root)


def runs(root):
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("toy/pipeline").experiment_id
    found = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    pipelines = [run for run in found if run.data.tags["drtune.kind"] == "pipeline"]
    return client, pipelines, [run for run in found if run not in pipelines]


def children(stages, pipeline):
    mine = [run for run in stages if run.data.tags["mlflow.parentRunId"] == pipeline.info.run_id]
    return [run.data.tags["drtune.stage"] for run in mine]


def test_the_stages_of_one_repro_have_one_parent(project, root):
    project.run("data", 1)
    project.run("train", 1, {"best_val_accuracy": 0.5, "best_epoch": 3, "loss": 1.0})
    project.run("evaluate", 1, {"test.accuracy": 0.75, "test.n": 100})
    _, (pipeline,), stages = runs(root)
    assert children(stages, pipeline) == ["data", "train", "evaluate"]
    assert pipeline.info.status == "FINISHED"
    assert pipeline.info.end_time == max(run.info.end_time for run in stages)
    assert pipeline.data.metrics == {"best_val_accuracy": 0.5, "best_epoch": 3, "test.accuracy": 0.75}
    train = stages[1]
    assert train.data.metrics["test.accuracy"] == 0.75, "one row to filter trainings by"
    page = f"#/experiments/{pipeline.info.experiment_id}/runs/{train.info.run_id}"
    assert f"| train | [train]({page}) | FINISHED |" in pipeline.data.tags["mlflow.note.content"]
    assert pipeline.data.tags["drtune.run.train"] == train.info.run_id
    assert "mlflow.parentRunId" not in pipeline.data.tags


def test_another_setting_begins_a_pipeline_run_that_points_to_what_came_from_the_cache(project, root):
    project.run("data", 1)
    project.run("train", 1)
    project.run("evaluate", 1)
    project.run("train", 2)
    project.run("evaluate", 2)
    _, (first, second), stages = runs(root)
    assert children(stages, first) == ["data", "train", "evaluate"]
    assert children(stages, second) == ["train", "evaluate"]
    assert second.data.tags["drtune.run.data"] == first.data.tags["drtune.run.data"]
    assert ", from the cache | FINISHED" in second.data.tags["mlflow.note.content"]
    project.take("train", 1)
    project.run("evaluate", 3)
    _, pipelines, stages = runs(root)
    assert [children(stages, run) for run in pipelines] == [
        ["data", "train", "evaluate"],
        ["train", "evaluate"],
        ["evaluate"],
    ]


def test_a_pipeline_run_goes_on_after_a_fault(project, root):
    project.run("data", 1)
    with pytest.raises(ValueError, match="broken"):
        project.run("train", 1, fault=ValueError("broken"))
    assert [run.info.status for run in runs(root)[1]] == ["FAILED"]
    project.run("train", 1)
    _, (pipeline,), stages = runs(root)
    assert pipeline.info.status == "FINISHED"
    assert children(stages, pipeline) == ["data", "train"]


def test_it_is_running_while_a_stage_runs_and_killed_when_that_is_gone(project, root):
    project.run("data", 1)
    entry = project.entry("train", 1)
    identity = StageIdentity(stage_key(entry), {}, ("train.out",))
    with stage_run("toy", "train", project.record, identity, root=root, lock=project.lock) as run:
        assert run.shipper.first_round.wait(60)
        client, (pipeline,), stages = runs(root)
        assert pipeline.info.status == "RUNNING"
        assert sweep(RunStore(root), pipeline.info.experiment_id) == []
        run.shipper.close(30)
        run.journal.release()  # as the kernel does when it is killed
        assert sweep(RunStore(root), pipeline.info.experiment_id) == [stages[-1].info.run_id]
    assert client.get_run(pipeline.info.run_id).info.status == "KILLED"


def test_shipping_again_changes_nothing(project, root):
    project.run("data", 1)
    run = project.run("train", 1, {"best_val_accuracy": 0.5})
    client, (before,), _ = runs(root)
    write_offset(run.journal.path, 0)
    ship(run.journal.path, MlflowTarget(root))
    client, (after,), _ = runs(root)
    assert (after.data.tags, after.info.end_time) == (before.data.tags, before.info.end_time)
    assert len(client.get_metric_history(after.info.run_id, "best_val_accuracy")) == 1


def test_the_pipeline_run_with_the_most_of_the_keys_is_taken(root):
    client = RunStore(root).client
    about = {"name": "p", "tags": {"git.commit": "c", "proc.pid": "1"}, "time": 1, "runs": {}}
    joined = functools.partial(join, client, root, "0", about=about)
    full = joined({"data": "d", "train@l2": "t"})
    other = joined({"data": "d", "train@l2": "u"})
    assert len({full, other}) == 2
    assert find(client, "0", {"data": "d", "train@l2": "t"}) == full
    assert find(client, "0", {"data": "d", "train@l2": "x"}) is None
    assert find(client, "0", {"data": "x"}) is None
    assert joined({"data": "d", "train@l2": "t", "evaluate": "e"}) == full
    assert find(client, "0", {"data": "d", "train@l2": "t", "evaluate": "f"}) is None
    tags = client.get_run(full).data.tags
    assert tags["git.commit"] == "c"
    assert "proc.pid" not in tags, "a process belongs to a stage"


class Pruned(Exception):  # noqa: N818
    """The trial is given up."""


def run_trial(project, number, entry, metrics=None, fault=None):
    """Train in a trial of a study as a stage's entry says."""
    study, identity = StudyName("toy", "s", "token"), StageIdentity(stage_key(entry), {}, ())
    with trial_run(study, number, "of the study", project.record, identity, project.root, Pruned) as run:
        run.log_metrics(metrics or {})
        if fault:
            raise fault


def studied(root):
    """Trial number -> its run."""
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("toy/studies").experiment_id
    return {run.data.tags["optuna.trial"]: run for run in client.search_runs([experiment])}


def test_what_a_trial_trained_is_shown_in_the_pipeline_run_that_uses_it(project, root):
    project.run("data", 1)
    run_trial(project, 3, project.entry("train", 1), {"best_val_accuracy": 0.5})
    project.take("train", 1)  # as `dvc repro` does after `drtune study apply`
    project.run("evaluate", 1, {"test.accuracy": 0.75})
    _, (pipeline,), stages = runs(root)
    (trial,) = studied(root).values()
    assert pipeline.data.tags["drtune.run.train"] == trial.info.run_id
    assert children(stages, pipeline) == ["data", "evaluate"]
    assert trial.data.tags["mlflow.parentRunId"] == "of the study", "it stays where it was made"
    assert pipeline.data.metrics == {"best_val_accuracy": 0.5, "test.accuracy": 0.75}
    page = f"#/experiments/{trial.info.experiment_id}/runs/{trial.info.run_id}"
    note = pipeline.data.tags["mlflow.note.content"]
    assert f"| train | [trial-003]({page}), from the cache | FINISHED |" in note
    assert trial.info.experiment_id != pipeline.info.experiment_id


def test_the_run_of_a_key_is_the_stage_s_then_the_newest_finished_trial_s(project, root):
    project.run("data", 1)
    client, (pipeline,), _ = runs(root)
    experiment, entry = pipeline.info.experiment_id, project.entry("train", 1)
    find_run = functools.partial(run_of_key, client, experiment, stage_key(entry))
    assert find_run() is None, "no study was made yet"
    with pytest.raises(Pruned):
        run_trial(project, 0, entry, fault=Pruned())
    with pytest.raises(ValueError, match="broken"):
        run_trial(project, 1, entry, fault=ValueError("broken"))
    run_trial(project, 2, project.entry("train", 2))
    assert find_run() is None, "a model comes from a finished trial with this key"
    run_trial(project, 3, entry)
    run_trial(project, 4, entry)
    trials = studied(root)
    assert find_run() == trials["4"].info.run_id
    client.delete_run(trials["4"].info.run_id)
    assert find_run() == trials["3"].info.run_id
    client.delete_experiment(trials["3"].info.experiment_id)
    assert find_run() is None
    client.restore_experiment(trials["3"].info.experiment_id)
    project.run("train", 1)
    assert find_run() == runs(root)[2][-1].info.run_id


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("lighter", "main", "a" * 40), "lighter"),
        (("", "main", "a" * 40), "main@aaaaaaa"),
        (("", "", "a" * 40), "detached@aaaaaaa"),
        (("", "", ""), "pipeline"),
    ],
)
def test_names(given, name):
    assert pipeline_name(*given) == name
