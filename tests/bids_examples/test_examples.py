import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest

from l2s_pydra import bids_examples
from l2s_pydra.bids_examples._anatomy import (
    FIELD_SHAPE,
    FIELD_STEP_MM,
    RIGHT_FROM_LEFT,
    Anatomy,
    Template,
    exponential,
)
from l2s_pydra.bids_examples.make_icbm import (
    PARTICIPANTS,
    label_rows,
    write_label_map,
    write_participant,
)
from l2s_pydra.bids_examples.make_phantom import make_phantom
from l2s_pydra.errors import ConfigError
from l2s_pydra.labels import LabelScheme

NAMES = ("phantom", "icbm")


def read_participants(name: str) -> dict[str, str]:
    with (bids_examples.path(name) / "participants.tsv").open(encoding="utf-8") as file:
        return {row["participant_id"]: row["split"] for row in csv.DictReader(file, delimiter="\t")}


def files_below(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def read(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def image_of(label_path: Path, name: str) -> Path:
    root = bids_examples.path(name)
    stem = label_path.name.split("_desc-")[0]
    folder = root / label_path.parent.relative_to(root / "derivatives" / "reference")
    (image,) = folder.glob(f"{stem}_*w.nii.gz")
    return image


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'brain'; available: icbm, phantom"):
        bids_examples.path("brain")


def test_missing_files_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bids_examples, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ConfigError, match="reinstall"):
        bids_examples.path("phantom")


def test_phantom_is_what_its_script_writes(tmp_path: Path) -> None:
    # Decompressed: the compressed bytes depend on the zlib at hand. Intensities may differ by one
    # unit where another processor rounds a sine differently.
    made, kept = make_phantom(tmp_path / "phantom"), bids_examples.path("phantom")
    assert files_below(made) == files_below(kept)
    for file in files_below(made):
        if file.suffix == ".gz":
            (data, affine), (expected, expected_affine) = read(made / file), read(kept / file)
            np.testing.assert_allclose(affine, expected_affine, atol=1e-5)
            assert data.dtype == expected.dtype
            np.testing.assert_allclose(data, expected, atol=1 if "T1w" in file.name else 0)
        else:
            assert (made / file).read_bytes() == (kept / file).read_bytes()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two = make_phantom(tmp_path / "one", seed=3), make_phantom(tmp_path / "two", seed=3)
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files_below(one))


def test_script_spares_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        make_phantom(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.load()


@pytest.mark.slow
def test_icbm_is_what_its_script_writes(tmp_path: Path, template: Template) -> None:
    kept, name = bids_examples.path("icbm"), "sub-01"
    write_participant(tmp_path, name, template)
    label_maps = Path("derivatives", "labelmaps")
    write_label_map(tmp_path / label_maps, "sub-map01", template)
    made = [file for file in files_below(tmp_path) if file.suffix == ".gz"]
    assert len(made) == 5
    for file in made:
        (data, affine), (expected, expected_affine) = read(tmp_path / file), read(kept / file)
        np.testing.assert_allclose(affine, expected_affine, atol=1e-4)
        assert data.dtype == expected.dtype
        # Equal on one machine; elsewhere rounding may move a voxel across a threshold.
        far = data != expected if "dseg" in file.name else np.abs(data - 1.0 * expected) > 1
        assert far.mean() < 1e-4
    for file in files_below(tmp_path):
        if file.suffix == ".json":
            assert (tmp_path / file).read_bytes() == (kept / file).read_bytes()


def test_icbm_tables_are_what_its_script_writes() -> None:
    for derivative in ("reference", "labelmaps"):
        table = bids_examples.path("icbm") / "derivatives" / derivative / "desc-tissue_dseg.tsv"
        lines = table.read_text(encoding="utf-8").splitlines()[1:]
        assert lines == ["\t".join(map(str, row)) for row in label_rows()]
    assert read_participants("icbm") == {name: p.split for name, p in PARTICIPANTS.items()}


@pytest.mark.parametrize(
    "where", ["icbm", "icbm/derivatives/reference", "icbm/derivatives/labelmaps"]
)
def test_icbm_carries_the_notice_of_the_templates(where: str) -> None:
    package = Path(bids_examples.__file__).parent
    notice = (package / "NOTICE").read_text(encoding="utf-8")
    assert "Copyright (C) 1993-2009 Louis Collins" in notice
    assert (package / where / "LICENSE").read_text(encoding="utf-8") == notice


@pytest.mark.slow
def test_template_labels_are_symmetric_and_of_human_size(template: Template) -> None:
    labels = template.labels
    volume_ml = {int(index): np.sum(labels == index) / 1000 for index in np.unique(labels)}
    for left in range(2, 8):
        # The plane x = 0 belongs to the left.
        assert volume_ml[left] == pytest.approx(volume_ml[left + RIGHT_FROM_LEFT], rel=0.02)
    # Adult means of one side, ml: thalamus 7 to 8, caudate 4, putamen 5, lateral ventricle 5 to 10;
    # the template is about a quarter larger than the mean brain.
    for index, (low, high) in {4: (5, 15), 5: (7, 12), 6: (3, 7), 7: (4, 9)}.items():
        assert low < volume_ml[index] < high


def test_warps_are_invertible() -> None:
    template = Template(
        np.zeros((4, 4, 4)), np.full((4, 4, 4), 4, np.uint8), np.diag([30.0, 30, 30, 1])
    )
    for seed in range(3):
        displacement = Anatomy.draw(np.random.default_rng(seed), template).displacement
        jacobian = np.stack([np.gradient(part, FIELD_STEP_MM) for part in displacement])
        jacobian = np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0


def test_constant_velocity_flows_straight() -> None:
    velocity = np.zeros((3, *FIELD_SHAPE))
    velocity[0] = 5.0
    np.testing.assert_allclose(exponential(velocity), velocity, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_labels_lie_on_the_grid_of_their_image(name: str) -> None:
    label_paths = sorted(bids_examples.path(name).glob("derivatives/reference/**/*_dseg.nii.gz"))
    assert label_paths
    for path in label_paths:
        (labels, label_affine), (image, affine) = read(path), read(image_of(path, name))
        assert labels.shape == image.shape
        np.testing.assert_array_equal(label_affine, affine)


@pytest.mark.parametrize("name", NAMES)
def test_every_label_is_in_its_table_and_used(name: str) -> None:
    for derivative in ("reference", "labelmaps"):
        folder = bids_examples.path(name) / "derivatives" / derivative
        (table,) = folder.glob("desc-*_dseg.tsv")
        scheme = LabelScheme.read(table)
        present = [set(np.unique(read(p)[0])) for p in folder.rglob("*_dseg.nii.gz")]
        assert set.union(*present) == set(scheme.indices)
        assert all(0 in values for values in present)


@pytest.mark.parametrize("name", NAMES)
def test_label_maps_are_mapped_to_the_reference(name: str) -> None:
    folder = bids_examples.path(name) / "derivatives"
    (reference,) = (folder / "reference").glob("desc-*_dseg.tsv")
    (label_maps,) = (folder / "labelmaps").glob("desc-*_dseg.tsv")
    target = LabelScheme.read(reference)
    channels = LabelScheme.read(label_maps).mapped_to(target)
    assert set(channels) == set(range(len(target)))


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_by_participant_and_labelled(name: str) -> None:
    root, splits = bids_examples.path(name), read_participants(name)
    assert set(splits) == {p.name for p in root.glob("sub-*")}
    assert set(splits.values()) == {"train", "val", "test"}
    labelled = {p.name for p in (root / "derivatives" / "reference").glob("sub-*")}
    assert {p for p, split in splits.items() if split != "test"} <= labelled


@pytest.mark.parametrize("name", NAMES)
def test_images_vary_and_differ(name: str) -> None:
    images = [read(p)[0] for p in sorted(bids_examples.path(name).glob("sub-*/**/*.nii.gz"))]
    assert all(image.std() > 5 for image in images)
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize(("name", "limit"), [("phantom", 300_000), ("icbm", 8_000_000)])
def test_size(name: str, limit: int) -> None:
    root = bids_examples.path(name)
    assert sum((root / file).stat().st_size for file in files_below(root)) < limit


@pytest.mark.parametrize("name", NAMES)
def test_validator_finds_no_error(name: str, bids_validator: Any) -> None:
    done = bids_validator(bids_examples.path(name), "--ignoreWarnings", "-r")
    assert done.returncode == 0, done.stdout
