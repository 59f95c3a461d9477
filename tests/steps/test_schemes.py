"""Label tables of both sides, and what they become."""

import numpy as np
import pytest

from l2s_pydra import bids_examples
from l2s_pydra.errors import LabelError
from l2s_pydra.steps.schemes import read_schemes


def test_one_table_is_its_own_target(lobes):
    schemes = read_schemes(lobes.table(*lobes.lines), None, None)
    assert schemes.target == schemes.real == schemes.maps
    assert schemes.real_to_target.tolist() == schemes.maps_to_target.tolist() == [0, 1, 2, 3]
    assert schemes.generation_tables()["group_names"] == (
        "outside", "Lobe", "Stem", "unlabelled", "Lobe (darker)", "Stem (darker)"
    )  # fmt: skip


def test_tables_of_the_phantom():
    derivatives = bids_examples.path("phantom") / "derivatives"
    schemes = read_schemes(
        derivatives / "reference" / "desc-tissue_dseg.tsv",
        derivatives / "labelmaps" / "desc-head_dseg.tsv",
        None,
    )
    assert schemes.maps.indices == (0, 2, 3, 4, 12, 24, 41, 42, 43, 51, 165, 258)
    assert schemes.maps_to_target.tolist() == [0, 3, 2, 1, 4, 1, 3, 2, 1, 5, 0, 0]
    tables = schemes.generation_tables()
    names = tables["group_names"]
    groups = [names[group] for group in tables["group"]]
    # Structures are drawn as those of the learning participants, background tissue on its own.
    assert groups[:12] == [
        "outside", "White-Matter", "Gray-Matter", "CSF", "Putamen", "CSF", "White-Matter",
        "Gray-Matter", "CSF", "Putamen", "Skull", "Head-ExtraCerebral",
    ]  # fmt: skip
    target = ["CSF", "Gray-Matter", "White-Matter", "Putamen", "Putamen"]
    assert groups[12:18] == ["unlabelled", *target]
    assert groups[18:] == ["unlabelled", *(f"{name} (darker)" for name in target)]
    assert tables["channel"][12:] == [0, 1, 2, 3, 4, 5] * 2
    assert names[0] == "outside"
    assert tables["group"][0] == 0


def test_the_other_side_is_of_one_group_and_of_the_opposite_class(lobes):
    real = lobes.table(*lobes.lines)
    maps = lobes.table("index\tname", "1\tLeft-Lobe", "2\tRight-Lobe", "3\tStem", "4\tSkull",
                 name="maps.tsv")  # fmt: skip
    mapping = lobes.table("index\tmapping", "1\t10", "2\t49", "3\t16", "4\t0", name="map.tsv")
    schemes = read_schemes(real, maps, mapping)
    tables = {k: np.array(v) for k, v in schemes.generation_tables().items() if k != "group_names"}
    swap, opposite = tables["swap"], np.array(schemes.target.opposite)
    assert (tables["group"][swap] == tables["group"]).all()
    assert (tables["channel"][swap] == opposite[tables["channel"]]).all()
    assert (swap[swap] == np.arange(len(swap))).all()
    assert not (swap == np.arange(len(swap))).all()


def test_a_label_without_a_namesake_changes_sides_with_its_structure(lobes):
    maps = lobes.table("index\tname", "1\tLeft-Lobe", "2\tRight-Lobe", "3\tStem", "5\tLeft-cyst-5",
                       "6\tRight-scar", name="maps.tsv")  # fmt: skip
    mapping = lobes.table(
        "index\tmapping", "1\t10", "2\t49", "3\t16", "5\t10", "6\t0", name="m.tsv"
    )
    schemes = read_schemes(lobes.table(*lobes.lines), maps, mapping)
    tables = schemes.generation_tables()
    names = [label.name for label in schemes.maps.labels]
    swapped = [names[i] for i in tables["swap"][: len(names)]]
    assert swapped == ["background", "Right-Lobe", "Left-Lobe", "Stem", "Right-Lobe", "Right-scar"]


def test_a_full_mapping_column_makes_a_new_target(lobes):
    real = lobes.table(
        "index\tname\tmapping",
        *("10\tLeft-Thalamus\t1", "11\tLeft-Caudate\t1", "49\tRight-Thalamus\t2"),
        *("50\tRight-Caudate\t2", "16\tStem\t3", "99\tSkull\t0"),
    )
    schemes = read_schemes(real, None, None)
    assert schemes.target.indices == (0, 1, 2, 3)
    assert schemes.target.names[3] == "Stem"
    assert schemes.target.opposite == (0, 2, 1, 3)
    assert dict(zip(schemes.real.indices, schemes.real_to_target.tolist(), strict=True)) == {
        0: 0, 10: 1, 11: 1, 16: 3, 49: 2, 50: 2, 99: 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("index\tname\tmapping", "1\ta\t1", "2\tb\tn/a"), r"label 2 \(b\) has no value"),
        (("index\tname\tmapping", "1\ta\t0", "2\tb\t0"), "no label beside the background"),
        (("index\tname", "0\tbackground"), "no label beside the background"),
    ],
)
def test_a_broken_table_is_named(lobes, lines, said, message_of):
    path = lobes.table(*lines)
    with pytest.raises(LabelError, match=said) as error:
        read_schemes(path, None, None)
    assert message_of(error).startswith(f"{path}: ")


def test_a_label_of_the_maps_without_a_counterpart(lobes, message_of):
    real = lobes.table(*lobes.lines)
    maps = lobes.table("index\tname", "1\tLeft-Lobe", "5\tCyst", name="maps.tsv")
    with pytest.raises(LabelError, match=r"label 5 \(Cyst\) has no counterpart") as error:
        read_schemes(real, maps, None)
    assert message_of(error).startswith(f"{maps}: ")
