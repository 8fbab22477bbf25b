"""Times several ways of doing the same thing in turns: what disturbs times disturbs their ratios far less."""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_PACKAGES = ("torch", "triton", "simreg", "torchvision", "foolbox", "numpy")


def race(candidates, bases, rounds, *, device="cpu", calls=1, most_seconds=float("inf")):
    """Run every candidate once a round, in an order that rotates and turns round; see `compared`.

    Each should have run before. A GPU is given ``calls`` in a row before the clock is read, as in a training loop. No
    round begins later than ``most_seconds``.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    names, seconds = list(candidates), {name: [] for name in candidates}
    gc.collect()
    begin = time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - begin > most_seconds:
            break
        turn = number % len(names)
        for name in (names[turn:] + names[:turn])[:: -1 if number % 2 else 1]:
            wait()
            start = time.perf_counter()
            for _ in range(calls):
                candidates[name]()
            wait()
            seconds[name].append((time.perf_counter() - start) / calls)
    return compared(seconds, bases)


def compared(seconds, bases):
    """Quartiles of milliseconds, and of time over that of each base in the same round."""
    over = {
        base: {
            name: quartiles([a / b for a, b in zip(own, seconds[base], strict=True)]) for name, own in seconds.items()
        }
        for base in bases
        if base in seconds
    }
    return {"ms": {name: quartiles([1e3 * s for s in own]) for name, own in seconds.items()}, "over": over}


def quartiles(values):
    """Lower quartile, median and upper quartile, to four digits."""
    found = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return [float(f"{value:.4g}") for value in found]


def peak_memory(run, device="cpu"):
    """Most bytes of tensors that a call allocates at one time, what it returns included."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def prepare_process():
    """One thread; and glibc keeps freed memory for reuse, see README.md."""
    torch.set_num_threads(1)
    if platform.libc_ver()[0] == "glibc":
        for parameter, value in ((-4, 0), (-1, 2**31 - 1)):  # of malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, value)


def environment():
    """What results depend on: hardware, versions, commit; nothing that names the machine."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty"]
    return {
        "processor": f"{model[1] if model else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES if find_spec(name)},
        "commit": subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip(),
    }


def write_results(path, benchmarks):
    """JSON with one benchmark a line."""
    lines = ",\n".join(map(json.dumps, benchmarks))
    path.write_text(f'{{"benchmarks": [\n{lines}\n]}}\n', encoding="utf-8")
