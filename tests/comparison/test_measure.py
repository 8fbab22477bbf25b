import pytest
import torch

from simreg.comparison.measure import evaluate_suite, judge
from simreg.robustness import Classifier

evaluation = pytest.importorskip("simreg.evaluation")


def test_the_suite_gets_the_strengths_of_the_data_and_the_regularized_layers(make_net, images, monkeypatch, tmp_path):
    seen = {}

    def spy(subject, suite, **options):
        seen.update(subject=subject, suite=suite)
        return {"clean": {}}

    monkeypatch.setattr(evaluation, "run_suite", spy)
    options = {"suite": "quick", "out": tmp_path, "model_name": "net", "surrogate": None, "seed": 0, "progress": False}
    net, labels = Classifier(make_net(), mean=0.5, std=0.2), torch.arange(8)
    for dataset, layers, largest in (("cifar10", ["conv1"], 0.1), ("digits", [], 0.5)):
        assert evaluate_suite(net, images, labels, dataset=dataset, layers=layers, **options) == {"clean": {}}
        gaussian = next(m for m in seen["suite"].measurements if m.key == "gaussian")
        assert gaussian.settings["epsilons"][-1] == pytest.approx(largest)
        features = seen["subject"].features
        assert (features is None) == (not layers)
        if layers:
            assert [f.shape for f in features(images)] == [(8, 6, 8, 8)]


def test_nets_are_judged_at_the_budget_of_their_data(images):
    result = {"name": "pgd", "epsilons": [8 / 255, 0.3], "accuracies": [0.5, 0.0], "n": 400, "settings": {}}
    measured = {"pgd_linf": {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}}
    for dataset, budget in (("cifar10", "8/255"), ("digits", "0.3")):
        judged = judge(measured, images, torch.arange(8), dataset=dataset, classes=10)
        said = [verdict["verdict"] for verdict in judged["verdicts"] if verdict["threat"] == "white_box"]
        assert any(f"robustness at {budget} (L-inf)" in text for text in said)
        passed = {check["name"]: check["passed"] for check in judged["masking"]["checks"]}
        assert passed["deterministic"] is passed["logits"] is True
        assert passed["black_box"] is None


def test_a_frequent_class_is_judged_by_its_share(images):
    clean = {"name": "clean", "epsilons": [0.0], "accuracies": [0.9], "n": 1000, "settings": {}}
    pgd = {"name": "pgd", "epsilons": [8 / 255], "accuracies": [0.6], "n": 1000, "settings": {}}
    entries = {"clean": clean, "pgd_linf": pgd}
    measured = {
        key: {"status": "ok", "type": "sweep", "threat": "white_box", "result": result}
        for key, result in entries.items()
    }
    for labels, expected in ((torch.arange(8), False), (torch.zeros(8, dtype=torch.int64), True)):
        said = judge(measured, images, labels, dataset="cifar10", classes=10)["verdicts"]
        assert any("constant answer, 100.0 %" in verdict["verdict"] for verdict in said) == expected
