import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from l2s_pydra.errors import ShapeError
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.reports.figures import SampleImage, overlay_mosaic, sample_mosaic
from l2s_pydra.reports.slices import display_slice

SHAPE = (10, 12, 14)
CORNERS = {
    "L": (0, 0),
    "R": (0, SHAPE[0] - 1),
    "P": (1, 0),
    "A": (1, SHAPE[1] - 1),
    "I": (2, 0),
    "S": (2, SHAPE[2] - 1),
}
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), range(8)))


def marked(corner):
    """RAS volume in which one corner, say left-anterior-superior, is 1."""
    volume = np.zeros(SHAPE, dtype=np.int16)
    volume[tuple(position for _, position in sorted(CORNERS[letter] for letter in corner))] = 1
    return volume


def stored(volume, order, flips, spacing=(1.0, 1.0, 1.0)):
    """Same anatomy in another axis order, with the affine that says so."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, world in enumerate(order):
        flipped = flips >> axis & 1
        matrix[world, axis] = -spacing[world] if flipped else spacing[world]
        matrix[world, 3] = spacing[world] * (volume.shape[world] - 1) if flipped else 0
    data = volume.transpose(order)
    return data[tuple(slice(None, None, -1 if flips >> a & 1 else 1) for a in range(3))], matrix


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
@pytest.mark.parametrize(
    ("plane", "index", "corner", "row", "column"),
    [
        ("axial", -1, "LAS", 0, 0),
        ("axial", -1, "RPS", -1, -1),
        ("axial", 0, "RAI", 0, -1),
        ("coronal", -1, "LAS", 0, 0),
        ("coronal", 0, "RPI", -1, -1),
        ("sagittal", 0, "LAS", 0, -1),
        ("sagittal", -1, "RPI", -1, 0),
    ],
)
def test_marked_corner_is_shown_where_it_belongs(order, flips, plane, index, corner, row, column):
    data, affine = stored(marked(corner), order, flips)
    section = display_slice(data, affine, plane, index)
    assert section[row, column] == 1
    assert section.sum() == 1


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_mosaic_paints_the_left_at_the_left(tmp_path, order, flips):
    """The label in the left anterior superior part is painted in the upper left of the picture."""
    labels = np.ones(SHAPE, dtype=np.int16)
    labels[:4, 8:, :] = 2
    image, affine = stored(np.random.default_rng(0).normal(size=SHAPE), order, flips)
    marks, _ = stored(labels, order, flips)
    scheme = LabelScheme(
        [
            Label(index=1, name="rest", color="#0000ff"),
            Label(index=2, name="mark", color="#ff0000"),
        ]
    )
    path = overlay_mosaic(
        image,
        marks,
        scheme,
        tmp_path / "figures" / "mosaic.png",
        affine=affine,
        slices=1,
        planes=["axial"],
        width_px=200,
        alpha=1,
        legend=False,
    )
    picture = imread(path)
    red = (picture[..., 0] == 1) & (picture[..., 1] == 0) & (picture[..., 2] == 0)
    rows, columns = np.nonzero(red)
    blue_rows, blue_columns = np.nonzero((picture[..., 2] == 1) & (picture[..., 0] == 0))
    assert len(rows) > 500
    assert columns.max() < 0.5 * picture.shape[1]
    assert blue_columns.max() > 0.95 * picture.shape[1]
    assert rows.max() < blue_rows.max() - 0.5 * (blue_rows.max() - rows.min())


def test_aspect_ratio_follows_the_spacing(tmp_path):
    labels, affine = stored(np.ones((10, 10, 10), np.int16), (0, 1, 2), 0, spacing=(1, 1, 4))
    scheme = LabelScheme([Label(index=1, name="all", color="#ff0000")])
    for plane, ratio in (("axial", 1), ("coronal", 4)):
        path = overlay_mosaic(
            labels.astype(float),
            labels,
            scheme,
            tmp_path / f"{plane}.png",
            affine=affine,
            slices=1,
            planes=[plane],
            width_px=106,
            alpha=1,
            legend=False,
        )
        rows, columns = np.nonzero(imread(path)[..., 0] == 1)
        below = rows > rows.max() - (np.ptp(columns) + 1) * ratio
        assert np.ptp(rows[below]) == pytest.approx(ratio * np.ptp(columns), rel=0.05)


@pytest.mark.parametrize("shape", [(20, 16, 1), (1, 20, 16), (20, 1, 16)])
def test_a_single_slice_is_drawn_in_its_plane_alone(tmp_path, shape):
    labels = np.ones(shape, dtype=np.int16)
    scheme = LabelScheme([Label(index=1, name="all")])
    path = overlay_mosaic(
        np.zeros(shape), labels, scheme, tmp_path / "flat.png", affine=np.eye(4), legend=False
    )
    height, width = imread(path).shape[:2]
    sides = [side for side in shape if side > 1]
    assert height / width == pytest.approx(2 * sides[1] / sides[0], rel=0.03)


@pytest.mark.parametrize("fill", [0.0, 5.0, np.nan])
def test_empty_labels_and_flat_images_are_drawn(tmp_path, fill):
    shape = (8, 9, 7)
    scheme = LabelScheme([Label(index=1, name="all")])
    path = overlay_mosaic(
        np.full(shape, fill),
        np.zeros(shape, np.int16),
        scheme,
        tmp_path / "a.png",
        affine=np.eye(4),
    )
    assert imread(path).shape[1] > 100


def test_same_input_same_bytes(tmp_path):
    rng = np.random.default_rng(1)
    image, labels = rng.normal(size=SHAPE), rng.integers(0, 4, SHAPE)
    scheme = LabelScheme([Label(index=i, name=f"part {i}") for i in (1, 2, 3)])
    one, two = (
        overlay_mosaic(image, labels, scheme, tmp_path / name, affine=np.eye(4))
        for name in ("one.png", "two.png")
    )
    assert one.read_bytes() == two.read_bytes()


def test_grids_must_agree(tmp_path):
    scheme = LabelScheme([Label(index=1, name="all")])
    with pytest.raises(ShapeError, match=r"\(3, 3, 3\).*\(4, 4, 4\)"):
        overlay_mosaic(
            np.zeros((4, 4, 4)),
            np.zeros((3, 3, 3), int),
            scheme,
            tmp_path / "a.png",
            affine=np.eye(4),
        )


def test_sample_mosaic_takes_images_of_several_sizes(tmp_path):
    rng = np.random.default_rng(2)
    scheme = LabelScheme([Label(index=1, name="one"), Label(index=2, name="two")])
    samples = [
        SampleImage(title, rng.normal(size=shape), rng.integers(0, 3, shape))
        for title, shape in [
            ("synthetic", (8, 9, 7)),
            ("synthetic", (8, 9, 7)),
            ("real", (6, 9, 8)),
        ]
    ]
    path = sample_mosaic(samples, scheme, tmp_path / "samples.png", width_px=300)
    height, width = imread(path).shape[:2]
    assert 280 <= width <= 310
    assert height > width


def test_sample_mosaic_of_slices_shows_their_plane(tmp_path):
    labels = np.ones((16, 20, 1), dtype=np.int16)
    scheme = LabelScheme([Label(index=1, name="one")])
    path = sample_mosaic(
        [SampleImage("real", labels.astype(float), labels)],
        scheme,
        tmp_path / "s.png",
        width_px=200,
    )
    height, width = imread(path).shape[:2]
    assert height / width == pytest.approx(2 * 20 / 16, rel=0.35)


def test_no_sample_is_said(tmp_path):
    scheme = LabelScheme([Label(index=1, name="one")])
    with pytest.raises(ShapeError, match="no sample to draw"):
        sample_mosaic([], scheme, tmp_path / "s.png")
