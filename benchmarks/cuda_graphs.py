"""CUDA work as one recorded graph, which is launched without Python; and counting what a call launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from harness import Candidate
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def recorded(candidate: Candidate) -> Candidate:
    """The candidate as a CUDA graph: times of the GPU alone."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            candidate.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = candidate.run()

    def replay(_: None) -> Any:
        graph.replay()
        return kept  # its memory belongs to the graph

    return Candidate(f"{candidate.name}, graph", {"replay": replay})


def launches(run: Callable[[], Any]) -> int:
    """Kernels, copies and fills that a call puts on the GPU."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded_events:
        run()
        torch.cuda.synchronize()
    return sum(e.device_type == DeviceType.CUDA for e in recorded_events.events())
