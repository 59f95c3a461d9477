"""What is in the files: channels, boxes and digests."""

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.steps.sources import Facts, content_digests, structures_box


def test_boxes_are_those_of_the_voxels():
    rng = np.random.default_rng(1)
    mask = rng.random((9, 8, 7)) > 0.98
    affine = nb.affines.from_matvec(rng.normal(size=(3, 3)), (5, -3, 2))
    low, high = structures_box(mask, affine)
    where = np.argwhere(mask)
    ends = np.array(np.meshgrid(*zip(where.min(0), where.max(0), strict=True))).reshape(3, -1).T
    corners = nb.affines.apply_affine(affine, ends)
    np.testing.assert_allclose(low, corners.min(0), atol=1e-12)
    np.testing.assert_allclose(high, corners.max(0), atol=1e-12)
    assert structures_box(np.zeros((3, 3, 3), bool), affine) is None


@pytest.fixture
def volume():
    data = np.random.default_rng(2).normal(size=(6, 7, 8)).astype(np.float32)
    return data, np.diag([1.0, 2, 3, 1])


def test_a_header_does_not_matter(volume):
    data, affine = volume
    other = nb.affines.from_matvec([[0, -1, 0], [0, 0, 2], [1, 0, 0]], (9, 9, 9))
    assert content_digests(data, affine)[0] == content_digests(data, other)[0]


@pytest.mark.parametrize("codes", ["LAS", "PSR", "SRA", "AIL"])
def test_the_order_of_storage_does_not_matter(volume, codes):
    image = nb.Nifti1Image(*volume)
    turn = nb.orientations.ornt_transform(
        nb.io_orientation(image.affine), nb.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    one = content_digests(*volume)
    two = content_digests(np.asarray(turned.dataobj), turned.affine)
    assert one[1] == two[1]
    assert one[0] != two[0]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64])
def test_the_type_of_whole_numbers_does_not_matter(kind):
    labels = np.random.default_rng(3).integers(0, 99, (5, 5, 5))
    one = content_digests(labels.astype(kind), np.eye(4))
    assert one == content_digests(labels.astype(np.int32), np.eye(4))


def test_the_two_zeros_are_one(volume):
    data, affine = volume
    data[2] = 0
    one = content_digests(data, affine)
    data[2, 1] = -0.0
    assert content_digests(data, affine) == one


def changed(data):
    """Copies that differ a little, each in another way."""
    one = data.copy()
    one[3, 3, 3] = np.nextafter(one[3, 3, 3], np.float32(9))
    two = data.copy()
    two[0, 0, 0], two[1, 1, 1] = data[1, 1, 1], data[0, 0, 0]
    return [one, two, data[:-1], data + 1, np.roll(data, 1, 0), data[::-1]]


def test_other_voxels_have_another_digest(volume):
    data, affine = volume
    digests = [content_digests(x, affine)[0] for x in (data, *changed(data))]
    assert len(set(digests)) == len(digests)


def test_facts_survive_json():
    facts = Facts(
        low_mm=(0.1, -2.5, 1 / 3),
        high_mm=(1.0, 2.0, 3.0),
        voxel_mm=(1.0, 1.0, 5.0),
        stripped=True,
        image_content=("a", "b"),
        labels_content=("c", "d"),
        remarks=(("image", "is odd", "mend it"),),
    )
    import json

    assert Facts.from_record(json.loads(json.dumps(facts.to_record()))) == facts
    assert facts.center_mm == pytest.approx((0.55, -0.25, 5 / 3))
    np.testing.assert_allclose(facts.extent_mm, (0.9, 4.5, 3 - 1 / 3))
