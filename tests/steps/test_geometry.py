"""Any grid, any header: landmarks stay in their place in the world, and left stays left.

A scan shows a grey ball on the left and a white one on the right, at places given in millimetres.
Their labels come back through the whole step on the grid of the file.
"""

import json

import attrs
import nibabel as nb
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from l2s_pydra.images.volume import load_image
from l2s_pydra.steps.segment import segment

GREY, WHITE = 3, 41
STEM = "sub-01/anat/sub-01"
MIDDLE_MM = np.array([5.0, -12.0, 20.0])
RADIUS = 0.14
"""Of a ball, as a share of the field of view; so are the places."""
PLACES = {GREY: np.array([-0.22, -0.15, -0.12]), WHITE: np.array([0.2, 0.16, 0.18])}
SPACE = ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y")
SPACE += ("qoffset_z", "quatern_b", "quatern_c", "quatern_d")


@attrs.frozen(kw_only=True)
class Case:
    """A file, and what is to be said of it."""

    name: str
    codes: str = "RAS"
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shear: float = 0.0
    fov: float = 64.0
    middle: tuple[float, float, float] = tuple(MIDDLE_MM)
    kind: type = nb.Nifti1Image
    file: str = "scan.nii.gz"
    dtype: str = "<i2"
    scaling: tuple[float, float] | None = None
    unit: float = 1.0
    more_axes: tuple[int, ...] = ()
    xforms: str = "both"
    codes_of_xforms: tuple[int, int] = (1, 1)
    grid_mm: float = 2.0
    warns: tuple[str, ...] = ()

    @property
    def shape(self):
        return tuple(round(self.fov / s) for s in self.spacing_of_axes)

    @property
    def spacing_of_axes(self):
        """Voxel size along the axes of the file, which the codes put in order."""
        order = axcodes2ornt(self.codes)[:, 0].astype(int)
        return tuple(self.spacing[i] for i in order)

    def affine(self):
        """Axes in the order of the codes, turned, about the middle."""
        shape = np.array([round(self.fov / s) for s in self.spacing])
        affine = np.diag([*self.spacing, 1.0])
        affine[0, 1] = self.shear * self.spacing[1]
        turn = np.eye(4)
        turn[:3, :3] = euler2mat(*self.angles)
        affine = turn @ affine
        affine[:3, 3] = self.middle - affine[:3, :3] @ ((shape - 1) / 2)
        ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(self.codes))
        return affine @ inv_ornt_aff(ornt, tuple(shape))

    def place(self, label):
        return np.array(self.middle) + PLACES[label] * self.fov

    def picture(self):
        grid = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1)
        affine = self.affine()
        world = grid @ affine[:3, :3].T + affine[:3, 3]
        image = np.zeros(self.shape)
        for label, value in ((GREY, 100), (WHITE, 200)):
            near = np.linalg.norm(world - self.place(label), axis=-1) < RADIUS * self.fov
            image[near] = value
        return image

    def write(self, folder):
        path = folder / self.file
        stored = self.picture()
        if self.scaling is not None:
            slope, inter = self.scaling
            stored = (stored - inter) / slope
        stored = (
            (np.rint(stored) * self.unit).astype(self.dtype).reshape(*self.shape, *self.more_axes)
        )
        affine = self.affine()
        if self.kind is nb.MGHImage:
            nb.MGHImage(stored, affine).to_filename(path)
            return path
        header = self.kind.header_class(endianness=">" if self.dtype[0] == ">" else "<")
        header.set_data_dtype(self.dtype)
        image = self.kind(stored, affine, header)
        self.place_header(image, affine)
        image.to_filename(path)
        if self.scaling is not None:
            patch(path, 112, np.array(self.scaling, "<f4"))
        if self.xforms == "none":
            patch(path, 252, np.zeros(2, "<i2"))
        return path

    def place_header(self, image, affine):
        qform, sform = self.codes_of_xforms
        mirrored = affine @ np.diag([-1, 1, 1, 1])
        moved = affine.copy()
        moved[:3, 3] += 7, 0, -3
        image.set_sform(affine if self.xforms != "qform" else None, sform)
        image.set_qform({"moved": moved, "mirrored": mirrored}.get(self.xforms, affine), qform)
        if self.xforms == "qform":
            image.header["sform_code"] = 0
        elif self.xforms == "sform":
            image.header["qform_code"] = 0


def patch(path, offset, values):
    """Write into a NIfTI-1 header what nibabel would mend or choose itself."""
    with nb.openers.ImageOpener(str(path)) as file:
        content = bytearray(file.read())
    content[offset : offset + values.nbytes] = values.tobytes()
    with nb.openers.ImageOpener(str(path), "wb") as file:
        file.write(bytes(content))


TURNED = (0.2, -0.15, 0.3)
CASES = [
    *(Case(name=codes, codes=codes) for codes in ("RAS", "LAS", "LIA", "PSR", "RSP", "ASL")),
    *(Case(name=codes, codes=codes, spacing=(2, 2.5, 3)) for codes in ("IPL", "SRA", "LPI")),
    Case(name="NIfTI-2", kind=nb.Nifti2Image, dtype="<f4"),
    Case(name="NIfTI-2, big-endian", kind=nb.Nifti2Image, file="scan.nii", dtype=">i2"),
    Case(name="NIfTI-1, big-endian", dtype=">f4", angles=TURNED),
    Case(name="uncompressed", file="scan.nii", dtype="u1"),
    Case(name="mgz", kind=nb.MGHImage, file="scan.mgz", dtype="u1", codes="LIA"),
    Case(name="mgz, turned", kind=nb.MGHImage, file="scan.mgz", dtype=">f4", angles=TURNED),
    Case(name="mgh", kind=nb.MGHImage, file="scan.mgh", dtype=">i2", spacing=(2, 2, 3)),
    Case(name="bytes with slope and intercept", dtype="u1", scaling=(1.25, -50.0)),
    Case(name="negative slope", scaling=(-0.5, 120.0), codes="LPS"),
    Case(name="tiny slope", dtype="<u2", scaling=(1 / 255, 0.0)),
    Case(name="unsigned", dtype="<u2"),
    Case(name="double", dtype="<f8"),
    Case(name="square metres a second", dtype="<f4", unit=1e-11),
    Case(name="counts", dtype="<f4", unit=1e9),
    Case(name="signed bytes and a slope", dtype="i1", scaling=(2.0, 0.0)),
    Case(name="oblique", angles=TURNED),
    Case(name="oblique by 45 degrees", angles=(0, 0, np.pi / 4), codes="LAS"),
    Case(name="oblique, thick and flipped", angles=TURNED, codes="LSA", spacing=(1.5, 2, 4)),
    Case(name="sheared", shear=0.1, xforms="sform"),
    Case(name="4-D with one volume", more_axes=(1,)),
    Case(name="5-D with one volume", more_axes=(1, 1)),
    Case(name="6 mm axial", spacing=(2, 2, 6), fov=84),
    Case(name="6 mm sagittal", spacing=(6, 2, 2), fov=84, codes="ASR"),
    Case(name="6 mm coronal, turned", spacing=(2, 6, 2), fov=84, codes="LIP", angles=TURNED),
    Case(name="half a millimetre", spacing=(0.5, 0.5, 0.5), fov=32, grid_mm=1.0),
    Case(name="fine slices", spacing=(0.4, 0.4, 1.2), fov=36, grid_mm=1.0, codes="LAS"),
    Case(name="finer than the grid", spacing=(1, 1, 1), grid_mm=3.0, angles=TURNED),
    Case(name="coarser than the grid", spacing=(4, 4, 4), fov=80, grid_mm=1.5),
    Case(name="tiny field of view", spacing=(1, 1, 1), fov=16, grid_mm=1.0),
    Case(name="huge field of view", spacing=(10, 10, 10), fov=800, grid_mm=6.0),
    Case(name="far from the origin", middle=(900.0, -1200.0, 700.0), angles=TURNED),
    Case(name="sform alone", xforms="sform", codes_of_xforms=(0, 2), angles=TURNED),
    Case(name="qform alone", xforms="qform", codes_of_xforms=(1, 0), angles=TURNED),
    Case(name="qform of the other hand", xforms="qform", codes_of_xforms=(1, 0), codes="LAS"),
    Case(name="sform of a template", xforms="sform", codes_of_xforms=(0, 4), codes="LAS"),
    Case(
        name="xforms that disagree",
        xforms="moved",
        codes_of_xforms=(1, 2),
        warns=("qform and sform", "7.62 mm", "used the sform"),
    ),
    Case(
        name="xforms that mirror each other",
        xforms="mirrored",
        codes_of_xforms=(1, 2),
        warns=("qform and sform", "check left and right"),
    ),
    Case(name="no xform", xforms="none", middle=(0.0, 0.0, 0.0), warns=("RAS+", "left and right")),
]


@pytest.fixture
def run(make_model, files, tmp_path):
    def run(case, **options):
        path = case.write(tmp_path)
        return path, segment(
            image=path,
            **files(make_model(spacing_mm=case.grid_mm)),
            entities={"subject": "01", "suffix": "T1w"},
            source="sub-01/anat/sub-01_T1w.nii.gz",
            out_dir=tmp_path / "tree",
            device="cpu",
            threads=1,
            **options,
        )

    return run


def found_at(data, affine, case, label):
    """Middle of a label's voxels, in the world, among those nearer to its place than the other."""
    indices = np.argwhere(data == label)
    world = indices @ affine[:3, :3].T + affine[:3, 3]
    own, other = (
        np.linalg.norm(world - case.place(k), axis=1)
        for k in (label, GREY if label == WHITE else WHITE)
    )
    assert (own < other).any()
    return world[own < other].mean(0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_labels_stay_where_the_scan_has_them(run, case):
    path, result = run(case)
    dseg = nb.load(result.tree / f"{STEM}_seg-tissue_desc-T1w_dseg.nii.gz")
    data = np.asanyarray(dseg.dataobj)
    affine = case.affine()
    places = {label: found_at(data, affine, case, label) for label in (GREY, WHITE)}
    for label, place in places.items():
        voxels = np.linalg.solve(affine[:3, :3], place - case.place(label))
        assert np.abs(voxels).max() < 0.5
    assert places[GREY][0] < case.middle[0] < places[WHITE][0]
    # The file's own grid, with the words of its header
    assert data.shape == case.shape
    assert dseg.get_data_dtype() == np.uint8
    assert dseg.dataobj.slope == 1
    np.testing.assert_allclose(dseg.header.get_zooms(), case.spacing_of_axes, rtol=0.01)
    if case.kind is nb.MGHImage:
        assert (dseg.header["qform_code"], dseg.header["sform_code"]) == (1, 1)
        np.testing.assert_allclose(dseg.affine, affine, atol=1e-4)
    else:
        source = nb.load(path)
        assert type(dseg) is case.kind
        for field in SPACE:
            np.testing.assert_array_equal(dseg.header[field], source.header[field])
        np.testing.assert_array_equal(dseg.header.get_zooms(), source.header.get_zooms()[:3])
        np.testing.assert_array_equal(dseg.affine, source.affine)
    told = load_image(path).warnings
    assert len(told) == bool(case.warns)
    assert all(word in warning for warning in told for word in case.warns)
    # and those who read the summary are told
    summary = json.loads(result.summary.read_text())
    assert all(json.dumps(warning) in json.dumps(summary) for warning in told)


def test_there_are_enough_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 25


def test_all_images_lie_on_the_grid_of_the_scan(run):
    case = next(case for case in CASES if case.name == "oblique, thick and flipped")
    path, result = run(case, probseg=True)
    source = nb.load(path)
    images = [nb.load(file) for file in result.files if file.name.endswith(".nii.gz")]
    assert len(images) >= 3
    for image in images:
        assert image.shape[:3] == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.header["sform_code"] == source.header["sform_code"]
