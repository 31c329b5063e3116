import inspect

import pytest

from drtune.base import errors

FAULTS = [c for _, c in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_of_ours_and_says_what_it_is_for(fault):
    assert issubclass(fault, errors.DRTuneError)
    assert fault.__doc__
    assert str(fault("name: value; allowed; remedy")) == "name: value; allowed; remedy"


def test_there_is_a_fault_for_each_part_of_the_work():
    assert len(FAULTS) >= 6
