"""From files to what a training needs."""

import logging

import numpy as np
import pytest
import torch

from l2s_pydra.errors import DatasetError
from l2s_pydra.normalisation import normalise
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.schemes import read_schemes
from l2s_pydra.synthesis.intensity import soft_labels


@pytest.mark.parametrize("ndim", [2, 3])
def test_shapes(lobes, ndim):
    given = lobes.inputs(config=lobes.config(segmenter__ndim=ndim))
    data, facts = prepare(**given)
    shape = tuple(facts["grid_shape"])
    assert all(n % 4 == 0 for n in shape[:ndim])
    judge = data.validate[0]
    assert tuple(judge.image.shape) == shape
    assert tuple(judge.target.shape) == (4, *shape)
    for scan in data.learn:
        assert tuple(scan.image.shape) == shape[:ndim]
        assert tuple(scan.fine_image.shape) == tuple(2 * n for n in shape[:ndim])
        assert scan.fine_channels.shape == scan.fine_image.shape
        torch.testing.assert_close(scan.target.sum(0), torch.ones(shape[:ndim]))
    for labels in data.synthesizer.label_maps:
        assert tuple(labels.shape) == tuple(2 * n for n in shape[:ndim])
        assert labels.dtype == torch.uint8
    assert data.opposite == (0, 3, 2, 1)
    assert data.synthesizer.labels.n_channels == 4
    if ndim == 3:
        assert len(data.learn) == 2
        assert data.own == [0, 1]
        assert len(data.synthesizer.label_maps) == 3


def test_statistics_are_those_of_the_scans(lobes):
    data, facts = prepare(**lobes.inputs(config=lobes.config(synthesis__oversampling=1)))
    expected = {}
    for name, channels in (("Lobe", (1, 3)), ("Stem", (2,))):
        values = [
            normalise(scan.image[None, None])[0, 0][sum(scan.target == c for c in channels) > 0]
            for scan in data.learn
        ]
        expected[name] = torch.cat(values)
    for name, values in expected.items():
        mean, std, grain = data.statistics[name]
        assert 0 < grain <= 1.1 * std
        assert mean == pytest.approx(float(values.mean()), abs=1e-5)
        assert std == pytest.approx(float(values.std()), rel=0.01)
    # 150, 100 and 60, the first of which becomes about 1.
    assert data.statistics["Stem"][0] == pytest.approx(100 / 150, abs=0.06)
    assert data.statistics["unlabelled"][0] == pytest.approx(60 / 150, abs=0.05)
    assert facts["statistics"]["Stem"] == list(data.statistics["Stem"])


@pytest.mark.parametrize("ndim", [2, 3])
def test_small_structures_can_be_learned(lobes, ndim):
    """A structure of a few voxels, of which a coarse look sees nothing."""
    given = lobes.inputs(config=lobes.config(segmenter__ndim=ndim), label_maps=[])
    given["schemes"] = read_schemes(lobes.table("index\tname", "7\tspot"), None, None)
    for i in range(3):
        labels = np.zeros(lobes.shape, np.int16)
        labels[13:15, 13:15, 13:15] = 7
        labels[::2, ::2, ::2] = 0
        labels = np.roll(labels, i, 1)
        given["labels"][i] = lobes.write(f"spot{i}.nii.gz", labels)
    data, _ = prepare(**given)
    assert data.learn
    assert data.synthesizer.label_maps
    assert sum(float(scan.target[1].sum()) for scan in data.learn) > 0
    assert data.own


def test_slices_hold_structures(lobes):
    data, facts = prepare(**lobes.inputs(config=lobes.config(segmenter__ndim=2)))
    own, factor = set(data.own), 2
    assert own < set(range(len(data.synthesizer.label_maps)))
    assert min(data.own) == 0
    for scan in data.learn:
        assert float(1 - scan.target[0].mean()) > 0
        pooled = soft_labels(scan.fine_channels, 4, factor)
        # One fine slice of two: of the structures' ends it may hold all or nothing.
        assert float((pooled - scan.target).abs().mean()) < 0.05
    assert len({scan.name for scan in data.learn}) == len(data.learn)
    assert facts["grid_shape"][2] >= len(data.learn) / 2


def test_no_mirroring_where_a_side_has_no_partner(lobes, caplog):
    given = lobes.inputs(schemes=read_schemes(
        lobes.table("index\tname", f"{lobes.left}\tLeft-Lobe", f"{lobes.right}\tother", f"{lobes.stem}\tStem"), None, None
    ))  # fmt: skip
    with caplog.at_level(logging.WARNING):
        data, _ = prepare(**given)
    assert "one side only" in caplog.text
    assert not any(data.synthesizer.draw(seed).flip for seed in range(20))
    caplog.clear()
    data, _ = prepare(**lobes.inputs())
    assert not caplog.text
    assert any(data.synthesizer.draw(seed).flip for seed in range(20))


@pytest.mark.parametrize(("role", "said"), [("learn", "learn from"), ("validate", "validate on")])
def test_both_roles_are_needed(lobes, role, said):
    with pytest.raises(DatasetError, match=f"no labelled image to {said}; .* participants.tsv"):
        prepare(**lobes.inputs(roles=["validate" if role == "learn" else "learn"] * 3))


def test_progress_is_told(lobes):
    told = []
    prepare(**lobes.inputs(), progress=lambda *args: told.append(args))
    assert [args[1:] for args in told] == [(i, 4) for i in range(1, 5)]
    assert {args[0] for args in told} == {"reading images", "reading label maps"}
