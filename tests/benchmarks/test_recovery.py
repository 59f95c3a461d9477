"""The recovery benchmarks on the tiniest runs, and on what they make their images from."""

import json

import nibabel
import numpy as np
import pytest
import torch

SMALL = {"steps": 12, "warmup": 4, "batch": 2, "pool": 6, "averaged": 3}


@pytest.fixture
def folder(tmp_path):
    """Two heads: a left and a right block of a structure in tissue that is not segmented."""
    (tmp_path / "dseg.tsv").write_text(
        "index\tname\tmapping\n0\tbackground\t0\n2\tLeft-Block\t1\n41\tRight-Block\t1\n"
        "9\tTissue\t0\n77\tSlab\t2\n"
    )
    for number in (1, 2):
        labels = np.zeros((36, 44, 30), np.int16)
        labels[4:-4, 4:-4, 4:-4] = 9
        labels[8:16, 8:30, 8:-8], labels[20:28, 8:30, 8:-8] = 2, 41
        labels[8:28, 32:36, 8:-8] = 77
        path = tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_dseg.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([5.0, 5.0, 5.0, 1.0])), path)
    return tmp_path


def test_structures_of_both_sides_are_one_and_what_maps_to_nothing_is_background(load, folder):
    anatomy = load("_recovery").Anatomy.read(folder)
    assert anatomy.names == ("outside", "Block", "Slab", "Tissue")
    assert anatomy.classes == 3
    assert "2 label maps" in anatomy.described()
    assert "segmented: Block, Slab" in anatomy.described()
    for head in anatomy.slices:
        assert head
        for labels in head:
            assert labels.shape == (32, 40)
            assert set(labels.unique().tolist()) == {0, 1, 2, 3}


def test_one_label_map_is_not_enough(load, tmp_path):
    with pytest.raises(SystemExit, match="holds 0 label maps"):
        load("_recovery").Anatomy.read(tmp_path)


def test_real_and_synthetic_images_are_of_different_heads(load, folder):
    recovery = load("_recovery")
    anatomy = recovery.Anatomy.read(folder)
    one, two = anatomy.synthesizer(slice(1)), anatomy.synthesizer(slice(1, None))
    assert len(one.label_maps) == len(anatomy.slices[0])
    images = recovery.draw_images(two, [3, 4], "cpu")
    assert images.image.shape == (2, 1, 32, 40)
    assert set(images.target.unique().tolist()) <= {0, 1, 2}
    # The generator itself adds neither noise nor bias.
    spread = images.image[0, 0][images.target[0] == 1].std()
    assert 0 < float(spread) < 3 * recovery.TEXTURE


def test_sigma_moves_from_its_start_at_every_hypergradient(load, folder):
    recovery, benchmark = load("_recovery"), load("paper_sigma")
    anatomy, recipe = recovery.Anatomy.read(folder), recovery.Recipe(**SMALL)
    case = benchmark.CASES[1]
    learned = recovery.learn(anatomy, case.preset(), case.learned(), recipe, seed=0)
    assert len(learned.values) == recipe.iterates == 4
    sigmas = torch.tensor([benchmark.START, *(row["sigma"] for row in learned.values)])
    assert (sigmas.diff() != 0).all()
    again = recovery.learn(anatomy, case.preset(), case.learned(), recipe, seed=0)
    assert again.values == learned.values


def test_rows_of_sigma(load, folder):
    recovery, benchmark = load("_recovery"), load("paper_sigma")
    anatomy, recipe = recovery.Anatomy.read(folder), recovery.Recipe(**SMALL)
    rows = [
        row for case in benchmark.CASES for row in benchmark.run(case, anatomy, recipe, 0, "cpu")
    ]
    assert [row["metric"] for row in rows] == [
        *["cpu_time", "sigma"] * 5, "cpu_time", "sigma_min", "sigma_max",
    ]  # fmt: skip
    assert all(0 < row["value"] < 1 for row in rows if row["metric"] != "cpu_time")
    table = benchmark.summary(benchmark.CASES, rows).splitlines()
    assert len(table) == 2 + 7
    assert table[3].startswith("| σ 0.05 | sigma | 0.05 | 0.042 | 0.")


@pytest.mark.parametrize("sigma", [0.0, 0.15])
def test_presets_of_sigma_are_met(load, sigma):
    recovery, benchmark = load("_recovery"), load("paper_sigma")
    image = torch.zeros(4, 1, 32, 40)
    batch = recovery.Batch(image, image[:, 0].long(), (0, 1, 2, 3))
    spread = benchmark.noise_of(sigma)(batch).detach().std()
    # The standard error of a standard deviation.
    assert float(spread) == pytest.approx(sigma, abs=4 * sigma / (2 * image.numel()) ** 0.5)


def test_rows_of_bias(load, folder):
    recovery, benchmark = load("_recovery"), load("paper_bias")
    anatomy, recipe = recovery.Anatomy.read(folder), recovery.Recipe(**SMALL)
    case = benchmark.Case((1.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    rows = benchmark.run(case, anatomy, recipe, 0, "cpu")
    found = {row["metric"]: row["value"] for row in rows}
    assert set(found) == {"cpu_time", *benchmark.METRICS}
    assert all(0 < found[name] < 1 for name in benchmark.NAMES)
    lines = benchmark.table([case], rows).splitlines()
    assert [line.split(" |")[0] for line in lines[2:]] == [
        "| preset (1, 0, 0)", "| published", "| (1, 0, 0) from (0.5, 0.5, 0.5), seed 0",
        "| **median**",
    ]  # fmt: skip


def test_strength_of_a_field(load):
    benchmark = load("paper_bias")
    assert benchmark.strength((0.0, 0.0, 0.0)) == {"log_field_spread": 0.0, "log_field_mean": 0.0}
    half, whole = benchmark.strength((0.0, 0.5, 0.0)), benchmark.strength((0.0, 1.0, 0.0))
    for name, value in half.items():
        assert whole[name] == pytest.approx(2 * value, rel=1e-4)
    # Fields are between 0.5 and 2; their mean, 1.25, has a logarithm of 0.22.
    assert 0 < whole["log_field_spread"] < 0.4
    assert 0.15 < whole["log_field_mean"] < 0.223


def test_every_case_runs_once_a_seed_and_is_written(load, folder, tmp_path, monkeypatch, capsys):
    recovery, rows_of = load("_recovery"), load("_table").row
    path = tmp_path / "rows.json"
    options = [str(folder), "--seeds", "2", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["benchmark", *options])
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)

    def run(case, anatomy, recipe, seed, device):
        assert anatomy.classes == 3
        return [rows_of(f"{case}, seed {seed}", "sigma", 0.25, "", "preset", 0.2)]

    recovery.main("", ["a", "b"], run, lambda cases, rows: f"{cases}: {len(rows)}", seeds=5)
    names = ["a, seed 0", "b, seed 0", "a, seed 1", "b, seed 1"]
    assert [row["case"] for row in json.loads(path.read_text())] == names
    printed = capsys.readouterr().out
    assert all(f"{name}: sigma 0.25" in printed for name in names)
    assert "['a', 'b']: 4" in printed
