"""Where a task runs decides nothing."""

import pytest
from pydra.utils.hash import hash_function

from l2s_pydra.interfaces import Learn
from l2s_pydra.tasks import Resources


@pytest.mark.parametrize(
    "changes", [{"checkpoint_dir": "/there"}, {"cache_dir": "/there"}, {"processes": 2}]
)
def test_resources_have_one_hash(changes):
    assert hash_function(Resources(**changes)) == hash_function(Resources())


def test_folders_of_the_interface_are_not_hashed(tmp_path):
    one = Learn(segmentation="a")
    two = Learn(segmentation="a", cache_dir=str(tmp_path), checkpoint_dir=str(tmp_path))
    assert one.inputs.get_hashval()[1] == two.inputs.get_hashval()[1]
