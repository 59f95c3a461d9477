"""Scans and label maps on the training grid."""

import nibabel as nb
import numpy as np
import pytest
import torch

from l2s_pydra.normalisation import normalise
from l2s_pydra.steps.prepare import prepare
from l2s_pydra.steps.schemes import read_schemes


def test_own_maps_hold_the_labels_and_the_tissue_around(lobes):
    data, facts = prepare(**lobes.inputs(config=lobes.config(synthesis__oversampling=1)))
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


def test_only_groups_that_occur_are_kept(lobes):
    data, _ = prepare(**lobes.inputs())
    tables = data.synthesizer.labels
    used = torch.cat([tables.group[m.long()].unique() for m in data.synthesizer.label_maps])
    assert set(used.tolist()) == set(range(len(tables.group_names)))


def test_a_label_of_two_tissues_is_split(lobes):
    given = lobes.inputs(config=lobes.config(synthesis__oversampling=1))
    for i in range(2):
        image, labels = (nb.load(given[k][i]).get_fdata() for k in ("images", "labels"))
        darker = (labels == lobes.left) & (np.arange(lobes.shape[1]) % 4 < 2)[None, :, None]
        image[darker] = 60
        given["images"][i] = lobes.write(f"two{i}.nii.gz", image.astype(np.float32))
    data, _ = prepare(**given)
    tables, own = data.synthesizer.labels, data.synthesizer.label_maps[0].long()
    assert "Lobe (darker)" in tables.group_names
    split = tables.group[own] == tables.group_names.index("Lobe (darker)")
    left = tables.channel[own] == 1
    assert float(split[left].float().mean()) == pytest.approx(0.5, abs=0.1)
    assert not split[~left].any()
    bright, dark = (data.statistics[name][0] for name in ("Lobe", "Lobe (darker)"))
    assert (bright, dark) == pytest.approx((1.0, 0.4), abs=0.1)


def test_stripped_heads_lose_what_is_far_from_the_structures(lobes):
    real = lobes.table(*lobes.lines)
    maps = lobes.table(*lobes.lines, "24\tCSF", "165\tSkull", name="maps.tsv")
    mapping = lobes.table("index\tmapping", *(f"{i}\t{i}" for i in (lobes.left, lobes.right, lobes.stem)),
                    "24\t0", "165\t0", name="mapping.tsv")  # fmt: skip
    labels = lobes.head()
    labels[10:13, 12:15, 12:15] = 24
    labels[:2] = 165
    given = lobes.inputs(
        stripped=True,
        schemes=read_schemes(real, maps, mapping),
        label_maps=[lobes.write("full.nii.gz", labels)],
    )
    data, facts = prepare(**given)
    assert facts["skull_stripped"]
    assert not data.synthesizer.background_always
    assert facts["grid_shape"] == [24, 20, 20]
    present = data.synthesizer.label_maps[-1].unique().tolist()
    csf, skull = (given["schemes"].maps.channel(i) for i in (24, 165))
    assert csf in present
    assert skull not in present


def test_labels_of_learning_scans_are_split_by_intensity(lobes):
    """Two halves of different brightness in one label become two groups."""
    given = lobes.inputs(config=lobes.config(synthesis__oversampling=1, synthesis__subclusters=2))
    for path, labels in zip(given["images"], given["labels"], strict=True):
        image, left = nb.load(path), np.asarray(nb.load(labels).dataobj) == lobes.left
        data = image.get_fdata()
        data[left & (np.arange(data.shape[1])[None, :, None] % 2 == 0)] *= 0.5
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


def test_more_labels_than_a_byte_can_tell_apart(lobes):
    count = 140
    given = lobes.inputs(label_maps=[], config=lobes.config(synthesis__oversampling=1))
    rows = (f"{1000 + i}\tstructure {i}" for i in range(count))
    given["schemes"] = read_schemes(lobes.table("index\tname", *rows), None, None)
    labels = np.zeros(lobes.shape, np.int32)
    for i in range(3):
        labels[5:25, 5:25, 5:25] = 1000 + np.roll(np.arange(8000), i).reshape(20, 20, 20) % count
        given["labels"][i] = lobes.write(f"many{i}.nii.gz", labels)
    data, _ = prepare(**given)
    tables, own = data.synthesizer.labels, data.synthesizer.label_maps[0]
    assert len(tables.channel) > 256
    assert torch.equal(tables.channel[own.long()], data.learn[0].fine_channels.long())
    assert data.learn[0].fine_channels.unique().tolist() == list(range(count + 1))
    sample = data.synthesizer.render([data.synthesizer.draw(0, label_map=0)])
    assert sample.image.isfinite().all()


def test_scans_on_their_own_grid_are_left_as_they_are(lobes):
    given = lobes.inputs(config=lobes.config(synthesis__oversampling=1))
    data, facts = prepare(**given)
    shape = facts["grid_shape"]
    # Structures of 18 x 12 x 14 voxels, 32 mm of margin on both sides, multiples of four.
    assert shape == [52, 44, 48]
    scan = data.learn[0]
    assert (scan.name, tuple(scan.image.shape)) == ("sub-1", tuple(shape))
    labels, image = lobes.head(), nb.load(given["images"][0]).get_fdata()
    # The middle of the structures is that of the grid, here to half a voxel.
    found = scan.fine_channels.numpy()
    where, source = np.argwhere(found > 0).min(0), np.argwhere(labels > 0).min(0)
    extent = (18, 12, 14)
    box = tuple(slice(a, a + n) for a, n in zip(where, extent, strict=True))
    from_box = tuple(slice(a, a + n) for a, n in zip(source, extent, strict=True))
    lookup = {0: 0, lobes.left: 1, lobes.stem: 2, lobes.right: 3}
    np.testing.assert_array_equal(found[box], np.vectorize(lookup.get)(labels[from_box]))
    assert np.count_nonzero(found) == np.count_nonzero(labels)
    if all(n % 2 == s % 2 for n, s in zip(extent, shape, strict=True)):
        np.testing.assert_allclose(scan.image.numpy()[box], image[from_box], rtol=1e-5)
    assert torch.equal(scan.target, scan.fine_channels)


def test_volumes_are_kept(lobes):
    given = lobes.inputs(config=lobes.config(spacing_mm=1.7))
    data, _ = prepare(**given)
    labels = lobes.head()
    # Lobes are 16 mm wide, and labels are sampled every 0.85 mm.
    for channel, index in ((1, lobes.left), (3, lobes.right)):
        volume = float(data.learn[0].target[channel].sum()) * 1.7**3
        assert volume == pytest.approx(
            np.count_nonzero(labels == index) * lobes.spacing**3, rel=0.08
        )


@pytest.mark.parametrize("codes", ["LAS", "SPR", "PIL"])
def test_storage_order_does_not_matter(lobes, codes):
    one, facts = prepare(**lobes.inputs())
    two, other = prepare(**lobes.inputs(codes=codes))
    assert facts == other
    for a, b in zip((*one.learn, *one.validate), (*two.learn, *two.validate), strict=True):
        assert torch.equal(a.fine_channels, b.fine_channels)
        torch.testing.assert_close(a.image, b.image, rtol=1e-4, atol=1e-3)
    for a, b in zip(one.synthesizer.label_maps, two.synthesizer.label_maps, strict=True):
        assert torch.equal(a, b)


def test_left_is_where_the_first_index_is_low(lobes):
    data, _ = prepare(**lobes.inputs(codes="LPS"))
    left, right = data.learn[0].target[1], data.learn[0].target[3]
    middle = left.shape[0] // 2
    assert float(left[:middle].sum()) > 0.9 * float(left.sum()) > 0
    assert float(right[middle:].sum()) > 0.9 * float(right.sum()) > 0


def test_an_offset_of_the_intensities_does_not_matter(lobes):
    given = lobes.inputs()
    one, _ = prepare(**given)
    for i, path in enumerate(given["images"]):
        data = nb.load(path).get_fdata(dtype=np.float32)
        given["images"][i] = lobes.write(f"shifted{i}.nii.gz", data - 1000)
    two, _ = prepare(**given)
    # Float32 at 1000 is right to 6e-5.
    torch.testing.assert_close(one.learn[0].image, two.learn[0].image, rtol=0, atol=2e-3)
