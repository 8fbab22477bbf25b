import math

import pytest
import torch
from torch.nn import functional as F

from simreg.comparison.adversarial import PGDTraining, pgd_examples, project, trades_examples, trades_loss
from simreg.comparison.objectives import TradesObjective
from simreg.comparison.recipe import Batch, Draws, normalise

from .conftest import Linear

EPSILON = 8 / 255


@pytest.fixture
def net(make_net):
    return make_net()


def in_ball(attacked, images, epsilon):
    return (
        float((attacked - images).abs().max()) <= epsilon + 1e-6
        and float(attacked.min()) >= 0
        and float(attacked.max()) <= 1
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("epsilon", [2 / 255, 0.3])
def test_examples_stay_within_epsilon_and_the_pixel_range(net, images, steps, epsilon):
    images[0], images[1] = 0.0, 1.0
    labels = torch.arange(8)
    attacked = PGDTraining(epsilon, steps)(net, images, labels, Draws(0, 0))
    assert in_ball(attacked, images, epsilon)
    assert float((attacked - images).abs().max()) > 0.9 * epsilon
    attacked = trades_examples(
        lambda x: net(normalise(x)), images, epsilon, steps=steps, noise=torch.randn(images.shape)
    )
    assert in_ball(attacked, images, epsilon)


def test_one_step_is_fgsm_from_the_random_start(net, images):
    """FGSM-RS by hand: uniform start, one step of 1.25 epsilon, projection."""
    labels = torch.arange(8)
    start = torch.rand(images.shape)
    with torch.no_grad():
        first = (images + EPSILON * (2 * start - 1)).clamp(0, 1)
    first.requires_grad_()
    F.cross_entropy(net(first), labels, reduction="sum").backward()
    wanted = first.detach() + 1.25 * EPSILON * first.grad.sign()
    wanted = torch.minimum(torch.maximum(wanted, images - EPSILON), images + EPSILON).clamp(0, 1)
    found = pgd_examples(net, images, labels, EPSILON, steps=1, start=start)
    assert torch.allclose(found, wanted, atol=1e-7)


def test_default_steps_reach_across_the_ball():
    """7 steps are of 2/255 at 8/255; fewer are longer, so that all can cross the ball from its centre."""
    images, labels = torch.full((1, 1, 1, 4), 0.5), torch.tensor([0])
    model = Linear(4)
    torch.nn.init.ones_(model.fc.weight)
    for steps in (1, 2, 3, 7, 20):
        middle = torch.full_like(images, 0.5)
        found = pgd_examples(model, images, labels, EPSILON, steps=steps, start=middle)
        assert torch.allclose(found, images + EPSILON, atol=1e-6), steps
    one_of_seven = pgd_examples(model, images, labels, EPSILON, steps=1, start=middle, step_size=0.25 * EPSILON)
    assert torch.allclose(one_of_seven, images + 2 / 255, atol=1e-6)


def test_pgd_finds_the_worst_case_of_a_linear_model():
    torch.manual_seed(0)
    model, images = Linear(12), 0.2 + 0.6 * torch.rand(20, 1, 3, 4)
    labels = (torch.rand(20) < 0.5).long()
    attacked = pgd_examples(model, images, labels, 0.05, steps=10, start=torch.rand(images.shape))
    sign = (2 * labels - 1).float()
    weight = model.fc.weight.detach().view(1, 1, 3, 4)
    assert torch.allclose(attacked, images - 0.05 * sign.view(-1, 1, 1, 1) * weight.sign(), atol=1e-6)
    margins = sign * model(images)[:, 1] - 0.05 * weight.abs().sum()
    assert torch.allclose(F.cross_entropy(model(attacked), labels), F.softplus(-margins).mean(), atol=1e-6)


def train_toy(attack):
    """One strong feature and eight weak ones that agree with it: weak ones help only without an adversary."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    sign = (2 * labels - 1).float()[:, None]
    strong = 0.5 + 0.3 * sign + 0.05 * torch.randn(64, 1, generator=g)
    weak = (0.5 + 0.02 * sign).expand(-1, 8)
    images = torch.cat([strong, weak], dim=1).view(64, 1, 3, 3)
    model = Linear(9)
    torch.nn.init.zeros_(model.fc.weight)
    for step in range(200):
        seen = images if attack is None else attack(model, images, labels, Draws(0, step))
        model.zero_grad()
        F.cross_entropy(model(normalise(seen)), labels).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * (1 - step / 200) * p.grad
    return model.fc.weight.detach()[0]


def test_pgd_training_reaches_the_robust_solution_of_a_linear_toy():
    plain, robust = train_toy(None), train_toy(PGDTraining(0.05, 7))
    assert (plain[1:] / plain[0]).min() > 0.02  # all features agree with the label, so all are used
    assert (robust[1:] / robust[0]).abs().max() < 0.01  # the direction of the largest margin under attack
    assert robust[0] > 0.5


def test_trades_loss_equals_a_computation_by_hand():
    clean, attacked = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    labels = torch.tensor([0, 0])

    def softmax(row):
        total = sum(math.exp(v) for v in row)
        return [math.exp(v) / total for v in row]

    p, q = [softmax(r) for r in clean.tolist()], [softmax(r) for r in attacked.tolist()]
    entropy = -(math.log(p[0][0]) + math.log(p[1][0])) / 2
    divergence = sum(p[i][k] * math.log(p[i][k] / q[i][k]) for i in range(2) for k in range(2)) / 2
    assert float(trades_loss(clean, attacked, labels, 6.0)) == pytest.approx(entropy + 6 * divergence, rel=1e-6)


def test_trades_objective_pulls_both_passes():
    torch.manual_seed(0)
    model, images = Linear(4), torch.rand(6, 1, 2, 2)
    batch = Batch(images, torch.tensor([0, 1, 0, 1, 0, 1]), Draws(0, 0))
    objective = TradesObjective(model, 0.1, 10, 6.0)
    loss = objective.loss(images, batch)
    with torch.no_grad():
        clean = model(normalise(images))
        # of a linear model the divergence is largest at a corner of the ball, on one side or the other
        shift = 0.1 * model.fc.weight.view(1, 1, 2, 2).sign()
        sides = torch.stack([
            F.kl_div(F.log_softmax(model(normalise(project(images + s, images, 0.1))), 1), F.softmax(clean, 1), reduction="none").sum(1)
            for s in (shift, -shift)
        ])  # fmt: skip
        most = F.cross_entropy(clean, batch.labels) + 6 * sides.amax(0).mean()
        least = F.cross_entropy(clean, batch.labels) + 6 * sides.amin(0).mean()
    assert float(least) - 1e-6 <= float(loss.detach()) <= float(most) + 1e-6
    loss.backward()
    assert float(model.fc.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("attack", ["pgd", "trades"])
def test_attacks_change_neither_batch_norm_nor_modes_nor_gradients(net, images, attack):
    net.train()
    net.bn2.eval()
    modes = [m.training for m in net.modules()]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    if attack == "pgd":
        PGDTraining(EPSILON, 3)(net, images, torch.arange(8), Draws(0, 0))
        after = net.state_dict()
    else:
        objective = TradesObjective(net, EPSILON, 3, 6.0)
        seen = []
        net.register_forward_pre_hook(
            lambda m, a: seen.append((m.training, {k: v.clone() for k, v in m.state_dict().items()}))
        )
        objective.loss(images, Batch(images, torch.arange(8), Draws(0, 0)))
        assert [training for training, _ in seen] == [False] * 4 + [True] * 2  # clean, three steps, then the loss
        after = seen[4][1]
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def test_attacks_hit_the_model_in_evaluation_mode(net, images):
    """The example is that of the network with its running statistics, not with those of the batch."""
    net.train()
    labels = torch.arange(8)
    found = PGDTraining(EPSILON, 5)(net, images, labels, Draws(0, 0))
    net.eval()
    start = Draws(0, 0).uniform("start", images)
    wanted = pgd_examples(lambda x: net(normalise(x)), images, labels, EPSILON, steps=5, start=start)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("arguments", [(0.0, 7), (-1.0, 7), (0.1, 0), (0.1, 1, 0.0)])
def test_pgd_training_refuses_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"epsilon|steps|step"):
        PGDTraining(*arguments)
