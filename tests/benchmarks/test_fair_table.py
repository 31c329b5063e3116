from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import fair, fair_table
from benchmarks.harness import spread
from drtune.base.files import write_json
from drtune.base.yaml import read_yaml

ROOT = Path(__file__).resolve().parents[2]


def run_of(accuracy, seconds, ood=None, fog=None):
    return {
        "test_accuracy": accuracy, "test_mean_per_class": accuracy - 0.1, "n": 100, "val_accuracy": 0.5,
        "epoch": 3, "seconds": seconds, "peak_mb": 100 * seconds, "ood": ood or {},
        "corrupted": {} if fog is None else {"fog": fog},
    }  # fmt: skip


@pytest.fixture
def plan(tmp_path):
    """Three rows on two sets with two seeds; the first set has shifted ones."""
    found = {
        ("toy", "finetune"): [run_of(0.5, 1.0, {"art": 0.2}, 0.3), run_of(0.7, 2.0, {"art": 0.4}, 0.5)],
        ("toy", "lp_ft"): [run_of(0.6, 1.0, {"art": 0.3}, 0.4), run_of(0.6, 2.0, {"art": 0.3}, 0.4)],
        ("toy", "dr_tune"): [run_of(0.6, 2.0, {"art": 0.5}, 0.4), run_of(0.9, 3.0, {"art": 0.5}, 0.8)],
        ("other", "finetune"): [run_of(0.3, 2.0), run_of(0.3, 2.0)],
        ("other", "lp_ft"): [run_of(0.4, 2.0), run_of(0.4, 2.0)],
        ("other", "dr_tune"): [run_of(0.5, 3.0), run_of(0.4, 3.0)],
    }
    for (name, row), runs in found.items():
        found = {"runs": {"0": runs[0], "1": runs[1]}}
        write_json(fair.result(tmp_path, name, row), {"commit": "", "found": found})
    shipped = read_yaml(ROOT / "benchmarks/plan.yaml")["fair"]
    rows = {name: shipped["rows"][name] for name in ("finetune", "lp_ft", "dr_tune")}
    sets = {"toy": {"shots": 5, "corruptions": ["fog"]}, "other": {"shots": None, "corruptions": []}}
    return {"fair": shipped | {"rows": rows, "sets": sets, "seeds": [0, 1]}}


def test_seeds_are_paired_and_cost_is_relative_to_plain_fine_tuning(plan, tmp_path):
    found = fair_table.table(tmp_path, plan)
    cell = found["dr_tune"]["sets"]["toy"]
    assert cell["test_accuracy"] == spread([0.6, 0.9])
    assert cell["minus plain"] == spread([0.1, 0.2])
    assert cell["minus LP-FT"] == spread([0.0, 0.3])
    assert cell["seconds_over_plain"] == cell["peak_mb_over_plain"] == 1.75
    assert found["finetune"]["sets"]["toy"]["minus plain"]["mean"] == 0.0


def test_the_spread_of_the_mean_over_sets_is_that_of_the_seeds(plan, tmp_path):
    every = fair_table.table(tmp_path, plan)["dr_tune"]["overall"]
    assert every["test_accuracy"] == spread([0.55, 0.65])
    assert every["test_mean_per_class"] == spread([0.45, 0.55])
    assert every["minus plain"] == spread([0.15, 0.15])
    assert every["minus LP-FT"] == spread([0.05, 0.15])
    assert every["seconds_over_plain"] == pytest.approx((2 + 1.5 + 1.5 + 1.5) / 4, abs=1e-3)
    assert every["ood"] == {"toy: art": spread([0.5, 0.5])}
    assert every["corrupted"] == {"toy: fog": spread([0.4, 0.8])}


def test_the_text_has_every_set_every_difference_and_every_shift(plan, tmp_path):
    lines = fair_table.markdown(fair_table.table(tmp_path, plan), plan).splitlines()
    assert lines[0] == (
        "| method | toy, 5 a class | other, all a class | mean | per class | minus plain | minus LP-FT "
        "| time | memory |"
    )
    cells = {line.split(" | ")[0]: line.strip(" |").split(" | ")[1:] for line in lines[2:5]}
    assert cells["| DR-Tune"] == [
        "75.0 ± 21.2", "45.0 ± 7.1", "60.0 ± 7.1", "50.0 ± 7.1", "+15.0 ± 0.0", "+10.0 ± 7.1", "1.62", "1.62",
    ]  # fmt: skip
    assert cells["| plain fine-tuning"][4:6] == ["", "-5.0 ± 7.1"], "nothing is compared with itself"
    shifts = [i for i, line in enumerate(lines) if line.startswith("Test accuracy, %, ")]
    assert [lines[i + 2] for i in shifts] == ["| method | toy: art | mean |", "| method | toy: fog | mean |"]
    assert "| DR-Tune | 50.0 ± 0.0 | 50.0 |" in lines
    assert "| DR-Tune | 60.0 ± 28.3 | 60.0 |" in lines


def test_the_picture_has_a_dot_and_a_name_for_each_method(plan, tmp_path):
    axes = fair_table.picture(fair_table.table(tmp_path, plan), plan).axes[0]
    dots = [tuple(line.get_xydata()[0]) for line in axes.lines]
    assert dots == [(1.0, 45.0), (1.0, 50.0), (1.625, 60.0)]
    assert [text.get_text() for text in axes.texts] == [
        "plain fine-tuning  45.0 ± 7.1", "LP-FT  50.0 ± 0.0", "DR-Tune  60.0 ± 7.1",
    ]  # fmt: skip


@pytest.mark.parametrize("heights", [[50.0], [50.0, 50.0, 50.0], [1.0, 9.9, 10.0], [0.0, 0.1, 0.2, 10.0]])
def test_names_keep_their_order_and_distance(heights):
    places = list(fair_table.beside(heights, 0.1))
    assert all(upper - lower >= 0.1 - 1e-9 for lower, upper in pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= 1


def test_names_with_room_stay_where_their_dots_are():
    assert list(fair_table.beside([0.0, 4.0, 10.0], 0.1)) == pytest.approx([0.0, 0.4, 1.0])
