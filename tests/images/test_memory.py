"""No stack of all labels at the resolution of the scan is ever held."""

import subprocess
import sys

import pytest

K = 33
SIDE = 140
"""Voxels of 0.7 mm: a tenth of a head of 256 x 320 x 320 of them."""

PROGRAM = """
import sys
from pathlib import Path
import nibabel as nb
import numpy as np
from nibabel.eulerangles import euler2mat
from l2s_pydra.images import Conform, load_image, save_labels, save_probabilities

def peak():
    # Of this program alone, where the system tells; else of all since the start
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder, turned, k, side = Path(sys.argv[1]), sys.argv[2] == "oblique", *map(int, sys.argv[3:])
affine = np.diag([0.7, 0.7, 0.7, 1.0])
if turned:
    affine[:3, :3] = euler2mat(0.2, -0.1, 0.3) * 0.7
x, y, z = np.ogrid[:side, :side, :side]
data = ((x + 2 * y + 3 * z) % 200).astype(np.uint8)
nb.Nifti1Image(data, affine).to_filename(folder / "scan.nii.gz")
del data
conform = Conform.to_grid(load_image(folder / "scan.nii.gz"), 1.0)
# Cells of labels, some of which meet in any block
i, j, l = (np.arange(n) // 16 for n in conform.shape)
cells = (i[:, None, None] * 5 + j[None, :, None] * 3 + l[None, None, :]) % k
posterior = np.full((k, *conform.shape), 0.2 / k, dtype=np.float32)
np.put_along_axis(posterior, cells[None], np.float32(0.8 + 0.2 / k), axis=0)
# Everything that is imported or kept from the first call on is there now
conform.float_to_source(posterior[0])
before = peak()
source = load_image(folder / "scan.nii.gz")
labels = conform.posterior_to_source(posterior)
save_labels(folder / "labels.nii.gz", labels, source)
frames = (conform.float_to_source(frame) for frame in posterior[:3])
save_probabilities(folder / "probabilities.nii", frames, 3, source)
assert len(np.unique(labels)) > k // 2
print(peak() - before)
"""


@pytest.mark.parametrize("turn", ["parallel", "oblique"])
def test_labels_come_back_without_a_full_stack(tmp_path, turn):
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path), turn, str(K), str(SIDE)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full_stack = K * SIDE**3 * 4
    # The scan, its labels and one label's frame: some bytes a voxel, however many labels there are;
    # and blocks, which do not grow with the scan
    assert int(done.stdout) < full_stack / 2
