"""The machine that results came from, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def hardware(device: str | torch.device) -> str:
    """Name of the GPU, or of the CPU with its cores and threads in use.

    Example:
        >>> "threads" in hardware("cpu")
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} device"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {os.cpu_count()} cores, {threads} threads, {torch.backends.cpu.get_cpu_capability()}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
