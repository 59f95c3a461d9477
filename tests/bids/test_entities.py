import pytest
from bidsschematools.schema import load_schema

from l2s_pydra.bids.entities import ENTITIES, ImageRecord, join_entities, parse_name
from l2s_pydra.errors import DatasetError


def test_order_and_keys_are_those_of_the_standard():
    schema = load_schema()
    keys = [schema.objects.entities[name].name for name in schema.rules.entities]
    assert list(ENTITIES.values()) == keys


def test_names_are_those_of_pybids():
    # Filter files are written with pybids' names, so a name of ours must not mean something else.
    from bids.layout.models import Config

    for config in ("bids", "derivatives"):
        for name, entity in Config.load(config).entities.items():
            key = ENTITIES.get(name)
            if key is not None:
                assert f"{key}-" in entity.pattern


def test_join_is_the_inverse_of_parse():
    name = "sub-01_ses-pre_task-rest_acq-a_ce-b_rec-c_run-02_echo-1_part-mag_chunk-3"
    entities = parse_name(f"{name}_T1w.nii.gz")
    assert entities.pop("suffix") == "T1w"
    assert join_entities(entities) == name


def test_unknown_entities_are_kept_before_desc():
    entities = parse_name("sub-01_foo-1_desc-x_T1w.nii")
    assert entities == {"subject": "01", "foo": "1", "desc": "x", "suffix": "T1w"}
    del entities["suffix"]
    assert join_entities(entities) == "sub-01_foo-1_desc-x"


@pytest.mark.parametrize("value", ["a-b", "a_b", "", "a/b", "ä"])
def test_values_must_be_alphanumeric(value):
    with pytest.raises(DatasetError, match="letters and digits"):
        join_entities({"subject": value})


def test_record(tmp_path):
    path = tmp_path / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_T2w.nii.gz"
    record = ImageRecord.from_path(path, tmp_path)
    assert record.name == "sub-01_ses-b_T2w"
    assert record.participant == "sub-01"
    assert record.suffix == "T2w"
    assert record.relative_path == "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz"
    assert len({record, record}) == 1
