import pytest
import torch
from torch import nn
from torch.nn import functional as F

import simreg
from simreg.comparison.objectives import JacobianObjective, Objective, SimilarityObjective, jacobian_norm, same_class
from simreg.comparison.recipe import Batch, Draws, normalise


@pytest.fixture
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


@pytest.fixture
def batch():
    return Batch(torch.rand(7, 1, 2, 3, generator=torch.Generator().manual_seed(1)), torch.arange(7) % 4, Draws(0, 0))


def full_norms(model, inputs):
    """Squared Frobenius norm of each image's Jacobian, from autograd's full one."""
    return torch.stack([
        torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x).square().sum() for x in inputs
    ])  # fmt: skip


def test_jacobian_norm_over_a_basis_equals_the_full_jacobian(small, batch):
    inputs = normalise(batch.images).requires_grad_()
    logits = small(inputs)
    over_basis = [jacobian_norm(logits, inputs, 3.0 * torch.eye(4)[k].expand(7, -1)) for k in range(4)]
    assert float(torch.stack(over_basis).mean().detach()) == pytest.approx(
        float(full_norms(small, inputs.detach()).mean()), rel=1e-5
    )


def test_jacobian_norm_of_one_direction_is_that_of_the_projected_jacobian(small, batch):
    inputs = normalise(batch.images).requires_grad_()
    directions = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    found = jacobian_norm(small(inputs), inputs, directions)
    wanted = []
    for x, v in zip(inputs.detach(), directions, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: small(z[None])[0], x).flatten(1)  # (4, 6)
        wanted.append(4 * (v / v.norm() @ jacobian).square().sum())
    assert float(found.detach()) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)


def test_jacobian_penalty_is_unbiased_over_random_directions(small, batch):
    inputs = normalise(batch.images).requires_grad_()
    logits = small(inputs)
    draws = [
        float(jacobian_norm(logits, inputs, Draws(0, s).normal("projection 0", logits.detach()))) for s in range(600)
    ]
    mean, error = torch.tensor(draws).mean(), torch.tensor(draws).std() / 600**0.5
    assert abs(float(mean - full_norms(small, inputs.detach()).mean())) < 4 * float(error)


def test_jacobian_objective_adds_half_of_lambda_times_the_norm(small, batch):
    task = float(Objective(small).loss(batch.images, batch))
    inputs = normalise(batch.images).requires_grad_()
    logits = small(inputs)
    norm = float(jacobian_norm(logits, inputs, batch.draws.normal("projection 0", logits.detach())))
    assert float(JacobianObjective(small, 0.3, 1).loss(batch.images, batch)) == pytest.approx(
        task + 0.15 * norm, rel=1e-6
    )
    assert float(JacobianObjective(small, 0.0, 1).loss(batch.images, batch)) == pytest.approx(task, rel=1e-6)
    loss = JacobianObjective(small, 0.3, 2).loss(batch.images, batch)
    loss.backward()
    plain = nn.Sequential(*small)
    gradient = small[1].weight.grad.clone()
    small.zero_grad()
    F.cross_entropy(plain(normalise(batch.images)), batch.labels).backward()
    assert not torch.allclose(gradient, small[1].weight.grad)  # the penalty has a gradient of its own


def regularizer(model, **options):
    return simreg.SimilarityRegularizer(model, ["conv1", "conv2"], pairing="all", **options)


def test_same_batch_penalty_is_that_of_the_clean_images_while_the_net_sees_others(make_net, images):
    batch, seen = Batch(images, torch.arange(8), Draws(0, 0)), images.flip(0)
    target = simreg.PixelTarget().fit(images)
    for of_seen, targets in ((False, images), (True, seen)):
        model = make_net()
        objective = SimilarityObjective(model, regularizer(model, target=target), "same-batch", of_seen=of_seen)
        loss = float(objective.loss(seen, batch))
        other = make_net()
        reg = regularizer(other, target=target)
        with reg.observe():
            logits = other(normalise(seen))
        assert loss == float(F.cross_entropy(logits, batch.labels) + reg.penalty(targets))


def test_label_targets_are_one_for_images_of_a_class(make_net, images):
    labels = torch.tensor([0, 1, 0, 2, 1, 1, 2, 0])
    model = make_net()
    objective = SimilarityObjective(model, regularizer(model, target_clamp=0.95), "same-batch", by_label=True)
    objective.loss(images, Batch(images, labels, Draws(0, 0)))
    i, j = torch.triu_indices(8, 8, 1)
    assert torch.equal(same_class(labels), (labels[i] == labels[j]).float())
    assert objective.regularizer.stats["target_share"] == pytest.approx(float(same_class(labels).mean()))


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_pool_modes_draw_a_batch_a_step_and_resume_the_stream(make_net, images, mode):
    def make():
        model = make_net()
        pool = simreg.RegularizationPool(images, simreg.PixelTarget(), transform=normalise, seed=3)
        return SimilarityObjective(model, simreg.SimilarityRegularizer(model, ["conv1"]), mode, pool=pool, pairs=2)

    batch = Batch(images, torch.arange(8), Draws(0, 0))
    whole = make()
    wanted = [float(whole.loss(images, batch).detach()) for _ in range(4)]
    assert len(set(wanted)) == 4  # other pairs each time
    first = make()
    found = [float(first.loss(images, batch).detach()) for _ in range(2)]
    second = make()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert found + [float(second.loss(images, batch).detach()) for _ in range(2)] == wanted


def test_similarity_objective_asks_for_a_pool_where_it_needs_one(make_net):
    model = make_net()
    with pytest.raises(ValueError, match="needs a pool"):
        SimilarityObjective(model, simreg.SimilarityRegularizer(model, ["conv1"]), "joint")
