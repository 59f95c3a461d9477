"""A model that can be reasoned about: it labels by intensity."""

import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import nibabel as nb
import numpy as np
import pytest
import torch

from l2s_pydra import bids_examples
from l2s_pydra.config import LearnConfig, preset
from l2s_pydra.labels import Label, LabelScheme
from l2s_pydra.segmentation import Model, Segmenter
from l2s_pydra.steps.schemes import read_schemes
from l2s_pydra.steps.segment import segment

GREY, WHITE = 3, 41


@pytest.fixture
def make_model(tmp_path):
    """Write a model folder: normalised intensity below 0.3 is 0, below 0.7 is 3, above is 41."""

    def make(name="model", *, ndim=3, spacing_mm=1.0, weight=1.0, **config):
        learn = preset("quick", ndim=ndim).evolve(
            spacing_mm=spacing_mm,
            segmenter__width=1,
            segmenter__depth=1,
            segmenter__convolutions=1,
            training__precision="fp32",
        )
        segmenter = Segmenter(learn.segmenter, 3)
        state = {key: torch.zeros_like(value) for key, value in segmenter.state_dict().items()}
        (middle,) = (key for key in state if key.endswith("weight") and state[key].shape[-1] == 3)
        # The segmenter centres its input: 3 x - 1.
        state[middle][(0, 0, *(1,) * ndim)] = weight / 3
        state[middle.replace("weight", "bias")][:] = weight / 3
        state["unet.final.weight"].view(3)[:] = 60 * torch.tensor([0.0, 1, 2])
        state["unet.final.bias"].copy_(60 * torch.tensor([0, -0.3, -1.0]))
        segmenter.load_state_dict(state)
        scheme = LabelScheme(
            [Label(index=GREY, name="grey", mapping=7), Label(index=WHITE, name="white")]
        )
        values = {
            "learn": learn.to_dict(),
            "segmentation": "tissue",
            "name": "learn2synth1234abcd",
            "version": "0.1.0",
            "skull_stripped": True,
            **config,
        }
        Model(segmenter=segmenter, scheme=scheme, config=values).save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def files():
    """Return the three files of a model folder as keyword arguments."""

    def files(folder):
        return {
            "weights": folder / "weights.safetensors",
            "config": folder / "config.json",
            "labels": folder / "labels.tsv",
        }

    return files


@pytest.fixture
def segmented(files, tmp_path):
    """Segment an image with a model folder; options win."""

    def segmented(image, folder, **options):
        given = {"out_dir": tmp_path / "tree", "device": "cpu", "threads": 1, **options}
        return segment(image=image, **files(folder), **given)

    return segmented


@pytest.fixture
def phantom(tmp_path):
    """Write a ball of grey around a ball of white on any grid; return its path and its labels."""

    def phantom(affine, shape=(32, 34, 30), name="sub-01_T1w.nii.gz"):
        indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        middle = (np.array(shape) - 1) / 2
        radius = np.linalg.norm((indices - middle) @ affine[:3, :3].T, axis=-1)
        labels = np.select([radius < 6, radius < 11], [WHITE, GREY], 0)
        intensities = np.select([labels == WHITE, labels == GREY], [200, 100], 0)
        image = nb.Nifti1Image(intensities.astype(np.int16), affine)
        image.header["descrip"] = b"scanner"
        image.to_filename(tmp_path / name)
        return tmp_path / name, labels

    return phantom


@pytest.fixture
def config():
    """Settings of a training that takes a second."""

    def config(ndim=3, **changes):
        settings = {
            "spacing_mm": 8.0,
            "segmenter__ndim": ndim,
            "segmenter__width": 4,
            "segmenter__depth": 2,
            "training__steps": 4,
            "training__theta_warmup_steps": 1,
            "training__wide_share": 0.0,
            "training__learned_remap_share": 0.0,
            "training__validate_every": 2,
            "training__checkpoint_every": 2,
        }
        return LearnConfig().evolve(**{**settings, **changes}).to_dict()

    return config


@pytest.fixture
def inputs(tmp_path, config):
    """Arguments of the step for the phantom data set."""

    def inputs(**changes):
        root = bids_examples.path("phantom")
        names = ["sub-01_ses-01", "sub-01_ses-02", "sub-02", "sub-03"]
        folders = [root.joinpath(*name.split("_"), "anat") for name in names]
        reference = root / "derivatives" / "reference"
        maps = root / "derivatives" / "labelmaps"
        return {
            "images": [f / f"{n}_T1w.nii.gz" for f, n in zip(folders, names, strict=True)],
            "labels": [
                reference / f.relative_to(root) / f"{n}_desc-tissue_dseg.nii.gz"
                for f, n in zip(folders, names, strict=True)
            ],
            "participants": [name[:6] for name in names],
            "roles": ["learn", "learn", "learn", "validate"],
            "label_maps": sorted(maps.rglob("*_dseg.nii.gz"))[:2],
            "real_table": reference / "desc-tissue_dseg.tsv",
            "maps_table": maps / "desc-head_dseg.tsv",
            "config": config(),
            "segmentation": "tissue",
            "out_dir": tmp_path / "out",
            "device": "cpu",
            "progress": False,
            **changes,
        }

    return inputs


class Lobes:
    """Scans of two bright lobes with a stem between them, and what a training takes them with."""

    left, right, stem = 10, 49, 16
    shape, spacing = (30, 28, 26), 2.0
    lines = ("index\tname", "10\tLeft-Lobe", "49\tRight-Lobe", "16\tStem")
    values: ClassVar = {0: 60.0, left: 150.0, right: 150.0, stem: 100.0}

    def __init__(self, folder):
        self.folder = folder

    def affine(self):
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        affine[:3, 3] = -30, -20, 11
        return affine

    def head(self, shift=0):
        """Labels, left where the first index is low."""
        labels = np.zeros(self.shape, np.int16)
        labels[6:14, 8:20, 8:18] = self.left
        labels[16:24, 8:20, 8:18] = self.right
        labels[14:16, 8:20, 4:18] = self.stem
        return np.roll(labels, shift, 1)

    def picture(self, labels, *, stripped=False, seed=0):
        rng = np.random.default_rng(seed)
        image = np.vectorize(self.values.get)(labels) + rng.normal(0, 4, labels.shape)
        around = np.zeros(self.shape, bool)
        around[3:27, 4:24, 2:22] = True
        image[~around] = 0
        if stripped:
            image[labels == 0] = 0
        return image.clip(0).astype(np.float32)

    def write(self, name, data, affine=None, codes="RAS"):
        """Write a volume, stored along any axes; return its path."""
        image = nb.Nifti1Image(data, self.affine() if affine is None else affine)
        start, end = nb.io_orientation(image.affine), nb.orientations.axcodes2ornt(codes)
        image = image.as_reoriented(nb.orientations.ornt_transform(start, end))
        image.to_filename(self.folder / name)
        return self.folder / name

    def table(self, *lines, name="dseg.tsv"):
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def config(self, **changes):
        # Three levels: the sides of the grid are multiples of four.
        changes = {"spacing_mm": self.spacing, "segmenter__depth": 3, **changes}
        return LearnConfig().evolve(**changes)

    def inputs(self, *, stripped=False, codes="RAS", **changes):
        """Two learning scans and one to validate on, with one label map more."""
        labels = [self.head(shift) for shift in (0, 1, -1)]
        pictures = [self.picture(x, stripped=stripped, seed=i) for i, x in enumerate(labels)]
        write = partial(self.write, codes=codes)
        return {
            "images": [write(f"im{i}.nii.gz", p) for i, p in enumerate(pictures)],
            "labels": [write(f"lab{i}.nii.gz", x) for i, x in enumerate(labels)],
            "names": ["sub-1", "sub-2", "sub-3"],
            "roles": ["learn", "learn", "validate"],
            "label_maps": [write("map.nii.gz", self.head(2))],
            "schemes": read_schemes(self.table(*self.lines), None, None),
            "config": self.config(),
            **changes,
        }


@pytest.fixture
def lobes(tmp_path):
    return Lobes(tmp_path)


@pytest.fixture
def message_of():
    """Message of an error that was caught; it is one line."""

    def message_of(error):
        message = str(error.value)
        assert "\n" not in message
        return message

    return message_of


@pytest.fixture
def wait_until():
    """Wait until something is so, and fail where it does not become so."""

    def wait_until(done, seconds=120):
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            time.sleep(0.2)

    return wait_until


@pytest.fixture
def working_in():
    """Processes whose command line names the specification of a training in a folder."""

    def working_in(folder):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{folder}/learn.json".encode() in command:
                found.append(entry.name)
        return found

    return working_in
