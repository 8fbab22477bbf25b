"""What stays while the inside changes: public names, signatures, and the numbers of three training steps."""

import inspect
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import simreg
from simreg import functional as F

GOLDEN = Path(__file__).with_name("golden.json")
CASES = list(itertools.product(F.CENTERINGS, ("pairs", "all"), F.CONVENTIONS, F.TRANSFORMS))


def waves(*shape: int, step: float) -> torch.Tensor:
    """Float64 values in [-1, 1] that no random generator has a say in."""
    return (torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * step).sin().reshape(shape)


def net() -> nn.Module:
    """Two tapped layers, both with an offset, in float64."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten()).double()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = waves(*parameter.shape, step=0.7 + 0.1 * i)
    return model


def three_steps(centering: str, pairing: str, convention: str, transform: str) -> list[list[float]]:
    """Per step the penalty, the gradient of the logits, and that of the first weights along a fixed direction."""
    model, rows = net(), []
    reg = simreg.SimilarityRegularizer(
        model, layers=["1", "3"], alpha=0.7, centering=centering, pairing=pairing, convention=convention,
        transform=transform, target_clamp=0.9,
    )  # fmt: skip
    parameters = [*model.parameters(), reg.layer_logits]
    for step in range(3):
        images = 0.5 + 0.5 * waves(6, 1, 7, 7, step=0.9 + 0.3 * step)
        targets = waves(3 if pairing == "pairs" else 15, step=1.3)
        penalty = reg(images, targets=targets)
        gradients = torch.autograd.grad(penalty, parameters)
        along = sum(float((g * waves(*g.shape, step=1.1)).sum()) for g in gradients[:-1])
        rows.append([float(penalty.detach()), *gradients[-1].tolist(), along])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= 1e-3 * gradient
    return rows


@pytest.mark.parametrize(("centering", "pairing", "convention", "transform"), CASES)
def test_three_steps_give_the_golden_values(centering, pairing, convention, transform):
    golden = json.loads(GOLDEN.read_text())["-".join((centering, pairing, convention, transform))]
    ours = three_steps(centering, pairing, convention, transform)
    ours, golden = (torch.tensor(rows, dtype=torch.float64) for rows in (ours, golden))
    torch.testing.assert_close(ours, golden, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("mode", ["separate", "observe", "joint"])
def test_alpha_zero_trains_as_plain_steps_bit_for_bit(mode):
    def train(alpha: float | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 3)
        )
        options = {"layers": ["2"], "target": simreg.PixelTarget()}
        reg = None if alpha is None else simreg.SimilarityRegularizer(model, alpha=alpha, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            x = 0.5 + 0.5 * waves(8, 1, 8, 8, step=0.9 + 0.3 * step).float()
            batch = None if reg is None else simreg.PairBatch(x.flip(0), torch.zeros(4))
            if reg is None:
                output, penalty = model(x), 0.0
            elif mode == "joint":
                output, penalty = reg.joint(x, batch)
            elif mode == "observe":
                with reg.observe():
                    output = model(x)
                penalty = reg.penalty(x)
            else:
                output = model(x)
                penalty = reg(batch)
            optimizer.zero_grad()
            (nn.functional.cross_entropy(output, torch.arange(8) % 3) + penalty).backward()
            optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(0.0), train(None), strict=True))


def names_and_defaults(function):
    """The signature without annotations: ``(a, *, b=1)``."""
    found = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


SIGNATURES = {
    simreg.SimilarityRegularizer: "(model, layers='auto', *, target=None, alpha=10.0, convention='official', "
    "pairing='pairs', centering='channel', transform='arctanh', target_clamp=None, layer_weights='learned', "
    "batch_norm='update', early_exit='auto', backend='auto', select=None)",
    simreg.SimilarityRegularizer.forward: "(self, batch, *, targets=None, pairs=None)",
    simreg.SimilarityRegularizer.penalty: "(self, images_or_targets, pairs=None)",
    simreg.SimilarityRegularizer.observe: "(self)",
    simreg.SimilarityRegularizer.joint: "(self, x, batch)",
    simreg.SimilarityRegularizer.parameter_group: "(self)",
    simreg.SimilarityRegularizer.cost: "(self, batch_size, pairs=None, *, example, mode='separate')",
    simreg.PairBatch: "(images, targets, pairs=None, indices=None)",
    simreg.RegularizationPool: "(images, target, *, labels=None, transform=None, seed=0)",
    simreg.RegularizationPool.batches: "(self, pairs_per_batch=16, *, sampling='uniform', share=0.25, pairing='pairs')",
    simreg.RegularizationPool.health: "(self, pairs_per_batch=16, *, bins=40)",
    simreg.FeatureTap: "(model, layers='auto', *, select=None)",
    simreg.FeatureTap.features: "(self, images, *, early_exit=False)",
    simreg.PixelTarget: "(centering='dataset', color='gray')",
    simreg.ThresholdTarget: "(threshold=0.8, *, of=None, select='all', low=None)",
    simreg.NeuralTarget.from_responses: "(responses, *, reliability=True)",
    simreg.NeuralTarget.average: "(targets)",
    simreg.LabelTarget: "(num_classes=None)",
    simreg.MatrixTarget: "(matrix)",
    simreg.convert_alpha: "(alpha, source, to, pairs=None, *, transform='arctanh')",
    F.center_features: "(features, centering='batch', *, mean=None, channel_dim=1)",
    F.pairwise_cosine: "(features, *, centering='batch', eps=1e-08, backend='auto')",
    F.paired_cosine: "(features, pairs=None, *, centering='batch', eps=1e-08, backend='auto')",
    F.similarity: "(features, pairs=None, *, centering='channel', running_mean=None, momentum=0.1, channel_dim=1, "
    "eps=1e-08, backend='auto')",
    F.mix_similarities: "(similarities, layer_logits)",
    F.fisher_z: "(similarity, *, convention='official', eps=1e-05)",
    F.similarity_loss: "(similarity, target, *, convention='official', transform='arctanh', target_clamp=None)",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signatures_are_those_of_the_contract(function):
    assert names_and_defaults(function) == SIGNATURES[function]
