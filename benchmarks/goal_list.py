"""What simreg promises."""

from __future__ import annotations

from goals import AT_LEAST, AT_MOST, above_operations, error, goal, graphs, of, of_fused, relative, speed_up

_FROM_32 = (32, 64, 128)

_PAIRS = [
    goal(
        "pairs, with a compiler: speed-up over naive, N = 32",
        "similarity", speed_up("compile", "naive"), AT_LEAST, 8, pairing="pairs", images=32,
    ),
    goal(
        "pairs, with a compiler: speed-up over the paper's similarity, N = 32",
        "similarity", speed_up("compile", "paper scheme"), AT_LEAST, 7, pairing="pairs", images=32,
    ),
    goal(
        "pairs, without a compiler: speed-up over naive, N = 32",
        "similarity", speed_up("torch", "naive"), AT_LEAST, 3, pairing="pairs", images=32,
    ),
    goal(
        "pairs, with a compiler: time over the memory floor, N = 32",
        "similarity", relative("compile", "memory floor"), AT_MOST, 2, pairing="pairs", images=32,
    ),
    goal(
        "pairs, with a compiler: time over the memory floor, N >= 64",
        "similarity", relative("compile", "memory floor"), AT_MOST, 1.4, pairing="pairs", images=(64, 128),
    ),
]  # fmt: skip

_ALL = [
    goal(
        "all pairs: speed-up over naive, N = 32",
        "similarity", speed_up("torch", "naive"), AT_LEAST, 2.8, pairing="all", images=32,
    ),
    goal(
        "all pairs: speed-up over naive, N = 128",
        "similarity", speed_up("torch", "naive"), AT_LEAST, 2, pairing="all", images=128,
    ),
    goal(
        "all pairs: speed-up over torch.corrcoef, N = 32",
        "similarity", speed_up("torch", "corrcoef"), AT_LEAST, 1.5, pairing="all", images=32,
    ),
    goal(
        "all pairs: time over the two matrix products, N >= 32",
        "similarity", relative("torch", "two matmuls"), AT_MOST, 1.2, pairing="all", images=_FROM_32,
    ),
]  # fmt: skip

_MEMORY_AND_ERRORS = [
    goal(
        "extra memory over the features, gradient included, N >= 32",
        "similarity", of_fused("memory"), AT_MOST, 1.05, images=_FROM_32,
    ),
    goal("error of similarities, rectified features", "precision", error("similarity"), AT_MOST, 1e-6, offset=0.0),
    goal("error of similarities, mean up to 1000 standard deviations", "precision", error("similarity"), AT_MOST, 3e-5),
    goal("error of gradients over the largest entry", "precision", error("gradient"), AT_MOST, 1e-5),
]  # fmt: skip

_STEP_LIMITS = (
    ("same batch", 1.03),
    ("same batch, attached", 1.03),
    ("separate, stem+layer1, early exit", 1.22),
    ("8 images, all pairs", 1.20),
    ("8 images, all pairs, early exit", 1.08),
)
_STEPS = [
    *(goal(f"step over plain: {mode}", "step", relative(mode, "plain"), AT_MOST, most) for mode, most in _STEP_LIMITS),
    goal("step over plain: separate, less its operations", "step", above_operations("separate"), AT_MOST, 0.06),
    goal(
        "attached: memory of the step over that of the plain one, in features",
        "step", of("memory_over_features", "same batch, attached"), AT_MOST, 0.1,
    ),
    goal("compiled step over plain: same batch", "compiled step", relative("same batch", "plain"), AT_MOST, 1.04),
    goal("compiled step: graph breaks", "compiled step", graphs("breaks"), AT_MOST, 0),
    goal("compiled step: graphs", "compiled step", graphs("graphs"), AT_MOST, 2),
    goal(
        "attacks: batches of 128, speed-up over one image at a time",
        "attacks", speed_up("batched", "one at a time"), AT_LEAST, 3, images=128,
    ),
]  # fmt: skip

_CUDA = [
    goal("pairs: launches", "similarity", of("launches", "triton"), AT_MOST, 3, device="cuda", pairing="pairs"),
    goal(
        "pairs, as CUDA graphs: time over the memory floor, N = 32",
        "similarity", relative("triton, graph", "memory floor, graph"), AT_MOST, 3,
        device="cuda", pairing="pairs", images=32,
    ),
    goal(
        "pairs: speed-up over the paper's similarity, N = 32",
        "similarity", speed_up("triton", "paper scheme"), AT_LEAST, 15, device="cuda", pairing="pairs", images=32,
    ),
    goal(
        "pairs, as CUDA graphs: speed-up over the paper's similarity, N = 32",
        "similarity", speed_up("triton, graph", "paper scheme, graph"), AT_LEAST, 5,
        device="cuda", pairing="pairs", images=32,
    ),
    goal(
        "speed-up over torch.compile(naive), N = 32",
        "similarity", speed_up("triton", "torch.compile(naive)"), AT_LEAST, 3, device="cuda", images=32,
    ),
    goal(
        "all pairs of bfloat16, as CUDA graphs: time over the memory floor",
        "similarity", relative("triton, graph", "memory floor, graph"), AT_MOST, 2.5,
        device="cuda", pairing="all", dtype="bfloat16",
    ),
    goal("same bits when repeated (1: yes)", "similarity", of("same_bits", "triton"), AT_LEAST, 1, device="cuda"),
    goal(
        "step over plain: same batch, ResNet50, 224 x 224, batch of 256",
        "large step", relative("same batch", "plain"), AT_MOST, 1.02, device="cuda", batch=256,
    ),
]  # fmt: skip

GOALS = [*_PAIRS, *_ALL, *_MEMORY_AND_ERRORS, *_STEPS, *_CUDA]
