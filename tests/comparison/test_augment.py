import pytest
import torch

from simreg.comparison import Recipe
from simreg.comparison.augment import AugMix, EpochPlan, GaussianNoise, augmix_obstacle, crop_and_flip
from simreg.comparison.recipe import Draws, learning_rate

from .conftest import random_split


def plan(number=0, seed=0, **recipe):
    data = random_split(n=50)
    return EpochPlan(data, Recipe(batch_size=16, padding=2, **recipe), seed, number)


def test_epoch_shows_every_image_once_and_depends_on_seed_and_number_alone():
    epoch = plan()
    assert sorted(epoch.order.tolist()) == list(range(50))
    assert epoch.steps == 3
    assert torch.equal(epoch.batch(1).images, plan().batch(1).images)
    assert not torch.equal(epoch.order, plan(number=1).order)
    assert not torch.equal(epoch.order, plan(seed=1).order)
    draws = [plan(number=n).batch(p).draws for n in (0, 1) for p in range(3)]
    assert [d.step for d in draws] == list(range(6))


def test_batches_are_crops_of_their_images():
    epoch = plan(flip=False)
    batch = epoch.batch(0)
    first = epoch.data.images[epoch.order[0]].float() / 255
    padded = torch.nn.functional.pad(first[None], (2,) * 4, mode="reflect")[0]
    top, left = epoch.offsets[0].tolist()
    assert torch.equal(batch.images[0], padded[:, top : top + 12, left : left + 12])
    assert torch.equal(batch.labels, epoch.data.labels[epoch.order[:16]])


def test_half_of_the_images_are_mirrored_where_the_recipe_says_so():
    assert not plan(flip=False).flips.any()
    flips = plan(flip=True).flips
    assert 10 < int(flips.sum()) < 40
    image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    mirrored = crop_and_flip(image, torch.tensor([[0, 0]]), torch.tensor([True]), padding=0)
    assert torch.equal(mirrored, image.flip(3).float() / 255)


@pytest.mark.parametrize("n", [64, 7])
def test_gaussian_noise_hits_exactly_half_of_the_batch(n):
    images = torch.full((n, 1, 16, 16), 0.5)
    noisy = GaussianNoise(0.1)(torch.nn.Identity(), images, torch.zeros(n), Draws(0, 0))
    changed = (noisy != images).flatten(1).any(dim=1)
    assert int(changed.sum()) == n // 2
    assert float((noisy - images)[changed].std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(images, torch.full((n, 1, 16, 16), 0.5))  # the caller's images are not written to
    other = GaussianNoise(0.1)(torch.nn.Identity(), images, torch.zeros(n), Draws(0, 1))
    assert not torch.equal((other != images).flatten(1).any(dim=1), changed)


def test_gaussian_noise_stays_in_the_pixel_range_and_off_the_global_generator():
    state = torch.get_rng_state()
    noisy = GaussianNoise(2.0)(
        torch.nn.Identity(), torch.rand(8, 3, 8, 8, generator=torch.Generator()), torch.zeros(8), Draws(0, 0)
    )
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="sigma"):
        GaussianNoise(0.0)


needs_torchvision = pytest.mark.skipif(augmix_obstacle() is not None, reason="needs torchvision")


@needs_torchvision
@pytest.mark.parametrize("channels", [1, 3])
def test_augmix_is_reproducible_in_range_and_off_the_global_generator(channels):
    images = (torch.randint(0, 256, (10, channels, 32, 32), generator=torch.Generator().manual_seed(0)) / 255).float()
    augment, state = AugMix(group=4), torch.get_rng_state()
    one, same, other = (augment(torch.nn.Identity(), images, torch.zeros(10), Draws(0, step)) for step in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == images.shape
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert not torch.equal(one, images)


@needs_torchvision
def test_augmix_gives_the_images_of_a_batch_different_operations():
    """Ten copies of one image: all different, as mixing weights are each image's own; groups differ in operations."""
    image = torch.randint(0, 256, (1, 1, 16, 16), generator=torch.Generator().manual_seed(0)).float() / 255
    mixed = AugMix(group=2)(
        torch.nn.Identity(), image.expand(10, -1, -1, -1).contiguous(), torch.zeros(10), Draws(0, 0)
    )
    assert len({tuple(row.tolist()) for row in mixed.flatten(1)}) == 10


def test_augmix_without_torchvision_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    assert 'pip install "simreg[vision]"' in augmix_obstacle()
    with pytest.raises(ImportError, match="AugMix needs torchvision"):
        AugMix()


def test_learning_rate_goes_up_for_a_fifth_and_down_whatever_the_number_of_steps():
    for total in (50, 500):
        rates = [learning_rate(Recipe(), step, total) for step in range(total)]
        assert max(rates) == pytest.approx(0.1)
        assert rates.index(max(rates)) == total // 5
        assert rates[0] == pytest.approx(0.0002)
        assert rates[-1] < 0.1 * 3 / total


def test_steps_schedule_is_the_papers_at_forty_epochs():
    rates = [learning_rate(Recipe(schedule="steps"), epoch, 40) for epoch in range(40)]
    assert rates == pytest.approx([0.1 * 0.3 ** ((epoch % 20) // 4) for epoch in range(40)])


@pytest.mark.parametrize(
    "change", [{"schedule": "cosine"}, {"peak_rate": 0.0}, {"momentum": -1.0}, {"batch_size": 1}, {"padding": -1}]
)
def test_recipe_refuses_what_cannot_be(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Recipe(**change)
