import pytest

from benchmarks.study import SAMPLERS, records, summary


def cut(shipped, auto, random):
    rows = zip(("shipped", *SAMPLERS), (shipped, auto, random), strict=True)
    return {name: {"validation": chosen, "test": measured} for name, (chosen, measured) in rows}


def test_gains_are_paired_and_validation_has_its_median():
    cuts = [
        cut((0.80, 0.70), (0.90, 0.75), (0.85, 0.70)),
        cut((0.82, 0.80), (0.83, 0.79), (0.84, 0.82)),
        cut((0.84, 0.60), (0.95, 0.65), (0.85, 0.60)),
    ]
    rows = summary(cuts)
    assert rows["shipped"]["gain"] == {"mean": 0.0, "std": 0.0, "n": 3}
    assert rows["auto"]["gain"]["mean"] == pytest.approx(3.0)
    assert rows["auto"]["gain"]["std"] == pytest.approx(3.46, abs=0.01)
    assert rows["random"]["gain"]["mean"] == pytest.approx(0.67)
    assert [rows[name]["median_validation"] for name in rows] == [0.82, 0.90, 0.85]


def test_cuts_of_another_budget_lie_elsewhere(tmp_path):
    few, many = records(tmp_path, 2, 20), records(tmp_path, 2, 40)
    assert list(few.values()) == [(0, 20), (1, 20)]
    assert len({*few, *many}) == 4
