"""Every Triton kernel compiles for Hopper, without a GPU, through the launchers themselves.

As a script, compiles the kernels of one configuration in a process with a driver that only names its target, and prints
what each needs: ``python test_triton_aot.py DTYPE N PAIRED CENTERING CHANNELS_LAST``.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

SHARED = 227 * 1024  # bytes a block may have on sm_90
REGISTERS = 255
SHAPES = [(64, 32 * 32), (128, 16 * 16), (512, 7 * 7)]  # the last cannot be read in vectors
CENTERINGS = ("none", "image", "channel", "batch")
DTYPES = ("float32", "bfloat16", "float16")


class Target:
    """As much of a driver as compiling asks for."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


def compile_configuration(dtype, n, paired, centering, last):
    """What each launch of a penalty and its gradients compiles to."""
    from triton import JITFunction
    from triton.runtime import driver

    driver.set_active(Target())
    launch, found = JITFunction.run, []

    def only_compile(self, *args, grid, warmup, **options):
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        found.append({"kernel": self.__name__, **requirements(kernel)})
        return kernel

    JITFunction.run = only_compile
    from simreg.kernels import triton_backend as backend

    rows = [torch.empty(n, *(reversed(shape) if last else shape), dtype=getattr(torch, dtype)) for shape in SHAPES]
    axes = [2 if last else 1] * len(rows)
    means = [torch.zeros(x.shape[a]) for x, a in zip(rows, axes, strict=True)] if centering == "channel" else []
    targets = torch.zeros(n // 2 if paired else n * (n - 1) // 2)
    *parts, centers = backend.penalty(
        rows,
        means,
        axes,
        torch.zeros(len(rows)),
        targets,
        None,
        centering,
        paired,
        0.1,
        1e-8,
        "official",
        "arctanh",
        1.0,
    )
    backend.gradients(rows, parts[3], parts[0], centers, axes, centering, paired, list(rows))
    return found


def requirements(kernel):
    ptx = kernel.asm["ptx"]
    widths = re.findall(
        r"ld\.global[.\w]*?(?:\.v(\d))?\.b(\d+)|cp\.async\.c[ag]\.shared\.global[^,]*,[^,]*, 0x(\w+)", ptx
    )
    return {
        "shared": kernel.metadata.shared,
        "cubin": len(kernel.asm["cubin"]),
        "widest": max((int(v or 1) * int(b) // 8 if b else int(c, 16) for v, b, c in widths), default=0),
        "wgmma": "wgmma.mma_async" in ptx,
        **resources(kernel.asm["cubin"]),
    }


def resources(cubin):
    """Registers and bytes of stack of a thread, by the tool that comes with triton."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=False).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return {"registers": int(match[1]), "stack": int(match[2])} if match else {}


def compiled(tmp_path, *configuration):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "ignore", __file__, *map(str, configuration)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(kernels):
    for kernel in kernels:
        assert kernel["cubin"] > 0
        assert kernel["shared"] <= SHARED
        assert kernel.get("registers", 0) <= REGISTERS
        if not any(part in kernel["kernel"] for part in ("finalize", "reduce", "penalty")):  # those see no features
            assert kernel.get("stack", 0) <= 16, kernel  # nothing to speak of is spilled
            assert kernel["widest"] in (8, 16), kernel


@pytest.mark.parametrize(
    ("dtype", "n", "paired", "centering", "last"),
    [
        ("float32", 32, 1, "channel", 0),
        ("bfloat16", 32, 1, "image", 0),
        ("bfloat16", 32, 1, "batch", 0),
        ("float32", 32, 0, "image", 0),
        ("bfloat16", 128, 0, "channel", 1),
    ],
)
def test_kernels_compile_for_hopper(tmp_path, dtype, n, paired, centering, last):
    check(compiled(tmp_path, dtype, n, paired, centering, last))


@pytest.mark.slow
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize(
    ("paired", "n"), [(1, 2), (1, 8), (1, 64), (1, 256), (1, 512), (0, 8), (0, 16), (0, 64), (0, 128), (0, 256)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_kernels_compile_for_hopper(tmp_path, dtype, paired, n, centering, last):
    check(compiled(tmp_path, dtype, n, paired, centering, last))


if __name__ == "__main__":
    name, images, pairs, center, channels_last = sys.argv[1:]
    print(json.dumps(compile_configuration(name, int(images), bool(int(pairs)), center, bool(int(channels_last)))))
