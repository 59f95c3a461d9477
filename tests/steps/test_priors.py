"""Priors of the intensity groups, from images whose intensities are known."""

import json
import logging
import math

import nibabel as nb
import numpy as np
import pytest
from scipy.special import polygamma

from l2s_pydra.config import LearnConfig, SynthesisConfig
from l2s_pydra.errors import ConfigError, DatasetError
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.moments import Moments
from l2s_pydra.steps.priors import (
    check_priors,
    estimate_priors,
    fit_priors,
    shrunk_variances,
    write_priors,
)

SHAPE = (24, 26, 22)
TABLE = "index\tname\n0\tbackground\n1\tbright\n2\tleft-grey\n3\tright-grey\n"
AS_IT_IS = LearnConfig().evolve(spacing_mm=1.0, synthesis__oversampling=1).to_dict()


def moments(means, stds=None, count=100):
    stds = stds or [0.1] * len(means)
    return [
        Moments(scan=f"s{i}", count=count, mean=m, std=s, grain=s)
        for i, (m, s) in enumerate(zip(means, stds, strict=True))
    ]


@pytest.fixture
def write_image(tmp_path):
    """Write an image that normalisation leaves as it is, and its labels."""

    def write(number, mean, std):
        rng = np.random.default_rng(number)
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:20, 4:22, 4:12] = 1
        labels[4:12, 4:22, 12:18], labels[12:20, 4:22, 12:18] = 2, 3
        grey = np.clip(rng.normal(mean, std, SHAPE), 0.01, 0.99)
        image = np.select([labels == 1, labels > 1], [1.0, grey], 0.0).astype(np.float32)
        paths = tmp_path / f"sub-{number}_T1w.nii.gz", tmp_path / f"sub-{number}_dseg.nii.gz"
        nb.Nifti1Image(image, np.eye(4)).to_filename(paths[0])
        nb.Nifti1Image(labels, np.eye(4)).to_filename(paths[1])
        return (*paths, image[labels > 1])

    (tmp_path / "dseg.tsv").write_text(TABLE)
    return write


def test_priors_are_the_moments_of_the_images(write_image, tmp_path):
    made = [write_image(i, *moments) for i, moments in enumerate([(0.4, 0.05), (0.5, 0.08)])]
    images, labels, greys = zip(*made, strict=True)
    folder = estimate_priors(
        images=images,
        labels=labels,
        real_table=tmp_path / "dseg.tsv",
        out_dir=tmp_path / "out",
        config=AS_IT_IS,
        threads=1,
    )
    assert {p.name for p in folder.iterdir()} == {
        "priors.json",
        "priors.tsv",
        "priors_columns.json",
        "priors.png",
    }
    priors = json.loads((folder / "priors.json").read_text())
    assert set(priors) == {"bright", "grey"}
    means, stds = [g.mean() for g in greys], [g.std() for g in greys]
    # Six decimals are written; normalisation divides by a percentile that is 1 up to rounding.
    assert priors["grey"][0] == pytest.approx(np.mean(means), abs=1e-5)
    assert priors["grey"][2] == pytest.approx(np.mean(stds), abs=1e-5)
    assert priors["bright"][::2] == pytest.approx([1, 0], abs=1e-5)
    header, *rows = (line.split("\t") for line in (folder / "priors.tsv").read_text().splitlines())
    columns = json.loads((folder / "priors_columns.json").read_text())
    assert header == list(columns)
    assert all(column["Description"] for column in columns.values())
    row = dict(zip(header, next(row for row in rows if row[0] == "grey"), strict=True))
    assert row["n_images"] == "2"
    assert int(row["n_voxels"]) == sum(g.size for g in greys)
    assert float(row["mean_std_raw"]) == pytest.approx(np.std(means, ddof=1), rel=1e-3)


def test_the_generator_takes_them(write_image, tmp_path):
    image, labels, _ = write_image(0, 0.4, 0.05)
    given = {"images": [image], "labels": [labels], "real_table": tmp_path / "dseg.tsv"}
    folder = estimate_priors(**given, out_dir=tmp_path, config=AS_IT_IS, threads=1)
    priors = json.loads((folder / "priors.json").read_text())
    assert SynthesisConfig(priors=priors).priors == {k: tuple(v) for k, v in priors.items()}
    table = (folder / "priors.tsv").read_text()
    assert "n/a" in table  # one image has no deviation between images


def test_a_model_folder_has_those_of_the_learning_scans(inputs, config, tmp_path):
    given = inputs(label_maps=[], maps_table=None)
    folder = learn(**given)
    learners = [i for i, role in enumerate(given["roles"]) if role == "learn"]
    alone = estimate_priors(
        images=[given["images"][i] for i in learners],
        labels=[given["labels"][i] for i in learners],
        real_table=given["real_table"],
        out_dir=tmp_path / "alone",
        config=config(),
        threads=1,
    )
    ours, theirs = (json.loads((f / "priors.json").read_text()) for f in (folder, alone))
    assert ours == theirs


def test_a_run_draws_from_given_priors(inputs, config):
    priors = {"White-Matter": [0.9, 0.02, 0.05, 0.01], "Nowhere": [0.1, 0.1, 0.1, 0.1]}
    folder = learn(**inputs(config=config(synthesis__priors=priors)))
    record = json.loads((folder / "config.json").read_text())
    assert record["learn"]["synthesis"]["priors"] == priors
    assert "moments" not in record


def test_groups_that_are_too_small_are_left_out():
    priors = fit_priors({"a": moments([0.5, 0.6]), "b": moments([0.3], count=3)})
    assert [(p.group, p.n_images, p.n_voxels) for p in priors] == [("a", 2, 200)]
    assert fit_priors({"b": moments([0.3], count=3)}) == []


def test_one_image_has_a_typical_deviation(tmp_path):
    (prior,) = fit_priors({"a": moments([0.5])})
    assert math.isnan(prior.mean_std_raw)
    assert (prior.mean_std, prior.std_std) == (0.05, 0.02)
    assert json.loads((write_priors([prior], tmp_path) / "priors.json").read_text()) == {
        "a": [0.5, 0.05, 0.1, 0.02]
    }


def test_shrinkage_recovers_the_distribution_of_the_variances():
    """Variances drawn from the model: the posterior mean is nearer to them than the sample's."""
    rng = np.random.default_rng(1)
    groups, degrees, d0, s0 = 4000, 3, 8.0, 0.04
    true = d0 * s0 / rng.chisquare(d0, groups)
    sample = true * rng.chisquare(degrees, groups) / degrees
    shrunk = shrunk_variances(sample, np.full(groups, degrees), typical=1.0)
    # By construction it is linear in the sample, with the slope d / (d0 + d).
    slope, start = np.polyfit(sample, shrunk, 1)
    found = degrees / slope - degrees
    # Fitted to 4000 log-variances, whose spread gives d0 to about a tenth.
    assert found == pytest.approx(d0, rel=0.25)
    assert start / (1 - slope) == pytest.approx(s0, rel=0.1)
    assert np.mean((shrunk - true) ** 2) < 0.5 * np.mean((sample - true) ** 2)


def test_equal_variances_become_one():
    rng = np.random.default_rng(2)
    sample = 0.01 * rng.chisquare(4, 12) / 4
    spread = np.log(sample).var(ddof=1)
    assert spread < polygamma(1, 2)  # no more than chance
    shrunk = shrunk_variances(sample, np.full(12, 4), typical=1.0)
    assert np.ptp(shrunk) < 1e-12
    assert sample.min() < shrunk[0] < sample.max()


def test_shrinkage_keeps_what_is_known_well():
    sample = np.array([1e-4, 1e-2, 1.0, 4e-3])
    shrunk = shrunk_variances(sample, np.full(4, 10_000), typical=1.0)
    np.testing.assert_allclose(shrunk, sample, rtol=0.01)


def test_a_group_of_one_image_takes_what_is_common():
    shrunk = shrunk_variances([0.01, 0.04, 0.0025, np.nan], [4, 4, 4, 0], typical=1.0)
    assert shrunk[:3].min() <= shrunk[3] <= shrunk[:3].max()
    np.testing.assert_array_equal(shrunk_variances([np.nan], [0], typical=0.3), [0.3])


def test_priors_of_unknown_groups_are_named(caplog):
    names = ("outside", "grey", "white")
    check_priors({"grey": 1}, names)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        check_priors({"grey": 1, "gray": 1}, names)
    assert "'gray'" in caplog.text
    with pytest.raises(ConfigError, match=r"'gray'.*available: grey, white"):
        check_priors({"gray": 1}, names)


def test_wrong_arguments(tmp_path):
    (tmp_path / "dseg.tsv").write_text(TABLE)
    given = {"real_table": tmp_path / "dseg.tsv", "out_dir": tmp_path}
    with pytest.raises(ConfigError, match="labels"):
        estimate_priors(images=[tmp_path / "a"], labels=[], **given)
    with pytest.raises(DatasetError, match="no labelled image"):
        estimate_priors(images=[], labels=[], **given)
