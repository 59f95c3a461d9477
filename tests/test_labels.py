"""Label tables, the way from values to channels and back, and mappings between tables."""

import numpy as np
import pytest

from l2s_pydra.errors import LabelError
from l2s_pydra.labels import Label, LabelScheme, read_mapping

VALUES = (-7, 0, 3, 41, 65_536, 2**31 - 1)


@pytest.fixture
def table(tmp_path):
    """Write a table from rows of cells; return its path."""

    def table(*rows, name="dseg.tsv"):
        path = tmp_path / name
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
        return path

    return table


@pytest.fixture
def scheme():
    names = ("deep", "background", "left", "right", "far", "largest")
    return LabelScheme([Label(index=i, name=n) for i, n in zip(VALUES, names, strict=True)])


@pytest.fixture
def fine():
    """Table of four structures with their sides."""
    names = {1: "Left-Putamen", 2: "Right-Putamen", 5: "Left-Caudate", 9: "Right-Caudate"}
    return LabelScheme([Label(index=i, name=n) for i, n in names.items()])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64])
def test_values_come_back(scheme, dtype):
    values = np.random.default_rng(0).choice(VALUES, (5, 6, 7)).astype(dtype)
    channels = scheme.to_channels(values, source="example")
    assert channels.dtype == np.int16
    np.testing.assert_array_equal(scheme.to_indices(channels), values)
    # Background is channel 0 whatever its rank among the values.
    np.testing.assert_array_equal(channels == 0, values == 0)
    assert scheme.indices == (0, -7, 3, 41, 65_536, 2**31 - 1)


def test_background_is_added_where_the_table_leaves_it_out():
    scheme = LabelScheme([Label(index=4, name="four"), Label(index=-2, name="two")])
    assert scheme.indices == (0, -2, 4)
    assert scheme.names[0] == "background"


def test_table_comes_back(table, tmp_path):
    path = table(
        ("index", "name", "color", "side", "group", "mapping", "volume"),
        (17, "hippo L", "#ff0000", "left", "hippo", 1, "ignored"),
        (53, "hippo R", "n/a", "right", "hippo", "n/a", "ignored"),
        (-4, "stem", "", "", "", "", ""),
    )
    scheme = LabelScheme.read(path)
    assert scheme.labels == (
        Label(index=0, name="background"),
        Label(index=-4, name="stem"),
        Label(
            index=17, name="hippo L", color="#ff0000", side="left", group="hippo", mapping=1
        ),
        Label(index=53, name="hippo R", side="right", group="hippo"),
    )  # fmt: skip
    scheme.write(tmp_path / "again.tsv")
    assert LabelScheme.read(tmp_path / "again.tsv") == scheme
    header = (tmp_path / "again.tsv").read_text().splitlines()[0]
    assert header.split("\t") == ["index", "name", "color", "mapping", "side", "group"]


def test_byte_order_mark_and_empty_lines_are_no_labels(tmp_path):
    path = tmp_path / "dseg.tsv"
    path.write_bytes("\ufeffindex\tname\r\n\r\n3\tpía\r\n".encode())
    assert LabelScheme.read(path).labels[1] == Label(index=3, name="pía")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("index", "label"), (1, "a")], "lacks the column 'name'"),
        ([("index,name",), ("1,a",)], "tab-separated"),
        ([("index", "name"), ("1.5", "a")], "'1.5' is no integer"),
        ([("index", "name"), (1, "a"), (1, "b")], "index 1 twice"),
        ([("index", "name"), (1, "a"), (2, "a")], "name 'a' twice"),
        ([("index", "name"), (0, "background")], "no label beside the background"),
        ([("index", "name"), (2**31, "a")], "32 bits"),
        ([("index", "name", "mapping"), (1, "a", "b")], "mapping 'b' is no integer"),
        ([("index", "name"), (1, "a" * 200_000)], "cannot read"),
    ],
)
def test_broken_tables_are_named(table, rows, said):
    path = table(*rows)
    with pytest.raises(LabelError) as error:
        LabelScheme.read(path)
    message = str(error.value)
    assert message.count(str(path)) == 1
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00index"], ids=["missing", "binary"])
def test_unreadable_tables_are_named(tmp_path, content):
    path = tmp_path / "dseg.tsv"
    if content is not None:
        path.write_bytes(content)
    for read in (LabelScheme.read, read_mapping):
        with pytest.raises(LabelError, match="cannot read the label table") as error:
            read(path)
        assert str(path) in str(error.value)


def test_unknown_values_are_named_with_the_file(scheme):
    values = np.array([0, 3, 5, 6, 5])
    with pytest.raises(LabelError, match=r"^sub-01_dseg\.nii: label\(s\) 5, 6 not in .*; add"):
        scheme.to_channels(values, source="sub-01_dseg.nii")
    many = np.arange(100, 120)
    with pytest.raises(LabelError, match=r"label\(s\) 100, .*, 107 \.\.\. not"):
        scheme.to_channels(many, source="sub-01_dseg.nii")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_values_that_are_no_labels(scheme, value):
    with pytest.raises(LabelError, match=r"^image\.nii: holds values that are no integers"):
        scheme.to_channels(np.array([0, value]), source="image.nii")


def test_channel_of_a_value(scheme):
    assert scheme.channel(41) == 3
    with pytest.raises(LabelError, match="label 42 is not in the scheme; available: 0, -7"):
        scheme.channel(42)


def test_a_scheme_without_a_table():
    scheme = LabelScheme.from_indices(np.array([5, 0, 2, 5]))
    assert scheme.indices == (0, 2, 5)
    assert scheme.names == ("background", "label2", "label5")
    assert len(scheme) == 3


@pytest.mark.parametrize(
    ("names", "side", "group"),
    [
        (("Left-Cerebral-Cortex", "Right-Cerebral-Cortex"), "left", "Cerebral-Cortex"),
        (("ctx-lh-cuneus", "ctx-rh-cuneus"), "left", "ctx-cuneus"),
        (("L_thalamus", "R_thalamus"), "left", "thalamus"),
        (("Thalamus_L", "Thalamus_R"), "left", "Thalamus"),
        (("right putamen", "left putamen"), "right", "putamen"),
    ],
)
def test_sides_that_names_tell(names, side, group):
    scheme = LabelScheme([Label(index=i, name=name) for i, name in enumerate(names, 1)])
    assert scheme.labels[1].side_or_guess == side
    assert {label.group_or_guess for label in scheme.labels[1:]} == {group}
    assert scheme.opposite == (0, 2, 1)


@pytest.mark.parametrize("name", ["brainstem", "Lateral-Sulcus", "Cleft", "3rd-Ventricle", "CSF"])
def test_names_without_a_side(name):
    label = Label(index=1, name=name)
    assert label.side_or_guess == "midline"
    assert label.group_or_guess == name
    assert LabelScheme([label]).opposite == (0, 1)


def test_columns_come_before_names():
    label = Label(index=1, name="Left-Pallidum", side="right", group="grey")
    assert (label.side_or_guess, label.group_or_guess) == ("right", "grey")
    scheme = LabelScheme(
        [
            Label(index=1, name="PutamenA", side="left", group="putamen"),
            Label(index=2, name="PutamenB", side="right", group="putamen"),
        ]
    )
    # Names that share nothing but their side cannot be paired by name; their group pairs them.
    assert scheme.opposite == (0, 2, 1)


def test_a_group_of_several_structures_pairs_none_of_them():
    names = {1: "A", 2: "B", 3: "C", 4: "D"}
    scheme = LabelScheme(
        [
            Label(index=i, name=n, group="grey", side="left" if i < 3 else "right")
            for i, n in names.items()
        ]
    )
    assert scheme.opposite == (0, 1, 2, 3, 4)


def test_a_structure_of_one_side_only_has_no_opposite(fine):
    scheme = LabelScheme(fine.labels[:-1])
    assert scheme.names[1:] == ("Left-Putamen", "Right-Putamen", "Left-Caudate")
    assert scheme.opposite == (0, 2, 1, 3)


def test_mapping_table_merges(fine, table):
    target = LabelScheme([Label(index=70, name="putamen"), Label(index=60, name="caudate")])
    path = table(("index", "mapping"), (1, 70), (2, 70), (5, 60), (9, 0))
    channels = fine.mapped_to(target, read_mapping(path))
    values = np.array([0, 1, 2, 5, 9])
    merged = target.to_indices(channels[fine.to_channels(values, source="example")])
    np.testing.assert_array_equal(merged, [0, 70, 70, 60, 0])


def test_mapping_column_then_name_then_value(fine):
    target = LabelScheme([Label(index=3, name="Left-Caudate"), Label(index=8, name="other")])
    labels = [
        Label(index=1, name="Left-Putamen", mapping=8),
        Label(index=5, name="Left-Caudate"),
    ]
    assert LabelScheme(labels).mapped_to(target).tolist() == [0, 2, 1]
    assert LabelScheme(labels).mapped_to(target, {1: 0}).tolist() == [0, 0, 1]
    same_values = LabelScheme([Label(index=i, name=f"label {i}") for i in fine.indices[1:]])
    assert same_values.mapped_to(fine).tolist() == [0, 1, 2, 3, 4]


def test_a_label_without_a_counterpart(fine):
    target = LabelScheme([Label(index=1, name="Left-Putamen")])
    with pytest.raises(
        LabelError, match=r"label 2 \(Right-Putamen\) has no counterpart among 0, 1"
    ):
        fine.mapped_to(target)
    with pytest.raises(LabelError, match="label 1 "):
        fine.mapped_to(target, {1: 77})


def test_mapping_table_with_a_value_twice(table):
    path = table(("index", "mapping"), (1, 2), (1, 3))
    with pytest.raises(LabelError, match="index 1 twice") as error:
        read_mapping(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32])
@pytest.mark.parametrize(
    "values", [(0, 7, 41), (-3, 0, 300), (7,), (-32768, 0, 32767), (0, 7, 2**24)]
)
def test_channels_of_values_near_and_far(values, dtype):
    """Values that are close together are counted, others sorted."""
    if dtype == np.int16 and max(values) > 32767:
        values = (0, 7)
    scheme = LabelScheme([Label(index=i, name=f"s{i}") for i in sorted({*values} - {0})])
    image = np.random.default_rng(0).choice(np.array(values, dtype), (5, 6, 7))
    expected = [[[scheme.channel(int(v)) for v in row] for row in plane] for plane in image]
    np.testing.assert_array_equal(scheme.to_channels(image, source="x.nii"), expected)


@pytest.mark.parametrize("odd", [77, -1, 2**30, -(2**31)])
def test_an_unknown_value_is_named_with_its_file(odd):
    scheme = LabelScheme([Label(index=7, name="seven")])
    labels = np.full((4, 4, 4), 7, np.int32)
    labels[1, 2, 3] = odd
    with pytest.raises(LabelError, match=rf"x\.nii: label\(s\) {odd} not in the label table"):
        scheme.to_channels(labels, source="x.nii")
