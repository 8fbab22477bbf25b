"""The Triton kernels without a GPU: correct in the interpreter, and compiled for Hopper."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def test_backend_declines_tensors_it_cannot_take():
    from simreg.kernels import triton_backend

    if os.environ.get("TRITON_INTERPRET") != "1":
        assert triton_backend.supports([torch.zeros(4, 3, 5)], True) is not None


def test_cases_pass_in_the_interpreter():
    pytest.importorskip("triton")
    # The interpreter is chosen when kernels are defined, so it takes a process of its own.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "test_triton_cases.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
