"""The Triton kernels without a GPU: correct in the interpreter, and compiled for Hopper."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = 227 * 1024  # bytes a block may have on sm_90

COMPILE = """
import itertools, sys, types
import torch
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from simreg.kernels import triton_loops as loops

driver.set_active(types.SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0,
    get_current_stream=lambda device=None: 0, get_active_torch_device=lambda: torch.device("cpu")))
launch = JITFunction.run

def only_compile(self, *args, grid, warmup, **options):
    kernel = launch(self, *args, grid=grid, warmup=True, **options)
    print(self.__name__, kernel.metadata.shared, kernel.asm["ptx"].count(".local"), flush=True)
    return kernel

JITFunction.run = only_compile
for dtype, n, last in itertools.product((torch.float32, torch.bfloat16), (2, 32, 128), (False, True)):
    rows = torch.empty(n, 49, 64, dtype=dtype) if last else torch.empty(n, 64, 49, dtype=dtype)
    for paired in (True, False):
        _, center = loops.products(rows, 2 if last else 1, "channel", torch.zeros(64), 0.1, paired)
        factors = torch.empty(n // 2, 2, 2) if paired else torch.empty(n, n)
        loops.gradient(rows, center, "channel", factors)
"""


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_cases_pass_in_the_interpreter():
    pytest.importorskip("triton")
    # The interpreter is chosen when kernels are defined, so it takes a process of its own.
    options = ("-q", "-x", "-p", "no:cacheprovider", "-k", "triton_loops")
    assert " passed" in run("-m", "pytest", *options, "tests/test_kernels.py", TRITON_INTERPRET="1")


def test_kernels_compile_for_hopper_within_its_memory():
    pytest.importorskip("triton")
    lines = [line.split() for line in run("-c", COMPILE, TRITON_INTERPRET="0").splitlines()]
    assert {name for name, *_ in lines} == {"_pair_products", "_pair_gradient", "_gram", "_gram_gradient"}
    assert all(int(shared) <= SHARED for _, shared, _ in lines)
    assert all(int(spills) == 0 for name, _, spills in lines if name.startswith("_pair"))
