"""All that needs a GPU, in nine minutes at most: ``python benchmarks/gpu.py OUT.json``, written after every case."""

import argparse
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import torch
from harness import environment, prepare_process, race, write_results
from similarities import BASES, Case, contest
from steps import PLAIN, plain, same_batch, step, task_batch

from simreg import kernels

SECONDS = 530
_SHAPES = ((2, 5, 7), (34, 40), (6, 3, 31, 35), (18, 2, 3, 2, 2), (32, 64, 16, 16), (128, 48, 7, 7))
# Most error: of products over the norms of their rows, of the gradient over its largest entry.
_MOST = {"float32": (2e-6, 6e-6), "bfloat16": (2e-6, 8e-3), "float16": (2e-6, 1e-3)}


def check(device, backend, dtype, paired, shapes):
    """Products and gradient against the reference in float64: centrings, ragged sizes, layouts; and same bits again."""
    worst, same, until, count = [0.0, 0.0], True, time.monotonic() + 50, 0
    for shape, centering, last in product(shapes, ("channel", "batch", "image", "none"), (False, True)):
        if (last and len(shape) != 4) or time.monotonic() > until:
            continue
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, generator=generator).relu_().add_(0.3).to(device, getattr(torch, dtype))
        x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
        found = []
        for values, how in ((x.double(), "reference"), (x, backend), (x, backend)):
            mean = torch.linspace(0, 1, shape[1], device=device, dtype=torch.promote_types(values.dtype, torch.float32))
            options = {"running_mean": mean, "momentum": 0.1} if centering == "channel" else {}
            products = kernels.products(values, centering=centering, paired=paired, backend=how, **options)
            slope = torch.randn(products.shape, generator=torch.Generator().manual_seed(1)).to(products)
            found.append((products.detach(), *torch.autograd.grad(products, x, slope)))
        (exact, wanted), ours, again = found
        norms = exact[1:].sqrt().prod(0) if paired else exact.diagonal().sqrt().outer(exact.diagonal().sqrt())
        errors = ((ours[0] - exact).abs() / norms).max(), (ours[1] - wanted).abs().max() / wanted.abs().max()
        worst = [max(old, float(new)) for old, new in zip(worst, errors, strict=True)]
        same, count = same and all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)), count + 1
    passed = all(error <= most for error, most in zip(worst, _MOST[dtype], strict=True))
    return {"errors": worst, "same bits": same, "passed": passed, "combinations": count}


def similarity(device, backends, case, graphs, rounds, calls):
    """The race on a CPU, on this device; as CUDA graphs it is without Python's time."""
    candidates, noted = contest(case, backends, device)
    candidates = {name: recorded(run) if graphs else run for name, run in candidates.items()}
    return {**noted, **race(candidates, BASES, rounds, device=device, calls=calls, most_seconds=5)}


def recorded(run):
    """A call as one CUDA graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        kept = run()
    return lambda: (graph.replay(), kept)  # the graph writes to what it returned


def large_step(device, size, batch, warm, rounds, calls):
    """torchvision's ResNet50 as one trains it on ImageNet: the same batch's pairs against the plain step."""
    from torchvision.models import resnet50

    x, y = (t.to(device) for t in task_batch(batch, size))
    x, runs = x.contiguous(memory_format=torch.channels_last), {}
    for name, make in (("same batch", partial(same_batch, layers="auto")), (PLAIN, plain)):
        runs[name] = step(resnet50().to(device, memory_format=torch.channels_last), make, x, y, autocast=True)
        for _ in range(warm):
            runs[name]()
    noted = {"case": {"net": "ResNet50, bfloat16", "size": size, "batch": batch}, "goals": {"same batch": "<= 1.02"}}
    return {**noted, **race(runs, [PLAIN], rounds, device=device, calls=calls, most_seconds=30)}


def list_cases(device, smoke):
    """Group: name, seconds that it may take, and what runs it."""
    backends, rounds, calls = (("torch",), 2, 1) if device == "cpu" else (("triton", "torch"), 31, 20)
    shapes, sets = (_SHAPES[:4], [("tiny", 8)]) if smoke else (_SHAPES, product(("CIFAR", "ImageNet"), (32, 128)))
    checks = [
        (f"check: {dtype} {pairing}", 60, partial(check, device, backends[0], dtype, pairing == "pairs", shapes))
        for dtype, pairing in product(_MOST, ("pairs", "all"))
    ]
    yield from checks[:2]
    # The first 20 penalties look at values, which on a GPU waits for them.
    size, batch, warm, steps = (32, 4, 1, (1, 1)) if smoke else (224, 256, 22, (15, 3))
    yield "large step: ResNet50", 60, partial(large_step, device, size, batch, warm, *steps)
    kinds = ("pairs", "channel"), ("all", "image")
    for (layers, n), dtype, kind, graphs in product(sets, ("float32", "bfloat16"), kinds, (False, True)):
        case, group = Case(layers, n, *kind, dtype), "similarity, CUDA graphs" if graphs else "similarity"
        yield f"{group}: {case}", 15, partial(similarity, device, backends, case, graphs, rounds, calls)
    yield from checks[2:]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", choices=("default", "smoke"))
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is false")
        return 2
    prepare_process()
    start, done = time.monotonic(), []
    for name, seconds, run in list_cases(chosen.device, chosen.sizes == "smoke"):
        left = SECONDS - time.monotonic() + start
        if "graphs" in name and chosen.device == "cpu":
            found = {"skipped": "CUDA graphs need a GPU"}
        elif left < seconds:
            found = {"skipped": f"it may take {seconds} s, {left:.0f} s are left"}
        else:
            try:
                found = run()
            except Exception as error:  # the other cases are worth their time
                found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        found["environment"] = environment()
        done.append({"name": name, "group": name.split(":")[0], "extra_info": found})
        write_results(chosen.out, done)
        said = found.get("failed") or found.get("skipped") or ("done" if found.get("passed", True) else "WRONG")
        print(f"{time.monotonic() - start:.0f} s, {name}: {said}", flush=True)
    return int(any("failed" in b["extra_info"] or not b["extra_info"].get("passed", True) for b in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
