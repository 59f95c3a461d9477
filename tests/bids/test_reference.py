import pytest

from l2s_pydra.bids.images import find_images
from l2s_pydra.bids.reference import find_label_maps, find_labels, label_table, shared_table
from l2s_pydra.errors import DatasetError


@pytest.fixture
def raw(make_dataset):
    return make_dataset(
        "ds",
        [
            "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
            "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
            "sub-02/anat/sub-02_acq-mprage_T1w.nii.gz",
            "sub-02/anat/sub-02_T2w.nii.gz",
            "sub-03/anat/sub-03_T1w.nii.gz",
        ],
    )


def relative(pairs, root):
    return {name: path.relative_to(root).as_posix() for name, path in pairs.items()}


def test_pairs_by_all_entities_of_the_image(raw, make_dataset):
    labels = make_dataset(
        "labels",
        [
            "sub-01/ses-a/anat/sub-01_ses-a_run-2_desc-manual_dseg.nii.gz",
            "sub-02/anat/sub-02_acq-mprage_seg-x_desc-manual_dseg.nii",
            "sub-02/anat/sub-02_acq-mprage_space-MNI_desc-manual_dseg.nii",
            "sub-02/anat/sub-02_acq-mprage_res-2_desc-manual_dseg.nii",
            "sub-02/anat/sub-02_acq-mprage_desc-manual_probseg.nii",
        ],
        kind="derivative",
    )
    assert relative(find_labels(labels, find_images(raw)), labels) == {
        "sub-01_ses-a_run-2_T1w": "sub-01/ses-a/anat/sub-01_ses-a_run-2_desc-manual_dseg.nii.gz",
        "sub-02_acq-mprage_T1w": "sub-02/anat/sub-02_acq-mprage_seg-x_desc-manual_dseg.nii",
    }


def test_fewer_entities_count_where_one_image_fits(raw, make_dataset):
    labels = make_dataset(
        "labels",
        ["sub-01/ses-a/anat/sub-01_ses-a_dseg.nii", "sub-02/anat/sub-02_desc-manual_dseg.nii"],
    )
    assert list(find_labels(labels, find_images(raw))) == ["sub-02_acq-mprage_T1w"]
    first = find_images(raw, filters={"t1w": {"run": 1}})
    assert list(find_labels(labels, first)) == ["sub-01_ses-a_run-1_T1w"]


def test_the_session_is_never_left_out(make_dataset):
    raw = make_dataset("ds", ["sub-01/ses-a/anat/sub-01_ses-a_T1w.nii"])
    labels = make_dataset("labels", ["sub-01/anat/sub-01_dseg.nii"])
    assert find_labels(labels, find_images(raw)) == {}


def test_several_descs_need_a_choice(raw, make_dataset):
    names = [f"sub-03/anat/sub-03_desc-{desc}_dseg.nii" for desc in ("one", "two")]
    labels = make_dataset("labels", names)
    images = find_images(raw)
    with pytest.raises(DatasetError, match="desc one, two; choose by --labels-desc"):
        find_labels(labels, images)
    for desc in ("two", "desc-two"):
        assert relative(find_labels(labels, images, desc=desc), labels) == {"sub-03_T1w": names[1]}
    with pytest.raises(DatasetError, match=r"desc three .* available: one, two"):
        find_labels(labels, images, desc="three")


def test_a_desc_named_like_the_contrast_is_preferred(make_dataset):
    raw = make_dataset("ds", ["sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T2w.nii"])
    names = [f"sub-01/anat/sub-01_seg-x_desc-{desc}_dseg.nii.gz" for desc in ("T1w", "T2w")]
    labels = make_dataset("labels", names)
    found = find_labels(labels, find_images(raw, suffixes=["T1w", "T2w"]), desc="x")
    assert relative(found, labels) == {"sub-01_T1w": names[0], "sub-01_T2w": names[1]}


def test_same_desc_twice_names_the_files(raw, make_dataset):
    names = [f"sub-03/anat/sub-03_seg-{seg}_desc-m_dseg.nii" for seg in ("a", "b")]
    labels = make_dataset("labels", names)
    with pytest.raises(DatasetError, match=r"sub-03_seg-a_desc-m_dseg\.nii, sub-03_seg-b"):
        find_labels(labels, find_images(raw))


def test_no_label_map(raw, make_dataset, tmp_path):
    labels = make_dataset("labels", ["sub-01/anat/sub-01_desc-m_T1w.nii"])
    with pytest.raises(DatasetError, match="holds no label map"):
        find_labels(labels, find_images(raw))
    with pytest.raises(DatasetError, match="holds no label map"):
        find_label_maps(labels)
    with pytest.raises(DatasetError, match="no such folder"):
        find_label_maps(tmp_path / "nowhere")


def test_label_maps_without_images(make_dataset):
    names = [f"sub-{n}/anat/sub-{n}_desc-{d}_dseg.nii.gz" for n in "21" for d in "ab"]
    labels = make_dataset("labels", names)
    assert [r.name for r in find_label_maps(labels, desc="a")] == [
        "sub-1_desc-a_dseg",
        "sub-2_desc-a_dseg",
    ]
    with pytest.raises(DatasetError, match="desc a, b; choose by --label-maps-desc"):
        find_label_maps(labels)


IMAGE = "sub-01/ses-a/anat/sub-01_ses-a_seg-x_desc-m_dseg.nii.gz"


@pytest.mark.parametrize(
    "table",
    [
        "sub-01/ses-a/anat/sub-01_ses-a_seg-x_desc-m_dseg.tsv",
        "sub-01/ses-a/sub-01_ses-a_dseg.tsv",
        "sub-01/sub-01_desc-m_dseg.tsv",
        "seg-x_desc-m_dseg.tsv",
        "desc-m_dseg.tsv",
        "seg-x_dseg.tsv",
        "dseg.tsv",
    ],
)
def test_table_is_inherited(make_dataset, table):
    others = ["desc-other_dseg.tsv", "sub-02_dseg.tsv", "seg-x_desc-m_probseg.tsv"]
    root = make_dataset("labels", [IMAGE, table, *others])
    assert label_table(root, root / IMAGE) == root / table
    assert label_table(root, find_label_maps(root)[0]) == root / table


def test_nearest_and_most_specific_table_counts(make_dataset):
    near = "sub-01/ses-a/anat/sub-01_ses-a_seg-x_desc-m_dseg.tsv"
    root = make_dataset("labels", [IMAGE, near, "dseg.tsv", "seg-x_desc-m_dseg.tsv"])
    assert label_table(root, root / IMAGE) == root / near
    (root / near).unlink()
    assert label_table(root, root / IMAGE) == root / "seg-x_desc-m_dseg.tsv"


def test_table_missing_or_ambiguous(make_dataset, tmp_path):
    (tmp_path / "dseg.tsv").touch()  # above the root: another data set's
    root = make_dataset("labels", [IMAGE])
    with pytest.raises(DatasetError, match=r"add .*desc-m_dseg\.tsv with the columns"):
        label_table(root, root / IMAGE)
    (root / "desc-m_dseg.tsv").touch()
    (root / "seg-x_dseg.tsv").touch()
    with pytest.raises(DatasetError, match="as much as"):
        label_table(root, root / IMAGE)


def test_shared_table(make_dataset):
    names = [f"sub-{n}/anat/sub-{n}_dseg" for n in "123"]
    root = make_dataset("labels", [f"{name}.nii" for name in names])
    paths = [root / f"{name}.nii" for name in names]
    for name in names:
        (root / f"{name}.tsv").write_text("index\tname\n1\tone\n")
    assert shared_table(root, paths) == root / f"{names[0]}.tsv"
    (root / f"{names[1]}.tsv").write_text("index\tname\n1\tuno\n")
    with pytest.raises(DatasetError, match=r"sub-2_dseg\.tsv: differs from"):
        shared_table(root, paths)
