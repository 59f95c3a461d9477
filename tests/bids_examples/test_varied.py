"""The generated data sets: valid, the same whenever they are written, and what they promise."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from l2s_pydra.bids_examples.make_varied import VARIED, make_many, make_varied


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


@pytest.mark.parametrize("name", VARIED)
def test_the_validator_finds_no_error(name, varied, bids_validator):
    # It looks up what git-annex knows of a link, and there is no git here.
    unfetched = ["--ignoreNiftiHeaders"] if name == "datalad" else []
    done = bids_validator(varied(name), "--ignoreWarnings", "-r", *unfetched)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", VARIED)
def test_same_seed_same_files(name, varied, tmp_path):
    one, two = varied(name), make_varied(tmp_path / name, name)
    assert files(one) == files(two)
    for file in files(one):
        if (one / file).is_symlink():
            assert (one / file).readlink() == (two / file).readlink()
        else:
            assert (one / file).read_bytes() == (two / file).read_bytes()


def test_heads_can_be_told_from_each_other_and_from_air(varied):
    images = [nib.load(path) for path in varied("labels").rglob("*.nii.gz")]
    voxels = [np.asarray(image.dataobj) for image in images]
    assert len({v.tobytes() for v in voxels}) == len(voxels) == 10
    assert all(v.shape == (24, 24, 24) and 0.1 < (v > 60).mean() < 0.6 for v in voxels)


def test_contrasts_differ(varied):
    place = varied("longitudinal") / "sub-01" / "ses-pre" / "anat"
    names = ("run-1_T1w", "T2w")
    one, other = (
        np.asarray(nib.load(place / f"sub-01_ses-pre_{name}.nii.gz").dataobj) for name in names
    )
    assert np.median(one[0]) < 20  # air is dark in both
    assert np.median(other[0]) < 20
    # The middle of the head is white matter around ventricles.
    middle = np.s_[8:16, 8:16, 8:16]
    assert np.median(one[middle]) > 140 > 100 > np.median(other[middle])


def test_one_image_was_fetched_and_one_was_not(varied):
    one, two = (varied("datalad") / f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2))
    assert one.is_symlink()
    assert nib.load(one).shape == (24, 24, 24)
    assert two.is_symlink()
    assert not two.exists()


def test_many_participants_share_their_heads(tmp_path, bids_validator):
    root = make_many(tmp_path / "many", participants=20)
    images = sorted(root.glob("sub-*/anat/*_T1w.nii.gz"))
    assert len(images) == 20
    assert len({path.stat().st_ino for path in images}) == 8
    assert len(files(root)) == 20 * 10 + 3
    assert bids_validator(root, "--ignoreWarnings").returncode == 0
    heads = make_many(tmp_path / "heads", participants=3, others=False)
    assert len(files(heads)) == 3 * 2 + 3


def test_script(tmp_path):
    module = "l2s_pydra.bids_examples.make_varied"
    options = ["--only", "many", "datalad", "--participants", "2"]
    done = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path), *options],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "many"), str(tmp_path / "datalad")]
    assert len(list((tmp_path / "many").glob("sub-*"))) == 2
    assert (tmp_path / "datalad" / "sub-02").is_dir()


def test_a_foreign_folder_is_spared(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        make_many(tmp_path, participants=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
