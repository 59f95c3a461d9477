"""Heads for the ``icbm`` data set: the ICBM 152 template, its labels, and random warps of both.

The template is the symmetric ICBM 152 2009a nonlinear average as nilearn ships it: T1-weighted,
skull-stripped, 1 mm, with maps of grey and white matter.
"""

from collections.abc import Sequence
from importlib.resources import files

import attrs
import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ._grids import Floats, Shape, grid_points, pool, rotation

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

CSF, GRAY, WHITE, VENTRICLE, THALAMUS, CAUDATE, PUTAMEN = 1, 2, 3, 4, 5, 6, 7
RIGHT_FROM_LEFT = 10  # a structure on the right has the left one's number plus this
CENTER_MM = np.array([0.0, -18.0, 6.0])  # middle of the template's brain

# Deep grey matter: ellipsoids (middle and half axes in mm, right side of the template) that hold
# the structure, and the intensity below which a voxel in them belongs to it.
Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]
DEEP: tuple[tuple[int, float, tuple[Ellipsoid, ...]], ...] = (
    (THALAMUS, 212, (((11, -18, 7), (13, 17, 13)),)),
    (CAUDATE, 207, (((13, 12, 7), (9, 16, 17)), ((15, -2, 19), (6, 12, 6)))),
    (PUTAMEN, 206, (((25.5, 1, 2), (9, 22, 14)),)),
)
DEEP_MINIMUM = 145  # darker voxels are cerebrospinal fluid
VENTRICLE_DEPTH_MM = 20  # the lateral ventricles are the highest fluid that lies as deep


def _largest(mask: Mask) -> Mask:
    parts, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    return np.asarray(parts == 1 + np.argmax(sizes))


def _lateral_ventricles(fluid: Mask, brain: Mask) -> Mask:
    deep = fluid & (ndimage.distance_transform_edt(brain) > VENTRICLE_DEPTH_MM)
    parts, count = ndimage.label(deep)
    sizes = ndimage.sum_labels(deep, parts, range(1, count + 1))
    two = 1 + np.argsort(sizes)[-2:]  # the other one is the cistern below
    highest = max(two, key=lambda part: ndimage.center_of_mass(parts == part)[2])
    return np.asarray(parts == highest)


def _deep_gray(
    t1: Floats, points: Floats, threshold: float, ellipsoids: Sequence[Ellipsoid]
) -> Mask:
    """Structure on the right side, its outline smoothed."""
    inside = np.zeros(t1.shape, bool)
    for middle, radii in ellipsoids:
        offset = (points - np.array(middle, np.float32)) / np.array(radii, np.float32)
        inside |= (offset**2).sum(-1) < 1
    mask = ndimage.binary_opening(inside & (t1 < threshold) & (t1 > DEEP_MINIMUM))
    return _largest(ndimage.gaussian_filter(mask.astype(np.float32), 1.2) > 0.5)


def label_template(t1: Floats, gray: Floats, white: Floats, affine: Floats) -> Labels:
    """Label the template.

    Parameters
    ----------
    t1, gray, white : (X, Y, Z) arrays
        Intensity, 0 outside the brain; tissue maps in [0, 255].
    affine : (4, 4) array
        Voxel to template; the template is symmetric about x = 0.

    Returns
    -------
    (X, Y, Z) uint8 array
        0 outside, CSF anywhere but in the lateral ventricles 1, left structures 2 to 7, right ones
        12 to 17.
    """
    brain = t1 > 0
    fluid = 255 - gray - white
    labels: Labels = 1 + np.argmax(np.stack([fluid, gray, white]), 0).astype(np.uint8)
    labels[~brain] = 0
    points = grid_points(t1.shape, affine).astype(np.float32)
    ventricles = _lateral_ventricles(labels == CSF, brain)
    smooth = ndimage.gaussian_filter(t1, 0.7)
    for index, threshold, ellipsoids in DEEP:
        mask = _deep_gray(smooth, points, threshold, ellipsoids) & ~ventricles
        labels[mask | mask[::-1]] = index
    labels[ventricles] = VENTRICLE
    labels[(points[..., 0] > 0) & (labels > CSF)] += RIGHT_FROM_LEFT
    return np.asarray(labels)


@attrs.frozen(eq=False)
class Template:
    """The template and its labels."""

    t1: Floats
    """(X, Y, Z), [0, 255]; outside the brain the nearest voxel's value goes on, so that
    interpolation does not darken the edge."""
    labels: Labels
    """(X, Y, Z), see :func:`label_template`."""
    affine: Floats
    """(4, 4), voxel to template, mm."""

    @classmethod
    def load(cls) -> "Template":
        """Read it from the installed nilearn."""
        maps = {}
        for kind in ("t1", "gm", "wm"):
            name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
            image = nib.load(str(files("nilearn.datasets") / "data" / name))
            maps[kind] = np.asarray(image.dataobj, np.float32)  # type: ignore[attr-defined]
        affine = np.asarray(image.affine)  # type: ignore[attr-defined]
        labels = label_template(maps["t1"], maps["gm"], maps["wm"], affine)
        nearest = ndimage.distance_transform_edt(
            labels == 0, return_distances=False, return_indices=True
        )
        return cls(maps["t1"][tuple(nearest)], labels, affine)

    def voxels(self, points: Floats) -> Floats:
        """(3, ...) voxel coordinates of (..., 3) points in mm."""
        inverse = np.linalg.inv(self.affine)
        return np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)


FIELD_STEP_MM = 4.0
FIELD_SHAPE = (52, 61, 50)
FIELD_AFFINE = np.diag([FIELD_STEP_MM] * 3 + [1.0])
FIELD_AFFINE[:3, 3] = CENTER_MM - FIELD_STEP_MM * (np.array(FIELD_SHAPE) - 1) / 2


def smooth_noise(rng: np.random.Generator, sigma_mm: float) -> Floats:
    """Smooth random field of unit variance on the field grid."""
    noise = ndimage.gaussian_filter(rng.normal(size=FIELD_SHAPE), sigma_mm / FIELD_STEP_MM)
    return np.asarray((noise - noise.mean()) / noise.std())


def exponential(velocity: Floats, steps: int = 6) -> Floats:
    """Displacement of the flow along a stationary velocity for unit time, by scaling and squaring.

    Parameters
    ----------
    velocity : (3, X, Y, Z) array
        mm, on the field grid.
    steps : int
        Number of squarings.

    Returns
    -------
    (3, X, Y, Z) array
        mm; the map ``x + displacement`` is a diffeomorphism for smooth velocities.

    References
    ----------
    Arsigny et al., MICCAI 2006.
    """
    displacement = velocity / 2**steps
    grid = np.stack(np.meshgrid(*map(np.arange, FIELD_SHAPE), indexing="ij"))
    for _ in range(steps):
        moved = grid + displacement / FIELD_STEP_MM
        displacement = displacement + _sample_vectors(displacement, moved)
    return np.asarray(displacement)


def _sample_vectors(field: Floats, voxels: Floats) -> Floats:
    return np.stack(
        [ndimage.map_coordinates(part, voxels, order=1, mode="nearest") for part in field]
    )


@attrs.frozen(eq=False)
class Anatomy:
    """A random head: where each of its points lies in the template."""

    scale: Floats
    """(3,) size relative to the template."""
    displacement: Floats
    """(3, X, Y, Z) on the field grid, mm."""

    @classmethod
    def draw(cls, rng: np.random.Generator, template: Template) -> "Anatomy":
        """Draw size, shape, and, apart, the size of the ventricles.

        The template is larger than most brains, hence scales below 1.
        """
        scale = rng.uniform(0.88, 0.97) * rng.uniform(0.96, 1.04, 3)
        coarse = np.stack([4.0 * smooth_noise(rng, 24) for _ in range(3)])
        fine = np.stack([1.4 * smooth_noise(rng, 9) for _ in range(3)])
        growth = rng.uniform(-1.0, 3.0) * _towards_ventricles(template)
        return cls(scale, exponential(coarse + fine + growth))

    def to_template(self, points: Floats) -> Floats:
        """Template coordinates of (..., 3) points of the head, whose brain is around the origin."""
        at = points / self.scale + CENTER_MM
        voxels = np.moveaxis((at - FIELD_AFFINE[:3, 3]) / FIELD_STEP_MM, -1, 0)
        return np.asarray(at + np.moveaxis(_sample_vectors(self.displacement, voxels), 0, -1))


def _towards_ventricles(template: Template) -> Floats:
    """Directions to the ventricles, mm, the longest about 1.

    A head that samples the template nearer to its ventricles has larger ones.
    """
    inside = (template.labels % RIGHT_FROM_LEFT == VENTRICLE).astype(np.float32)
    smooth = ndimage.gaussian_filter(inside, 5)
    at = template.voxels(grid_points(FIELD_SHAPE, FIELD_AFFINE))
    gradient = np.stack(list(np.gradient(ndimage.map_coordinates(smooth, at, order=1))))
    return np.asarray(gradient / np.abs(gradient).max())


@attrs.frozen(kw_only=True)
class Grid:
    """Sampling grid of an image."""

    codes: str
    """Where the voxel axes point to."""
    spacing_mm: tuple[float, float, float]
    """Voxel size along each axis."""
    tilt_deg: tuple[float, float, float] = (0, 0, 0)
    """Rotation of the grid about x, y and z."""
    oversampling: tuple[int, int, int] = (2, 2, 2)
    """Points per voxel along each axis."""

    @property
    def shape(self) -> Shape:
        """Voxels along each axis, to cover any of the heads."""
        extent = {"L": 160, "R": 160, "P": 196, "A": 196, "I": 168, "S": 168}
        x, y, z = (
            round(extent[code] / size)
            for code, size in zip(self.codes, self.spacing_mm, strict=True)
        )
        return x, y, z


@attrs.frozen(eq=False)
class Pose:
    """Where the head lay in the scanner."""

    turn: Floats
    """(3, 3) rotation."""
    shift: Floats
    """(3,) mm."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Pose":
        """Draw a few degrees and millimetres."""
        return cls(rotation(rng.uniform(-6, 6, 3).tolist()), rng.uniform(-3, 3, 3))

    def to_head(self, points: Floats) -> Floats:
        """Head coordinates of (..., 3) points in the scanner."""
        return np.asarray((points - self.shift) @ self.turn)


def sample(
    template: Template, anatomy: Anatomy, pose: Pose, grid: Grid, affine: Floats, remap: Floats
) -> tuple[Floats, Labels]:
    """See a head on a grid.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel to scanner of a grid of shape ``grid.shape``.
    remap : (256,) array
        Intensity of each template intensity; applied before the voxels are averaged.

    Returns
    -------
    image : (X, Y, Z) array
        Mean over each voxel, 0 where the label is 0.
    labels : (X, Y, Z) uint8 array
        The label that most of the voxel has.
    """
    images, labels = [], []
    for first in range(grid.shape[0]):  # plane by plane, for memory's sake
        plane = affine.copy()
        plane[:3, 3] = affine[:3] @ [first, 0, 0, 1]
        points = grid_points((1, *grid.shape[1:]), plane, grid.oversampling)
        voxels = template.voxels(anatomy.to_template(pose.to_head(points)))
        t1 = ndimage.map_coordinates(template.t1, voxels, order=1, mode="nearest")
        images.append(pool(np.interp(t1, np.arange(256), remap), grid.oversampling))
        fine = ndimage.map_coordinates(template.labels, voxels, order=0)
        labels.append(_majority(fine, grid.oversampling))
    image, label = np.concatenate(images), np.concatenate(labels)
    return np.where(label > 0, image, 0), label


def _majority(fine: Labels, oversampling: Sequence[int]) -> Labels:
    """Most frequent label of each voxel."""
    present = np.unique(fine)
    shares = np.stack([pool(fine == index, oversampling) for index in present])
    return np.asarray(present[np.argmax(shares, 0)])
