"""What a training does with its files: roles, and what is kept of them."""

import json

import nibabel as nb
import numpy as np
import pytest

from l2s_pydra.errors import DatasetError
from l2s_pydra.images import volume
from l2s_pydra.steps.learn import learn


@pytest.fixture
def another(tmp_path):
    """Copy of an image (or, exactly, of labels) as that of another participant."""

    def another(path, name, noise=0.0):
        image = nb.load(path)
        data = np.asarray(image.dataobj).astype(np.float32)
        data += noise * np.random.default_rng(0).normal(size=data.shape)
        turned = data[::-1] if "labels" in name else data
        nb.Nifti1Image(np.ascontiguousarray(turned), image.affine).to_filename(tmp_path / name)
        return tmp_path / name

    return another


def with_test(given, another, noise=1.0):
    """Participant sub-04, to test on."""
    image = another(given["images"][0], "sub-04_T1w.nii.gz", noise)
    labels = another(given["labels"][0], "sub-04_labels.nii.gz")
    return given | {
        "images": [image, *given["images"]],
        "labels": [labels, *given["labels"]],
        "participants": ["sub-04", *given["participants"]],
        "roles": ["test", *given["roles"]],
    }


@pytest.fixture
def arguments(inputs, config):
    """Arguments of a short training."""

    def arguments(**changes):
        return inputs(config=config(training__mode="synthseg"), threads=1, **changes)

    return arguments


def test_participants_to_test_on_change_nothing(arguments, another, tmp_path):
    folder = learn(**arguments())
    given = with_test(arguments(out_dir=tmp_path / "other"), another)
    other = learn(**given)
    assert other.name == folder.name
    for name in ("weights.safetensors", "theta.json", "priors.tsv", "samples/real.npz"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    rows = (other / "splits.tsv").read_text().splitlines()
    assert rows[1] == "sub-04\ttest\tsub-04_T1w.nii.gz"
    assert [rows[0], *rows[2:]] == (folder / "splits.tsv").read_text().splitlines()


def test_a_copy_of_an_image_to_test_on_is_not_learned_from(arguments, another):
    given = with_test(arguments(), another, noise=0.0)
    with pytest.raises(DatasetError, match=r"holds the same voxels as .*sub-04_T1w") as error:
        learn(**given)
    assert str(given["images"][1]) in str(error.value)
    assert not given["out_dir"].exists()


def test_the_model_is_the_same_with_a_cache(arguments, tmp_path, monkeypatch):
    plain = learn(**arguments())
    cache, state = tmp_path / "cache", tmp_path / "state"
    read = []

    def counted(*args, original=volume.read_voxels):
        read.append(args[1])
        return original(*args)

    monkeypatch.setattr(volume, "read_voxels", counted)
    for number, reads in enumerate((10, 0)):
        read.clear()
        again = arguments(
            out_dir=tmp_path / f"out{number}",
            cache_dir=cache,
            checkpoint_dir=state / str(number),
        )
        folder = learn(**again)
        assert len(read) == reads
        assert folder.name == plain.name
        for name in ("weights.safetensors", "theta.json", "priors.tsv"):
            assert (folder / name).read_bytes() == (plain / name).read_bytes()
    # Processes started by hand find it too.
    assert json.loads((state / "0" / "learn.json").read_text())["cache_dir"] == str(cache)
