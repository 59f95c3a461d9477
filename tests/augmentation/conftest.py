"""A synthetic batch in float64 with all that an augmentation may use."""

import attrs
import pytest
import torch
from torch.nn import functional

GROUPS = ("outside", "thalamus", "cortex", "white-matter")


@attrs.frozen
class FakeSample:
    """As the generator's sample: two images, fine grid twice the working one."""

    image: torch.Tensor
    groups: torch.Tensor
    seeds: tuple[int, ...]

    def noise(self, *, fine=False):
        shape = self.groups.shape[1:] if fine else self.image.shape[2:]
        drawn = [
            torch.randn(shape, generator=torch.Generator().manual_seed(10 * seed + fine))
            for seed in self.seeds
        ]
        return torch.stack(drawn)[:, None].to(self.image.dtype)

    def finish(self, fine):
        pool = functional.avg_pool2d if fine.ndim == 4 else functional.avg_pool3d
        return pool(fine, 2)

    def normalise(self, image):
        """A fixed affine map: as the real one is to differentiation."""
        return 0.9 * image + 0.05


def blobs(size, seed, count=4):
    """Smooth random shapes: (*size,) int64, all values present."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(1, 1, *size, generator=generator, dtype=torch.float64)
    pool = functional.avg_pool2d if len(size) == 2 else functional.avg_pool3d
    for _ in range(3):
        field = pool(field, 3, stride=1, padding=1)
    edges = torch.quantile(field.flatten(), torch.linspace(0, 1, count + 1)[1:-1].double())
    return torch.bucketize(field[0, 0], edges)


def make_sample(ndim, seeds=(3, 4), size=None, dtype=torch.float64):
    size = size or ((12, 16) if ndim == 2 else (8, 6, 10))
    groups = torch.stack([blobs([2 * n for n in size], seed) for seed in seeds])
    sample = FakeSample(torch.empty(0), groups.to(torch.uint8), tuple(seeds))
    means = torch.tensor([0.0, 0.5, 0.3, 0.9], dtype=dtype)
    return attrs.evolve(sample, image=sample.finish(means[groups][:, None]))


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def sample(request):
    return make_sample(request.param)


@pytest.fixture
def own(own_augmentation, monkeypatch):
    """Let the augmentation of the documentation, in a file of its own, be imported."""
    monkeypatch.syspath_prepend(own_augmentation)


@pytest.fixture
def group_names():
    return GROUPS


@pytest.fixture
def new_sample():
    """The maker itself, for tests that need other seeds or sizes."""
    return make_sample
