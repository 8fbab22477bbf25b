import math

import numpy as np
import pytest
import torch

from simreg.comparison import EPSILON, METHODS, PARTS, parse_method, parse_methods
from simreg.comparison.augment import EpochPlan, augmix_obstacle
from simreg.comparison.methods import file_name

RUNNABLE = [name for name in METHODS if name != "simreg-neural" and ("augmix" not in name or augmix_obstacle() is None)]


def settings_text(method):
    """Small pools and few pairs for tiny data."""
    return method + (":pool_size=20:pairs=3" if method in ("simreg-paper", "simreg-joint") else "")


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_method_makes_a_step_and_moves_every_weight(make_site, name):
    site = make_site()
    trainer = parse_method(settings_text(name)).trainer(site)
    site.model.train()
    loss = trainer.loss(EpochPlan(site.data, site.recipe, 0, 0).batch(0))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in site.model.parameters())
    assert float(site.model.stem[0].weight.grad.abs().sum()) > 0
    trainer.objective.close()


@pytest.mark.parametrize("name", RUNNABLE)
def test_methods_leave_the_global_generator_alone(make_site, name):
    state = torch.get_rng_state()
    site = make_site()
    parse_method(settings_text(name)).trainer(site).loss(EpochPlan(site.data, site.recipe, 0, 0).batch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_all_methods_start_from_the_same_weights_and_images(make_site):
    weights, images = [], []
    for name in ("none", "simreg", "jacobian", "pgd-at"):
        site = make_site(seed=5)
        trainer = parse_method(name).trainer(site)
        weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        images.append(EpochPlan(site.data, site.recipe, site.seed, 1).batch(2).images)
    assert all(torch.equal(w[k], weights[0][k]) for w in weights for k in w)
    assert all(torch.equal(i, images[0]) for i in images)


def test_settings_follow_the_name_and_have_the_kind_of_the_default():
    method = parse_method("simreg+gaussian:sigma=0.05:alpha=3:target_clamp=0.9")
    assert method.parts == ("simreg", "gaussian")
    assert method.settings["sigma"] == 0.05
    assert method.settings["alpha"] == 3.0
    assert isinstance(method.settings["alpha"], float)
    assert method.settings["target_clamp"] == 0.9
    assert parse_method("pgd-at:steps=3:epsilon=4/255").settings == {"steps": 3, "epsilon": 4 / 255}
    assert parse_method("trades").settings["epsilon"] == EPSILON
    assert parse_method("trades", epsilon=0.1).settings["epsilon"] == 0.1


def test_only_settings_that_take_effect_are_recorded():
    assert "pairs" not in parse_method("simreg").settings
    assert "threshold" not in parse_method("simreg").settings
    paper = parse_method("simreg-paper").settings
    assert (paper["threshold"], paper["pairs"], paper["pool_size"], paper["batch_norm"]) == (0.8, 16, 5000, "official")
    assert (paper["alpha"], paper["target_clamp"], paper["layers"]) == (10.0, None, "auto")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gausian", "Did you mean 'gaussian'"),
        ("simreg+trades", "2 objectives, simreg and trades"),
        ("fgsm-rs+pgd-at", "2 attacks, fgsm-rs and pgd-at"),
        ("pgd-at+trades", "2 attacks, pgd-at and trades"),
        ("gaussian+gaussian", "names a part twice"),
        ("gaussian:sigm=0.1", "'sigm=0.1' is not a setting of it, given as name=value. It has: sigma"),
        ("none:sigma=1", "It has: none"),
        ("gaussian:sigma", "given as name=value"),
        ("gaussian:sigma=strong", "sigma must be float, got str 'strong'"),
        ("pgd-at:steps=2.5", "steps must be int"),
        ("simreg:pairs=8", "pairs has no effect with mode=same-batch"),
        ("simreg-paper:target=pixel:threshold=0.5", "threshold has no effect with mode=separate, target=pixel"),
        ("simreg:mode=jont", "mode='jont' is not one of"),
        ("simreg:target=neural", "images of their own"),
    ],
)
def test_mistakes_in_a_method_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        parse_method(text)


@pytest.mark.parametrize(("text", "words"), [("none,none", "none twice"), (" , ", "name at least one")])
def test_mistakes_in_a_list_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        parse_methods(text)


def test_parts_that_can_be_combined_share_no_setting():
    """Settings of a combination are one flat list."""
    groups = {
        role: {key for part in PARTS.values() if part.role == role and not part.adversarial for key in part.defaults}
        for role in ("input", "objective")
    }
    attacks = {key for part in PARTS.values() if part.adversarial and part.role == "input" for key in part.defaults}
    assert not groups["input"] & groups["objective"]
    assert not attacks & (groups["input"] | groups["objective"])


def test_settings_reach_the_regularizer(make_site):
    site = make_site()
    text = "simreg:target=threshold:threshold=0.3:alpha=2:target_clamp=0.7:layers=layer1/layer3"
    reg = parse_method(text).trainer(site).objective.regularizer
    assert (reg.alpha, reg.target_clamp, reg.target.threshold) == (2.0, 0.7, 0.3)
    assert (reg.layers, reg.pairing) == (["layer1", "layer3"], "all")
    mean = (site.data.images.float() / 255).mean(dim=(0, 1)).flatten()
    assert torch.allclose(reg.target.of.mean, mean, atol=1e-6)  # that of the training images, not of the batch
    assert parse_method("simreg-label").trainer(make_site()).objective.regularizer.target_clamp == 0.95


def test_settings_reach_pool_and_pairs(make_site):
    objective = parse_method("simreg-paper:pool_size=20:pairs=3").trainer(make_site()).objective
    assert len(objective.pool) == 20
    assert next(objective.batches).images.shape[0] == 6
    reg = objective.regularizer
    assert (reg.batch_norm, reg.pairing, reg.target_clamp, len(reg.layers)) == ("official", "pairs", None, 5)
    images = objective.pool.images
    assert torch.equal(images, parse_method("simreg-paper:pool_size=20").trainer(make_site()).objective.pool.images)
    other = parse_method("simreg-paper:pool_size=20").trainer(make_site(seed=1)).objective.pool.images
    assert not torch.equal(images, other)


def test_labels_and_file_names():
    method = parse_method("simreg+gaussian:sigma=0.05")
    assert method.label == "simreg, same batch + Gaussian noise (sigma=0.05)"
    assert len({file_name(name) for name in METHODS}) == len(METHODS)
    assert file_name("simreg-neural:responses=/a b/c.npz") == "simreg-neural_responses=_a_b_c.npz"


def test_every_part_says_what_it_does():
    for name, part in PARTS.items():
        assert part.label, name
        assert part.description.endswith("."), name


def test_neural_targets_need_a_file(tmp_path, make_site):
    assert "no neural responses were given" in parse_method("simreg-neural").obstacle
    assert "there is no file" in parse_method(f"simreg-neural:responses={tmp_path}/none.npz").obstacle
    g = np.random.default_rng(0)
    images, responses = g.integers(0, 256, (9, 20, 20), dtype=np.uint8), g.normal(size=(4, 9, 5))
    path = tmp_path / "scan.npz"
    np.savez(path, images=images, responses=responses)
    method = parse_method(f"simreg-neural:responses={path}:pairs=3")
    assert method.obstacle is None
    site = make_site()
    trainer = method.trainer(site)
    assert trainer.objective.pool.images.shape == (9, 1, 12, 12)  # the size and channels of the task
    assert math.isfinite(float(trainer.loss(EpochPlan(site.data, site.recipe, 0, 0).batch(0)).detach()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "images and responses"),
        ({"images": np.zeros((4, 8), np.uint8), "responses": np.zeros((4, 3))}, r"images must be \(N, H, W\)"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "responses": np.zeros((5, 3))}, "4 images, but responses to 5"),
        ({"images": np.full((4, 8, 8), 3.0), "responses": np.zeros((4, 3))}, "uint8 or in"),
    ],
)
def test_files_of_responses_that_do_not_fit_are_refused(tmp_path, make_site, content, words):
    path = tmp_path / "scan.npz"
    np.savez(path, **content)
    with pytest.raises(ValueError, match=words):
        parse_method(f"simreg-neural:responses={path}").trainer(make_site())


def test_neural_images_in_unit_floats_and_colour_are_taken(tmp_path):
    from simreg.comparison.similarity import load_responses

    path = tmp_path / "scan.npz"
    np.savez(path, images=np.full((4, 3, 8, 8), 0.5), responses=np.ones((4, 3)))
    for channels in (1, 3):
        images, responses = load_responses(path, channels=channels, size=8)
        assert images.shape == (4, channels, 8, 8)
        assert images.unique().tolist() == [128]
        assert responses.shape == (4, 3)
