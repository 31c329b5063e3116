from drtune.base.report import NullReport, Report


def test_nobody_has_to_listen(tmp_path):
    report: Report = NullReport(tmp_path)
    report.log_params({"a": {"b": 1}})
    report.log_metrics({"loss": 1.0}, 3)
    report.log_artifact(tmp_path / "absent")
    report.say("a line")
    with report.progress("work", "images") as progress:
        progress(1, 2, "other work")
        progress.note = "words"
    assert (report.checkpoints, report.downloads) == (tmp_path / "checkpoints", tmp_path / "downloads")
    assert list(tmp_path.iterdir()) == []
