import pytest
import torch

import simreg.comparison.collapse as collapse
import simreg.comparison.training as training
from simreg.comparison import TrainingDiverged, TrainingRecord, parse_method, train
from simreg.comparison.augment import augmix_obstacle
from simreg.comparison.checkpoints import load_checkpoint, save_checkpoint
from simreg.comparison.clock import Clock, Timeline, duration

pytest.importorskip("safetensors")

RESUMED = ["none", "simreg", "simreg-paper:pool_size=20:pairs=3", "simreg-joint:pool_size=20:pairs=3", "gaussian",
           "jacobian", "fgsm-rs", "trades:steps=2"]  # fmt: skip
if augmix_obstacle() is None:
    RESUMED.append("simreg+augmix")


class Killed(Exception):
    pass


def run(make_site, path, name, *, stop=None, steps=7, **options):
    """Train from scratch or from a checkpoint; ``stop`` kills it after so many steps."""

    def on_step(done, seconds):
        if done == stop:
            raise Killed

    site = make_site(steps=steps, **options)
    trainer = parse_method(name).trainer(site)
    try:
        record = train(site, trainer, checkpoint=path, on_step=on_step, checkpoint_seconds=0.0)
    finally:
        trainer.objective.close()
    return site.model, record


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_training_ends_as_one_that_was_not_killed(make_site, tmp_path, monkeypatch, name):
    monkeypatch.setattr(collapse, "WATCH_STEPS", 1)
    monkeypatch.setattr(collapse, "LEAST_STEPS", 1)
    whole, wanted = run(make_site, tmp_path / "whole", name)
    for stop in (2, 5):  # in the first and in the second of three epochs
        with pytest.raises(Killed):
            run(make_site, tmp_path / "parts", name, stop=stop)
    resumed, record = run(make_site, tmp_path / "parts", name)
    assert same(whole, resumed)
    assert record.steps == wanted.steps == 7
    assert str(record.history) == str(wanted.history)  # as text: an undefined correlation is NaN


def test_time_of_the_parts_adds_up_and_lost_steps_count_once(make_site, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(Clock, "_now", lambda self: now[0])
    advance = training._State.advance

    def slow(self, batch):
        loss = self.trainer.loss

        def timed(batch):
            now[0] += 2.0
            return loss(batch)

        self.trainer.loss = timed
        advance(self, batch)
        self.trainer.loss = loss
        now[0] += 100.0  # what happens between steps does not count

    monkeypatch.setattr(training._State, "advance", slow)
    path = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        run(make_site, path, "none", stop=3)
    kept = path.read_bytes()
    with pytest.raises(Killed):
        run(make_site, path, "none", stop=5)
    path.write_bytes(kept)  # steps 4 and 5 are lost
    _, record = run(make_site, path, "none")
    assert record.training_seconds == pytest.approx(14.0)
    assert record.milliseconds_per_step == pytest.approx(2000.0)


def test_a_checkpoint_of_another_training_is_refused(make_site, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(Killed):
        run(make_site, path, "none", stop=3)
    with pytest.raises(ValueError, match=r"of a training with other settings: steps \(was 7, now 9\)"):
        run(make_site, path, "none", steps=9)
    with pytest.raises(ValueError, match=r"seed \(was 0, now 1\)"):
        run(make_site, path, "none", seed=1)


def test_clock_leaves_out_what_is_between_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(Clock, "_now", lambda self: now[0])
    clock = Clock(torch.device("cpu"))
    for pause in (0.01, 0.03, 0.5):
        with clock.step():
            now[0] += pause
        now[0] += 100.0
    with clock.extra():
        now[0] += 0.02
    assert clock.seconds == pytest.approx(0.56)
    assert clock.median == pytest.approx(30.0)
    other = Clock(torch.device("cpu"))
    other.load_state_dict(clock.state_dict())
    assert other.seconds == clock.seconds
    assert other.median == pytest.approx(clock.median, rel=1e-6)


def test_clock_goes_forward():
    clock = Clock(torch.device("cpu"))
    with clock.step():
        sum(range(1000))
    assert 0 < clock.seconds < 60


def test_record_counts_epochs_and_logs_layer_weights(make_site, tmp_path):
    _, record = run(make_site, tmp_path / "c", "simreg", steps=6)
    assert (record.steps, record.epochs, record.collapse) == (6, 2.0, None)
    assert record.history["step"] == list(range(6))
    weights = record.history["layer_weights"]
    assert {name: len(values) for name, values in weights.items()} == {"stem": 6, "layer1.1": 6}
    assert sum(values[-1] for values in weights.values()) == pytest.approx(1.0)
    assert TrainingRecord.from_dict(record.to_dict()) == record


def test_training_learns(make_site, tmp_path):
    _, record = run(make_site, tmp_path / "c", "none", steps=45)
    assert record.history["loss"][-1] < 0.3 < record.history["loss"][0]


def test_a_diverged_training_says_so(make_site, tmp_path):
    with pytest.raises(TrainingDiverged, match="training diverged: the loss is nan at step"):
        run(make_site, tmp_path / "c", "none", steps=40, peak_rate=1e30)


def test_every_step_is_made_in_training_mode(make_site, tmp_path):
    wanted, _ = run(make_site, tmp_path / "a", "none", steps=3)
    site = make_site(steps=3)
    site.model.eval()
    train(site, parse_method("none").trainer(site), checkpoint=tmp_path / "b", on_step=lambda *_: site.model.eval())
    assert same(wanted, site.model)


def test_alpha_zero_trains_as_no_regularizer(make_site, tmp_path):
    plain, _ = run(make_site, tmp_path / "a", "none")
    regularized, _ = run(make_site, tmp_path / "b", "simreg:alpha=0")
    assert same(plain, regularized)


def test_weight_decay_leaves_the_layer_logits_alone(make_site, tmp_path):
    site = make_site(weight_decay=0.1)
    state = training._State(site, parse_method("simreg").trainer(site), None)
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.1, 0.0]


def test_checkpoints_hold_nested_state_and_notice_damage(tmp_path):
    state = {"a": {"b": torch.arange(3), 4: [1, None, "x"]}, "empty": {}, "nan": float("nan")}
    path = tmp_path / "deep" / "c.checkpoint"
    save_checkpoint(path, state)
    back = load_checkpoint(path)
    assert torch.equal(back["a"]["b"], torch.arange(3))
    assert back["a"][4] == [1, None, "x"]
    assert back["empty"] == {}
    assert back["nan"] != back["nan"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged .*Delete this file and let the run go on"):
        load_checkpoint(path)


def test_timeline_adds_what_is_left(capsys):
    timeline = Timeline({"a": 100.0, "b": 60.0}, 2)
    timeline.say("begin")
    assert "begin; in all about 3 min left and the measurements" in capsys.readouterr().err
    timeline.tick("a", 50, 100, 1.5)
    assert timeline.left == pytest.approx(75 + 60)
    assert capsys.readouterr().err == ""  # not every step is a line
    timeline.trained("a")
    timeline.has_measured("a", 40.0)
    assert timeline.left == pytest.approx(60 + 40)
    out = capsys.readouterr().err
    assert "trained a (1 of 2)" in out
    assert out.endswith("measured a; in all about 100 s left\n".replace("100 s", duration(100.0)))
    timeline.trained("b")
    timeline.has_measured("b", 40.0)
    assert "left" not in capsys.readouterr().err.splitlines()[-1]
