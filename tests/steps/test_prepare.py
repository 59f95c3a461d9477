"""From files to the training grid."""

import logging

import nibabel as nb
import numpy as np
import pytest
import torch

from l2s_pydra import bids_examples
from l2s_pydra.config import LearnConfig
from l2s_pydra.errors import DatasetError, GridMismatchError, ImageError, LabelError
from l2s_pydra.normalisation import normalise
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.schemes import read_schemes
from l2s_pydra.synthesis.intensity import soft_labels

LEFT, RIGHT, STEM = 10, 49, 16
TABLE = ("index\tname", f"{LEFT}\tLeft-Lobe", f"{RIGHT}\tRight-Lobe", f"{STEM}\tStem")
VALUES = {0: 60.0, LEFT: 150.0, RIGHT: 150.0, STEM: 100.0}
SHAPE, SPACING = (30, 28, 26), 2.0


def affine_of(spacing=SPACING):
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -30, -20, 11
    return affine


def head(shift=0):
    """Labels of two lobes with a stem between them, left where the first index is low."""
    labels = np.zeros(SHAPE, np.int16)
    labels[6:14, 8:20, 8:18] = LEFT
    labels[16:24, 8:20, 8:18] = RIGHT
    labels[14:16, 8:20, 4:18] = STEM
    return np.roll(labels, shift, 1)


def picture(labels, *, stripped=False, seed=0):
    rng = np.random.default_rng(seed)
    image = np.vectorize(VALUES.get)(labels) + rng.normal(0, 4, labels.shape)
    around = np.zeros(SHAPE, bool)
    around[3:27, 4:24, 2:22] = True
    image[~around] = 0
    if stripped:
        image[labels == 0] = 0
    return image.clip(0).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """Write a volume, stored along any axes; return its path."""

    def write(name, data, affine=None, codes="RAS"):
        image = nb.Nifti1Image(data, affine_of() if affine is None else affine)
        start, end = nb.io_orientation(image.affine), nb.orientations.axcodes2ornt(codes)
        image = image.as_reoriented(nb.orientations.ornt_transform(start, end))
        image.to_filename(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def table(tmp_path):
    def table(*lines, name="dseg.tsv"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return table


@pytest.fixture
def inputs(write, table):
    """Make two learning scans and one to validate on, with one label map more."""

    def inputs(*, stripped=False, codes="RAS", **changes):
        labels = [head(shift) for shift in (0, 1, -1)]
        pictures = [picture(x, stripped=stripped, seed=i) for i, x in enumerate(labels)]
        path = table(*TABLE)
        return {
            "images": [write(f"im{i}.nii.gz", p, codes=codes) for i, p in enumerate(pictures)],
            "labels": [write(f"lab{i}.nii.gz", x, codes=codes) for i, x in enumerate(labels)],
            "names": ["sub-1", "sub-2", "sub-3"],
            "roles": ["learn", "learn", "validate"],
            "label_maps": [write("map.nii.gz", head(2), codes=codes)],
            "schemes": read_schemes(path, None, None),
            "config": config(),
            **changes,
        }

    return inputs


def config(**changes):
    # Three levels: the sides of the grid are multiples of four.
    return LearnConfig().evolve(**{"spacing_mm": SPACING, "segmenter__depth": 3, **changes})


def message_of(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- schemes


def test_one_table_is_its_own_target(table):
    schemes = read_schemes(table(*TABLE), None, None)
    assert schemes.target == schemes.real == schemes.maps
    assert schemes.real_to_target.tolist() == schemes.maps_to_target.tolist() == [0, 1, 2, 3]
    assert schemes.generation_tables()["group_names"] == (
        "outside", "Lobe", "Stem", "unlabelled", "Lobe (darker)", "Stem (darker)"
    )  # fmt: skip


def test_tables_of_the_phantom():
    derivatives = bids_examples.path("phantom") / "derivatives"
    schemes = read_schemes(
        derivatives / "reference" / "desc-tissue_dseg.tsv",
        derivatives / "labelmaps" / "desc-head_dseg.tsv",
        None,
    )
    assert schemes.maps.indices == (0, 2, 3, 4, 12, 24, 41, 42, 43, 51, 165, 258)
    assert schemes.maps_to_target.tolist() == [0, 3, 2, 1, 4, 1, 3, 2, 1, 5, 0, 0]
    tables = schemes.generation_tables()
    names = tables["group_names"]
    groups = [names[group] for group in tables["group"]]
    # Structures are drawn as those of the learning participants, background tissue on its own.
    assert groups[:12] == [
        "outside", "White-Matter", "Gray-Matter", "CSF", "Putamen", "CSF", "White-Matter",
        "Gray-Matter", "CSF", "Putamen", "Skull", "Head-ExtraCerebral",
    ]  # fmt: skip
    target = ["CSF", "Gray-Matter", "White-Matter", "Putamen", "Putamen"]
    assert groups[12:18] == ["unlabelled", *target]
    assert groups[18:] == ["unlabelled", *(f"{name} (darker)" for name in target)]
    assert tables["channel"][12:] == [0, 1, 2, 3, 4, 5] * 2
    assert names[0] == "outside"
    assert tables["group"][0] == 0


def test_the_other_side_is_of_one_group_and_of_the_opposite_class(table):
    real = table(*TABLE)
    maps = table("index\tname", "1\tLeft-Lobe", "2\tRight-Lobe", "3\tStem", "4\tSkull",
                 name="maps.tsv")  # fmt: skip
    mapping = table("index\tmapping", "1\t10", "2\t49", "3\t16", "4\t0", name="map.tsv")
    schemes = read_schemes(real, maps, mapping)
    tables = {k: np.array(v) for k, v in schemes.generation_tables().items() if k != "group_names"}
    swap, opposite = tables["swap"], np.array(schemes.target.opposite)
    assert (tables["group"][swap] == tables["group"]).all()
    assert (tables["channel"][swap] == opposite[tables["channel"]]).all()
    assert (swap[swap] == np.arange(len(swap))).all()
    assert not (swap == np.arange(len(swap))).all()


def test_a_full_mapping_column_makes_a_new_target(table):
    real = table(
        "index\tname\tmapping",
        *("10\tLeft-Thalamus\t1", "11\tLeft-Caudate\t1", "49\tRight-Thalamus\t2"),
        *("50\tRight-Caudate\t2", "16\tStem\t3", "99\tSkull\t0"),
    )
    schemes = read_schemes(real, None, None)
    assert schemes.target.indices == (0, 1, 2, 3)
    assert schemes.target.names[3] == "Stem"
    assert schemes.target.opposite == (0, 2, 1, 3)
    assert dict(zip(schemes.real.indices, schemes.real_to_target.tolist(), strict=True)) == {
        0: 0, 10: 1, 11: 1, 16: 3, 49: 2, 50: 2, 99: 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("index\tname\tmapping", "1\ta\t1", "2\tb\tn/a"), r"label 2 \(b\) has no value"),
        (("index\tname\tmapping", "1\ta\t0", "2\tb\t0"), "no label beside the background"),
        (("index\tname", "0\tbackground"), "no label beside the background"),
    ],
)
def test_a_broken_table_is_named(table, lines, said):
    path = table(*lines)
    with pytest.raises(LabelError, match=said) as error:
        read_schemes(path, None, None)
    assert message_of(error).startswith(f"{path}: ")


def test_a_label_of_the_maps_without_a_counterpart(table):
    real = table(*TABLE)
    maps = table("index\tname", "1\tLeft-Lobe", "5\tCyst", name="maps.tsv")
    with pytest.raises(LabelError, match=r"label 5 \(Cyst\) has no counterpart") as error:
        read_schemes(real, maps, None)
    assert message_of(error).startswith(f"{maps}: ")


# ---------------------------------------------------------------- scans


def test_scans_on_their_own_grid_are_left_as_they_are(inputs):
    given = inputs(config=config(synthesis__oversampling=1))
    data, facts = prepare(**given)
    shape = facts["grid_shape"]
    # Structures of 18 x 12 x 14 voxels, 32 mm of margin on both sides, multiples of four.
    assert shape == [52, 44, 48]
    scan = data.learn[0]
    assert (scan.name, tuple(scan.image.shape)) == ("sub-1", tuple(shape))
    labels, image = head(), nb.load(given["images"][0]).get_fdata()
    # The middle of the structures is that of the grid, here to half a voxel.
    found = scan.fine_channels.numpy()
    where, source = np.argwhere(found > 0).min(0), np.argwhere(labels > 0).min(0)
    extent = (18, 12, 14)
    box = tuple(slice(a, a + n) for a, n in zip(where, extent, strict=True))
    from_box = tuple(slice(a, a + n) for a, n in zip(source, extent, strict=True))
    lookup = {0: 0, LEFT: 1, STEM: 2, RIGHT: 3}
    np.testing.assert_array_equal(found[box], np.vectorize(lookup.get)(labels[from_box]))
    assert np.count_nonzero(found) == np.count_nonzero(labels)
    if all(n % 2 == s % 2 for n, s in zip(extent, shape, strict=True)):
        np.testing.assert_allclose(scan.image.numpy()[box], image[from_box], rtol=1e-5)
    assert torch.equal(scan.target, scan.fine_channels)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shapes(inputs, ndim):
    given = inputs(config=config(segmenter__ndim=ndim))
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


def test_volumes_are_kept(inputs):
    given = inputs(config=config(spacing_mm=1.7))
    data, _ = prepare(**given)
    labels = head()
    # Lobes are 16 mm wide, and labels are sampled every 0.85 mm.
    for channel, index in ((1, LEFT), (3, RIGHT)):
        volume = float(data.learn[0].target[channel].sum()) * 1.7**3
        assert volume == pytest.approx(np.count_nonzero(labels == index) * SPACING**3, rel=0.08)


@pytest.mark.parametrize("codes", ["LAS", "SPR", "PIL"])
def test_storage_order_does_not_matter(inputs, codes):
    one, facts = prepare(**inputs())
    two, other = prepare(**inputs(codes=codes))
    assert facts == other
    for a, b in zip((*one.learn, *one.validate), (*two.learn, *two.validate), strict=True):
        assert torch.equal(a.fine_channels, b.fine_channels)
        torch.testing.assert_close(a.image, b.image, rtol=1e-4, atol=1e-3)
    for a, b in zip(one.synthesizer.label_maps, two.synthesizer.label_maps, strict=True):
        assert torch.equal(a, b)


def test_left_is_where_the_first_index_is_low(inputs):
    data, _ = prepare(**inputs(codes="LPS"))
    left, right = data.learn[0].target[1], data.learn[0].target[3]
    middle = left.shape[0] // 2
    assert float(left[:middle].sum()) > 0.9 * float(left.sum()) > 0
    assert float(right[middle:].sum()) > 0.9 * float(right.sum()) > 0


def test_an_offset_of_the_intensities_does_not_matter(inputs, write):
    given = inputs()
    one, _ = prepare(**given)
    for i, path in enumerate(given["images"]):
        data = nb.load(path).get_fdata(dtype=np.float32)
        given["images"][i] = write(f"shifted{i}.nii.gz", data - 1000)
    two, _ = prepare(**given)
    # Float32 at 1000 is right to 6e-5.
    torch.testing.assert_close(one.learn[0].image, two.learn[0].image, rtol=0, atol=2e-3)


def test_statistics_are_those_of_the_scans(inputs):
    data, facts = prepare(**inputs(config=config(synthesis__oversampling=1)))
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


# ---------------------------------------------------------------- label maps


def test_own_maps_hold_the_labels_and_the_tissue_around(inputs):
    data, facts = prepare(**inputs(config=config(synthesis__oversampling=1)))
    assert not facts["skull_stripped"]
    assert data.synthesizer.background_always
    tables = data.synthesizer.labels
    scan, own = data.learn[0], data.synthesizer.label_maps[0].long()
    assert torch.equal(tables.channel[own], scan.fine_channels.long())
    groups = [tables.group_names[g] for g in tables.group[own].unique().tolist()]
    assert set(groups) == {"outside", "Lobe", "Stem", "unlabelled"}
    unlabelled = tables.group[own] == tables.group_names.index("unlabelled")
    image = normalise(scan.fine_image[None, None])[0, 0]
    outside = tables.group[own] == 0
    assert float(image[unlabelled].min()) >= float(image[outside].max()) - 1e-3


def test_only_groups_that_occur_are_kept(inputs):
    data, _ = prepare(**inputs())
    tables = data.synthesizer.labels
    used = torch.cat([tables.group[m.long()].unique() for m in data.synthesizer.label_maps])
    assert set(used.tolist()) == set(range(len(tables.group_names)))


def test_a_label_of_two_tissues_is_split(inputs, write):
    given = inputs(config=config(synthesis__oversampling=1))
    for i in range(2):
        image, labels = (nb.load(given[k][i]).get_fdata() for k in ("images", "labels"))
        darker = (labels == LEFT) & (np.arange(SHAPE[1]) % 4 < 2)[None, :, None]
        image[darker] = 60
        given["images"][i] = write(f"two{i}.nii.gz", image.astype(np.float32))
    data, _ = prepare(**given)
    tables, own = data.synthesizer.labels, data.synthesizer.label_maps[0].long()
    assert "Lobe (darker)" in tables.group_names
    split = tables.group[own] == tables.group_names.index("Lobe (darker)")
    left = tables.channel[own] == 1
    assert float(split[left].float().mean()) == pytest.approx(0.5, abs=0.1)
    assert not split[~left].any()
    bright, dark = (data.statistics[name][0] for name in ("Lobe", "Lobe (darker)"))
    assert (bright, dark) == pytest.approx((1.0, 0.4), abs=0.1)


def test_stripped_heads_lose_what_is_far_from_the_structures(inputs, table, write):
    real = table(*TABLE)
    maps = table(*TABLE, "24\tCSF", "165\tSkull", name="maps.tsv")
    mapping = table("index\tmapping", *(f"{i}\t{i}" for i in (LEFT, RIGHT, STEM)),
                    "24\t0", "165\t0", name="mapping.tsv")  # fmt: skip
    labels = head()
    labels[10:13, 12:15, 12:15] = 24
    labels[:2] = 165
    given = inputs(
        stripped=True,
        schemes=read_schemes(real, maps, mapping),
        label_maps=[write("full.nii.gz", labels)],
    )
    data, facts = prepare(**given)
    assert facts["skull_stripped"]
    assert not data.synthesizer.background_always
    assert facts["grid_shape"] == [24, 20, 20]
    present = data.synthesizer.label_maps[-1].unique().tolist()
    csf, skull = (given["schemes"].maps.channel(i) for i in (24, 165))
    assert csf in present
    assert skull not in present


@pytest.mark.parametrize("ndim", [2, 3])
def test_small_structures_can_be_learned(inputs, write, table, ndim):
    """A structure of a few voxels, of which a coarse look sees nothing."""
    given = inputs(config=config(segmenter__ndim=ndim), label_maps=[])
    given["schemes"] = read_schemes(table("index\tname", "7\tspot"), None, None)
    for i in range(3):
        labels = np.zeros(SHAPE, np.int16)
        labels[13:15, 13:15, 13:15] = 7
        labels[::2, ::2, ::2] = 0
        labels = np.roll(labels, i, 1)
        given["labels"][i] = write(f"spot{i}.nii.gz", labels)
    data, _ = prepare(**given)
    assert data.learn
    assert data.synthesizer.label_maps
    assert sum(float(scan.target[1].sum()) for scan in data.learn) > 0
    assert data.own


def test_slices_hold_structures(inputs):
    data, facts = prepare(**inputs(config=config(segmenter__ndim=2)))
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


def test_more_labels_than_a_byte_can_tell_apart(inputs, write, table):
    count = 140
    given = inputs(label_maps=[], config=config(synthesis__oversampling=1))
    rows = (f"{1000 + i}\tstructure {i}" for i in range(count))
    given["schemes"] = read_schemes(table("index\tname", *rows), None, None)
    labels = np.zeros(SHAPE, np.int32)
    for i in range(3):
        labels[5:25, 5:25, 5:25] = 1000 + np.roll(np.arange(8000), i).reshape(20, 20, 20) % count
        given["labels"][i] = write(f"many{i}.nii.gz", labels)
    data, _ = prepare(**given)
    tables, own = data.synthesizer.labels, data.synthesizer.label_maps[0]
    assert len(tables.channel) > 256
    assert torch.equal(tables.channel[own.long()], data.learn[0].fine_channels.long())
    assert data.learn[0].fine_channels.unique().tolist() == list(range(count + 1))
    sample = data.synthesizer.render([data.synthesizer.draw(0, label_map=0)])
    assert sample.image.isfinite().all()


def test_no_mirroring_where_a_side_has_no_partner(inputs, table, caplog):
    given = inputs(schemes=read_schemes(
        table("index\tname", f"{LEFT}\tLeft-Lobe", f"{RIGHT}\tother", f"{STEM}\tStem"), None, None
    ))  # fmt: skip
    with caplog.at_level(logging.WARNING):
        data, _ = prepare(**given)
    assert "one side only" in caplog.text
    assert not any(data.synthesizer.draw(seed).flip for seed in range(20))
    caplog.clear()
    data, _ = prepare(**inputs())
    assert not caplog.text
    assert any(data.synthesizer.draw(seed).flip for seed in range(20))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(("role", "said"), [("learn", "learn from"), ("validate", "validate on")])
def test_both_roles_are_needed(inputs, role, said):
    with pytest.raises(DatasetError, match=f"no labelled image to {said}; .* participants.tsv"):
        prepare(**inputs(roles=["validate" if role == "learn" else "learn"] * 3))


def test_an_unknown_label_is_named(inputs, write):
    given = inputs()
    labels = head()
    labels[10, 10, 10] = 77
    given["labels"][1] = write("odd.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) 77 not in the label table") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][1]}: ")


def test_an_unknown_label_of_a_map_is_named(inputs, write):
    labels = head()
    labels[10, 10, 10] = -3
    path = write("oddmap.nii.gz", labels)
    with pytest.raises(LabelError, match=r"label\(s\) -3 not in the label table") as error:
        prepare(**inputs(label_maps=[path]))
    assert message_of(error).startswith(f"{path}: ")


def test_another_grid_is_named(inputs, write):
    given = inputs()
    moved = affine_of()
    moved[0, 3] += 0.5
    given["labels"][0] = write("moved.nii.gz", head(), moved)
    with pytest.raises(GridMismatchError) as error:
        prepare(**given)
    message = message_of(error)
    assert str(given["labels"][0]) in message
    assert str(given["images"][0]) in message


def test_labels_without_structures_are_named(inputs, write, table):
    given = inputs()
    labels = np.where(head() > 0, 99, 0).astype(np.int16)
    given["labels"][2] = write("none.nii.gz", labels)
    rows = (f"{LEFT}\ta\t1", f"{RIGHT}\tb\t1", f"{STEM}\tc\t2", "99\tcyst\t0")
    given["schemes"] = read_schemes(table("index\tname\tmapping", *rows), None, None)
    with pytest.raises(DatasetError, match="none of the structures") as error:
        prepare(**given)
    assert message_of(error).startswith(f"{given['labels'][2]}: ")


def test_all_bad_files_are_listed(inputs, write, tmp_path):
    given = inputs()
    cut = given["images"][0]
    cut.write_bytes(cut.read_bytes()[:300])
    given["labels"][1] = tmp_path / "missing.nii.gz"
    odd = np.full(SHAPE, 5, np.int16)  # a value that the table does not list
    odd[0] = 0
    given["label_maps"].append(write("odd.nii.gz", odd))
    with pytest.raises(DatasetError, match=r"^3 files cannot be used: ") as error:
        prepare(**given)
    message = message_of(error)
    for path in (cut, given["labels"][1], given["label_maps"][1]):
        assert str(path) in message
    # One bad file keeps the kind of its error.
    given = inputs()
    given["images"][0].write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        prepare(**given)


def test_progress_is_told(inputs):
    told = []
    prepare(**inputs(), progress=lambda *args: told.append(args))
    assert [args[1:] for args in told] == [(i, 4) for i in range(1, 5)]
    assert {args[0] for args in told} == {"reading images", "reading label maps"}


def test_labels_of_learning_scans_are_split_by_intensity(inputs):
    """Two halves of different brightness in one label become two groups."""
    given = inputs(config=config(synthesis__oversampling=1, synthesis__subclusters=2))
    for path, labels in zip(given["images"], given["labels"], strict=True):
        image, lobes = nb.load(path), np.asarray(nb.load(labels).dataobj) == LEFT
        data = image.get_fdata()
        data[lobes & (np.arange(data.shape[1])[None, :, None] % 2 == 0)] *= 0.5
        nb.save(nb.Nifti1Image(data.astype(np.float32), image.affine), path)
    data, _ = prepare(**given)
    names = data.synthesizer.labels.group_names
    assert "Lobe (2)" in names
    assert "Lobe (darker)" not in names
    dark, bright = data.statistics["Lobe"][0], data.statistics["Lobe (2)"][0]
    assert bright > 1.2 * dark
    tables = data.synthesizer.labels
    both = [i for i, g in enumerate(tables.group.tolist()) if names[g] in ("Lobe", "Lobe (2)")]
    assert {int(tables.channel[i]) for i in both} == {1, 3}
    # Mirrored, a cluster is that of the other side.
    for i in both:
        assert names[int(tables.group[int(tables.swap[i])])] == names[int(tables.group[i])]
