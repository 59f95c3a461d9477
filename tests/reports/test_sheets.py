"""Sheets of images with captions."""

import matplotlib.image
import numpy as np
import pytest

from l2s_pydra.errors import ShapeError
from l2s_pydra.reports import draw_sheet

RED = (1.0, 0.0, 0.0)


@pytest.fixture
def head():
    """Image that is brighter towards the right of the body, and a cube of label 3."""
    image = np.broadcast_to(np.linspace(0, 1, 20)[:, None, None], (20, 24, 16)).copy()
    labels = np.zeros(image.shape, int)
    labels[6:14, 8:18, 4:12] = 3
    return image, labels


def read(path):
    return matplotlib.image.imread(path)[..., :3]


def red(picture):
    return (picture == RED).all(-1)


def test_slices_are_plain_above_and_outlined_below(head, tmp_path):
    image, labels = head
    path = draw_sheet([image], [labels], ["one"], tmp_path / "a.png", colors={3: RED}, columns=1)
    picture = read(path)
    assert picture.shape[1] == 1400
    found = red(picture)
    (top,) = np.flatnonzero(found.any(1))[:1]
    plain = picture[: top // 2]
    assert not red(plain).any()
    # Axial and coronal slices are brighter to the right, the sagittal one is of one grey.
    width = 1400 // 64  # 20 + 20 + 24 voxels side by side
    row = picture[top // 2, :, 0]
    assert row[2 * width] < row[10 * width] < row[18 * width]
    assert row[22 * width] < row[38 * width]
    inside = row[44 * width : 60 * width]
    assert np.ptp(inside) < 0.01
    # Ten voxels of each outline are seen in every plane; the middle of the cube stays grey.
    assert found[:, : 20 * width].any()
    assert found[:, 42 * width :].any()
    assert not found.all(1).any()


def test_all_images_show_the_same_intensities_alike(head, tmp_path):
    image, labels = head
    half = draw_sheet([0.5 * image], [labels], [""], tmp_path / "h.png", colors={3: RED})
    whole = draw_sheet([image], [labels], [""], tmp_path / "w.png", colors={3: RED})
    twice = draw_sheet([image], [labels], [""], tmp_path / "t.png", colors={3: RED}, limits=(0, 2))
    np.testing.assert_array_equal(read(half), read(twice))
    assert read(half).sum() < read(whole).sum()


def test_axes_are_turned_as_the_affine_says(head, tmp_path):
    image, labels = head
    affine = np.diag([1.0, 1, 1, 1])
    turned = affine[:, [1, 2, 0, 3]] @ np.diag([1, -1, 1, 1])
    turned[:3, 3] = [0, 15, 0]  # any origin will do
    moved = [np.moveaxis(volume, 0, 2)[:, ::-1] for volume in (image, labels)]
    one = draw_sheet([image], [labels], ["x"], tmp_path / "1.png", affine=affine)
    two = draw_sheet([moved[0]], [moved[1]], ["x"], tmp_path / "2.png", affine=turned)
    np.testing.assert_array_equal(read(one), read(two))


def test_captions_are_wrapped_and_images_go_in_rows(head, tmp_path):
    image, labels = head
    sizes = [
        read(draw_sheet([image] * n, [labels] * n, [text] * n, tmp_path / "s.png", columns=2)).shape
        for n, text in [(2, ""), (3, ""), (2, "word " * 60)]
    ]
    assert sizes[0][1] == sizes[1][1] == sizes[2][1] <= 1400
    assert sizes[1][0] == 2 * sizes[0][0]
    assert sizes[2][0] > sizes[0][0] + 30


def test_slices_of_two_dimensions(head, tmp_path):
    image, labels = head
    path = draw_sheet([image[..., 8]], [labels[..., 8]], ["flat"], tmp_path / "f.png")
    assert read(path).std() > 0.1


@pytest.mark.parametrize("marks", [0, 1])
def test_labels_may_be_missing_or_everywhere(head, tmp_path, marks):
    image, labels = head
    path = draw_sheet([image], [np.full_like(labels, marks)], ["x"], tmp_path / "m.png")
    assert path.is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i, m: ([], [], []), "0 image"),
        (lambda i, m: ([i], [m], []), "0 caption"),
        (lambda i, m: ([i], [m[1:]], ["x"]), "labels"),
        (lambda i, m: ([i[None]], [m[None]], ["x"]), "one shape"),
    ],
)
def test_wrong_shapes(head, tmp_path, change, said):
    with pytest.raises(ShapeError, match=said):
        draw_sheet(*change(*head), tmp_path / "x.png")
