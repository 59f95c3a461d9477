"""A batch of images: what follows the mixture, and the noise of each image."""

import attrs
import numpy as np
import pytest
import torch

from l2s_pydra.synthesis.intensity import pool
from l2s_pydra.synthesis.sample import acquire, add_noise

SIZES = [(32, 40), (24, 28, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_is_its_images_one_by_one(make, size):
    synthesizer = make(size, maps=2)
    draws = [synthesizer.draw(seed) for seed in (4, 5, 6)]
    batch = synthesizer.render(draws)
    fine = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    for i, draw in enumerate(draws):
        alone = synthesizer.render([draw])
        for name in ("image", "target", "groups"):
            assert torch.equal(getattr(alone, name)[0], getattr(batch, name)[i]), name
        for kind in (True, False):
            assert torch.equal(alone.noise(fine=kind)[0], batch.noise(fine=kind)[i])
        assert torch.equal(alone.finish(fine[i : i + 1])[0], batch.finish(fine)[i])


@pytest.mark.parametrize("size", SIZES)
def test_outside_is_black_before_noise(make, still, sharp, size):
    settings = {**still, **sharp, "noise_std": 0}
    synthesizer = make(size, **settings)
    for seed in range(5):
        sample = synthesizer.render([synthesizer.draw(seed)])
        empty = pool((sample.groups[:, None] == 0).float(), 2) == 1
        assert empty.any()
        fine = torch.rand(sample.groups.shape)[:, None] * (sample.groups[:, None] > 0)
        # To rounding in the powers of gamma.
        assert float(sample.finish(fine)[empty].abs().max()) < 1e-7
        assert float(sample.image[empty].max()) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_finish_follows_the_draw_and_is_differentiable(make, size):
    synthesizer = make(size, resolution_share=1.0, motion_share=1.0, ghost_share=1.0)
    draw = synthesizer.draw(11)
    sample = synthesizer.render([draw])
    fine = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    finished = sample.finish(fine)
    assert finished.shape == sample.image.shape
    (slope,) = torch.autograd.grad(finished.sum(), fine)
    assert slope.isfinite().all()
    assert (slope != 0).any()
    neutral = attrs.evolve(
        draw,
        gamma=(1.0,),
        log_bias=torch.zeros_like(draw.log_bias),
        ghosts=(0, 1, 0.0),
        movements=draw.movements[:0],
        spacing=(1.0,) * len(size),
        thickness=(1.0,) * len(size),
    )
    plain = attrs.evolve(sample, draws=(neutral,))
    torch.testing.assert_close(plain.finish(fine), pool(fine, 2))


def test_noise_depends_on_seed_and_stream_only(make):
    synthesizer = make()
    one = synthesizer.render([synthesizer.draw(3), synthesizer.draw(4)])
    two = synthesizer.render([attrs.evolve(synthesizer.draw(9), seed=4)])
    assert torch.equal(one.noise()[1], two.noise()[0])
    assert not torch.equal(one.noise()[0], one.noise()[1])
    assert not torch.equal(one.noise(), one.noise(stream=1))
    assert one.noise().shape == one.image.shape
    assert one.noise(fine=True).shape == (2, 1, *synthesizer.shape)
    # Independent of the noise in the image: no seed is used twice.
    fine = one.noise(fine=True).flatten()
    assert abs(float(fine.mean())) < 5 / len(fine) ** 0.5
    assert float(fine.std()) == pytest.approx(1, abs=5 / (2 * len(fine)) ** 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_stripped_heads_are_silent_outside(make, still, sharp, size):
    settings = {**still, **sharp, "noise_std": 0.2, "rician_share": 0}
    stripped = make(size, background_always=False, **settings)
    whole = make(size, background_always=True, **settings)
    draw = attrs.evolve(stripped.draw(2), noise_std=(0.2,))
    silent, loud = stripped.render([draw]), whole.render([draw])
    outside = pool((silent.groups == 0)[:, None].float(), 2) == 1
    assert not silent.noise()[outside].any()
    assert float(silent.image[outside].std()) < 1e-6
    assert len(loud.image[outside].unique()) > 100
    # Inside, the noise is the same.
    assert torch.equal(silent.noise()[~outside], loud.noise()[~outside])
    assert torch.equal(silent.noise(fine=True), loud.noise(fine=True))


def test_rician_noise_is_never_negative_and_lifts_the_dark(make, still, sharp):
    synthesizer = make((96, 96), **{**still, **sharp}, noise_std=0.1, oversampling=1)
    draw = attrs.evolve(synthesizer.draw(0), noise_std=(0.1,), means=torch.zeros(1, 4),
                        stds=torch.zeros(1, 4), gamma=(1.0,),
                        log_bias=torch.zeros_like(synthesizer.draw(0).log_bias))  # fmt: skip
    signal = torch.zeros(1, 96, 96)
    magnitude = add_noise(signal, attrs.evolve(draw, rician=True))
    # Rayleigh: mean sigma sqrt(pi / 2).
    assert float(magnitude.min()) >= 0
    assert float(magnitude.mean()) == pytest.approx(0.1 * (np.pi / 2) ** 0.5, rel=0.02)
    gaussian = add_noise(signal, attrs.evolve(draw, rician=False))
    assert float(gaussian.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(gaussian.mean())) < 5 * 0.1 / 96


def test_noise_is_added_at_the_resolution_of_the_acquisition(make, plain):
    """Along thick slices noise is as smooth as linear interpolation makes it, across it is white."""
    synthesizer = make((96, 96), **plain, oversampling=1)
    draw = attrs.evolve(
        synthesizer.draw(0),
        noise_std=(0.1,),
        rician=False,
        spacing=(4.0, 1.0),
        thickness=(4.0, 1.0),
    )
    image = acquire(torch.zeros(1, 96, 96), draw, None)[0]

    def correlation(axis):
        a, b = image.narrow(axis, 0, 95), image.narrow(axis, 1, 95)
        return float((a * b).mean() / image.square().mean())

    assert correlation(0) > 0.8
    assert abs(correlation(1)) < 0.1


def test_stripped_real_images_are_black_outside_whatever_their_gamma(make, still):
    """What resampling leaves outside a head is not lifted into view, nor is noise added there."""
    synthesizer = make((32, 32), background_always=False, **still, resolution_share=0)
    tissue = synthesizer.label_maps[0] > 0
    image = torch.where(tissue, 0.8, 0.01)
    draw = attrs.evolve(synthesizer.draw(3), gamma=(0.3,), noise_std=(0.1,))
    made, _ = synthesizer.augment(image, tissue.long(), draw, opposite=(0, 1, 2, 3))
    share = pool(tissue[None, None].float(), 2)[0, 0]
    assert not made[share == 0].any()
    assert float(made[share == 1].mean()) > 0.3
