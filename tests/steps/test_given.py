"""Lists and roles that a step is given."""

import pytest

from l2s_pydra.errors import ConfigError
from l2s_pydra.steps.given import check_lists, check_roles, unique_names


def test_a_participant_has_one_role():
    check_roles(["a", "b", "a", "c"], ["learn", "validate", "learn", "test"])
    with pytest.raises(ConfigError) as error:
        check_roles(["a", "b", "c", "a", "b", "c"], ["learn", "test", "learn"] + ["validate"] * 3)
    assert str(error.value) == (
        "a is to be learned from and validated on, b is to be validated on and tested on, "
        "c is to be learned from and validated on; give each participant one role"
    )


def test_roles_are_known():
    with pytest.raises(ConfigError, match="'judge' is unknown; available: 'learn', 'validate'"):
        check_roles(["a"], ["judge"])


def test_there_is_one_for_each():
    check_lists(2, labels=[1, 2], names="ab")
    with pytest.raises(ConfigError, match=r"names: 3 are given for 2 image\(s\)"):
        check_lists(2, labels=[1, 2], names="abc")


def test_names_say_whose_an_image_is():
    names = unique_names(["sub-1", "sub-2"], ["x/sub-1_T1w.nii.gz", "x/scan.nii"])
    assert names == ["sub-1_T1w", "sub-2 scan"]
