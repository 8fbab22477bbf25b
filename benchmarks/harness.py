"""Times several ways of doing the same thing alternately in one process, and reports ratios within each round.

Ratios of times taken side by side survive what times alone do not: other programs, clock rates, another machine.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

TOTAL = "total"


@dataclass(frozen=True)
class Candidate:
    """One way of doing it: named stages, each of which takes what the one before returned (the first: None)."""

    name: str
    stages: dict[str, Callable[[Any], Any]]

    def run(self) -> Any:
        result = None
        for stage in self.stages.values():
            result = stage(result)
        return result


@dataclass
class Race:
    """Rounds in which every candidate runs once, in an order that rotates; the first candidate is the subject."""

    candidates: Sequence[Candidate]
    device: str = "cpu"
    calls: int = 1  # in a row before the clock is read; a GPU is given several, as in a training loop
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    _round: int = 0

    def before(self) -> None:
        """Run the candidates whose turn comes before the subject in this round."""
        if self._round == 0:
            gc.collect()
        for candidate in self._others()[: self._turn()]:
            self.measure(candidate)

    def subject(self) -> None:
        self.measure(self.candidates[0])

    def after(self) -> None:
        """Run the others, and end the round."""
        for candidate in self._others()[self._turn() :]:
            self.measure(candidate)
        self._round += 1

    def _others(self) -> Sequence[Candidate]:
        others = self.candidates[1:]
        return others if self._round % 2 == 0 else others[::-1]

    def _turn(self) -> int:
        """How many candidates come before the subject: all of them in the first round."""
        return (len(self.candidates) - 1 - self._round) % len(self.candidates)

    def measure(self, candidate: Candidate) -> None:
        """Take the time of each stage, in seconds a call."""
        seconds = _stages(candidate, self.device)
        # Waiting for a GPU after each stage slows the whole, whose time is therefore taken apart.
        seconds[TOTAL] = sum(seconds.values()) if self.device == "cpu" else _launched(candidate, self.calls)
        for stage, value in seconds.items():
            self.times.setdefault(candidate.name, {}).setdefault(stage, []).append(value)


def _stages(candidate: Candidate, device: str) -> dict[str, float]:
    seconds, result = {}, None
    synchronize(device)
    for name, stage in candidate.stages.items():
        start = time.perf_counter()
        result = stage(result)
        synchronize(device)
        seconds[name] = time.perf_counter() - start
    return seconds


def _launched(candidate: Candidate, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        candidate.run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def compare(
    benchmark: Any,
    candidates: Sequence[Candidate],
    *,
    bases: Sequence[str],
    rounds: int,
    device: str = "cpu",
    calls: int = 1,
) -> None:
    """Race the candidates through pytest-benchmark, which times the first, and keep the outcome in ``extra_info``.

    Each should have run before: compilers, caches and buffers make a first call slow.

    Args:
        benchmark: The fixture.
        candidates: The subject first.
        bases: Names of the candidates that times are divided by.
        rounds: How many.
        device: "cpu" or "cuda".
        calls: On a GPU, how many are launched before the clock is read.
    """
    race = Race(candidates, device, calls)
    benchmark.pedantic(race.subject, setup=race.before, teardown=race.after, rounds=rounds)
    times = {c.name: race.times[c.name] for c in candidates}
    benchmark.extra_info.update(
        subject=candidates[0].name,
        rounds=rounds,
        calls_per_round=calls,
        milliseconds={n: {s: quartiles([1e3 * v for v in t]) for s, t in by.items()} for n, by in times.items()},
        relative_time=relative_times(times, bases),
    )


def relative_times(times: dict[str, dict[str, list[float]]], bases: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Time over that of each base in the same round: candidate -> base -> quartiles."""
    totals = {name: stages[TOTAL] for name, stages in times.items()}
    return {
        name: {base: quartiles(ratios(own, totals[base])) for base in bases if base in totals and base != name}
        for name, own in totals.items()
    }


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round; a round that only one of them has run is left out."""
    return [a / b for a, b in zip(own, base, strict=False)]


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile, to four digits."""
    if len(values) == 1:
        return [float(f"{values[0]:.4g}")] * 3
    return [float(f"{v:.4g}") for v in statistics.quantiles(values, n=4, method="inclusive")]


def peak_memory(run: Callable[[], Any], device: str = "cpu") -> int:
    """Most bytes of tensors that were allocated at one time during a call, over those that were there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak
