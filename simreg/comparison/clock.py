"""Time of training alone, and the time left of a long run of trainings and measurements."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

_LINE_SECONDS = 20.0  # between two lines of progress


class Clock:
    """Seconds that training steps take: no loading of images, no evaluation, no checkpoints.

    On a GPU the device is waited for before and after each step. A resumed training goes on from `state_dict`, so that
    its time is that of all parts together; steps that were lost with a killed process and made again count once.

    Args:
        device: That trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.milliseconds: list[float] = []  # of each step

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time one step."""
        start = self._now()
        yield
        taken = self._now() - start
        self.seconds += taken
        self.milliseconds.append(1000 * taken)

    @contextmanager
    def extra(self) -> Iterator[None]:
        """Time what a method needs beside its steps."""
        start = self._now()
        yield
        self.seconds += self._now() - start

    @property
    def median(self) -> float:
        """Median milliseconds of a step; 0 before the first."""
        return statistics.median(self.milliseconds) if self.milliseconds else 0.0

    def state_dict(self) -> dict[str, object]:
        """What `load_state_dict` takes."""
        return {"seconds": self.seconds, "milliseconds": torch.tensor(self.milliseconds, dtype=torch.float32)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""
        seconds, milliseconds = state["seconds"], state["milliseconds"]
        assert isinstance(seconds, float)
        assert isinstance(milliseconds, torch.Tensor)
        self.seconds, self.milliseconds = seconds, milliseconds.tolist()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Timeline:
    """Trainings and measurements of a run, and lines on standard error that say how much time is left.

    Args:
        training: Expected seconds of each training that is not finished, by name.
        measurements: How many measurements are not finished; what one takes is learned from the first.
        enabled: Whether lines are printed.
    """

    def __init__(self, training: Mapping[str, float], measurements: int, *, enabled: bool = True) -> None:
        self.training = dict(training)
        self.measurements = measurements
        self.enabled = enabled
        self.total = len(self.training)
        self.measured: list[float] = []
        self.started = self.printed = time.monotonic()

    @property
    def left(self) -> float:
        """Expected seconds of all that is left; measurements count once one was made."""
        each = statistics.mean(self.measured) if self.measured else 0.0
        return sum(self.training.values()) + each * self.measurements

    def tick(self, name: str, done: int, steps: int, seconds_per_step: float) -> None:
        """Note that a training has made ``done`` of its ``steps``; a line every twenty seconds."""
        self.training[name] = seconds_per_step * (steps - done)
        if time.monotonic() - self.printed >= _LINE_SECONDS and done < steps:
            self.say(f"training {name}: step {done} of {steps}, {self.training[name]:.0f} s left")

    def trained(self, name: str) -> None:
        """Note that a training is finished."""
        self.training.pop(name, None)
        self.say(f"trained {name} ({self.total - len(self.training)} of {self.total})")

    def has_measured(self, name: str, seconds: float) -> None:
        """Note that a measurement is finished."""
        self.measured.append(seconds)
        self.measurements -= 1
        self.say(f"measured {name}")

    def say(self, text: str) -> None:
        """Print a line with the time left of everything."""
        self.printed = time.monotonic()
        if self.enabled:
            more = "" if self.measured or not self.measurements else " and the measurements"
            left = f"; in all about {duration(self.left)} left{more}" if self.left or more else ""
            print(f"{text}{left}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(59.4), duration(130), duration(7300)
        ('59 s', '2 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
