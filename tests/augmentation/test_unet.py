import torch

from l2s_pydra.augmentation.unet import ResidualUNet


def test_starts_near_the_identity(sample):
    augmentation = ResidualUNet(sample.image.ndim - 2).double()
    residual = augmentation(sample) - sample.normalise(sample.image)
    assert 0 < float(residual.detach().abs().max()) < 0.2


def test_residual_uses_image_and_noise(sample):
    augmentation = ResidualUNet(sample.image.ndim - 2).double()
    both = augmentation(sample)
    for changed in (
        type(sample)(sample.image + 0.1, sample.groups, sample.seeds),
        type(sample)(sample.image, sample.groups, (8, 9)),
    ):
        difference = augmentation(changed) - both
        assert float(difference.detach().std()) > 0


def test_describes_the_residual_of_the_last_batch(sample):
    augmentation = ResidualUNet(sample.image.ndim - 2).double()
    assert augmentation.describe() == {"residual_std": 0.0}
    residual = (augmentation(sample) - sample.normalise(sample.image)) / 0.9
    expected = float(residual.detach().std())
    assert abs(augmentation.describe()["residual_std"] - expected) < 1e-12


def test_width_and_depth_count():
    """The sizes asked for are the sizes built."""
    small, wide, deep = (
        sum(p.numel() for p in ResidualUNet(2, *sizes).parameters())
        for sizes in ((8, 2), (16, 2), (8, 3))
    )
    assert 3.5 < wide / small < 4.5
    assert deep > 3 * small
    assert isinstance(ResidualUNet(3).unet.final, torch.nn.Conv3d)
