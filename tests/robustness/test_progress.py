from __future__ import annotations

import io
import sys

import pytest

from simreg.robustness import _progress
from simreg.robustness._progress import progress


class Clock:
    """A clock that moves on by itself at each look."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


def lines(monkeypatch, capsys, items, step, **options):
    monkeypatch.setattr(_progress.time, "monotonic", Clock(step))
    assert list(progress(items, description="work", **options)) == list(items)
    return capsys.readouterr().err.splitlines()


def test_long_loop_prints_about_ten_lines(monkeypatch, capsys):
    got = lines(monkeypatch, capsys, range(200), 0.5)
    assert len(got) == 10
    assert got[0].startswith("work:  10 % (20/200")
    assert got[-1].startswith("work: 100 % (200/200")


def test_short_loop_prints_nothing(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, range(200), 0.001) == []


def test_slow_items_are_all_reported_once(monkeypatch, capsys):
    assert len(lines(monkeypatch, capsys, range(3), 60.0)) == 3


def test_loop_without_length_prints_counts(monkeypatch, capsys):
    monkeypatch.setattr(_progress.time, "monotonic", Clock(1.0))
    assert sum(1 for _ in progress(iter(range(100)), description="work")) == 100
    got = capsys.readouterr().err.splitlines()
    assert 9 <= len(got) <= 10
    assert got[0].startswith("work: (")


def test_disabled_prints_nothing(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, range(20), 60.0, enabled=False) == []


def test_terminal_gets_a_bar(monkeypatch):
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), description="work")) == [0, 1, 2]
    assert "work" in terminal.getvalue()
    monkeypatch.setitem(sys.modules, "tqdm", None)  # without tqdm a terminal gets lines
    assert list(progress(range(3), description="work")) == [0, 1, 2]
