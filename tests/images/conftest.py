"""Images on an oblique, sheared, flipped grid."""

import nibabel as nb
import numpy as np
import pytest

_OBLIQUE = np.array(
    [[-0.9, 0.2, 0.1, 40], [0.2, 1.1, -0.3, -50], [0.1, 0.3, 1.9, -20], [0, 0, 0, 1.0]]
)


@pytest.fixture
def data():
    return np.random.default_rng(0).random((6, 7, 8), dtype=np.float32)


@pytest.fixture
def write(tmp_path):
    def write(data, affine=_OBLIQUE, name="image.nii.gz", kind=nb.Nifti1Image, **header):
        image = kind(data, affine)
        for key, value in header.items():
            image.header[key] = value
        image.to_filename(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def one_line():
    """Return a check of an error message: one line, with the file and some words."""

    def one_line(error, path, *words):
        message = str(error.value)
        assert "\n" not in message
        return all(word in message for word in (str(path), *words))

    return one_line


@pytest.fixture
def oblique():
    return _OBLIQUE.copy()
