import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import simreg

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "timm",
    "torchvision",
    "foolbox",
    "triton",
    "matplotlib",
    "PIL",
    "sklearn",
    "safetensors",
    "tqdm",
    "lightning",
)


def test_import_and_training_need_torch_and_numpy_alone():
    code = f"""
    import sys
    import torch, torch._dynamo  # look for optional packages themselves
    blocked = {OPTIONAL!r}
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in blocked:
                raise ImportError("blocked: " + name)
    sys.meta_path.insert(0, Block())
    import simreg, simreg.robustness, simreg.data
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    pool = simreg.RegularizationPool(torch.rand(20, 1, 8, 8), simreg.PixelTarget())
    reg = simreg.SimilarityRegularizer(model, layers=["0", "1"])
    optimizer = torch.optim.SGD([*model.parameters(), *reg.parameters()], lr=0.1)
    for _, batch in zip(range(3), pool.batches(4)):
        optimizer.zero_grad(); reg(batch).backward(); optimizer.step()
    print("trained", len(reg.stats))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained")


def test_version_is_that_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE).group(1) == simreg.__version__
    assert f"## [{simreg.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def imports_of(path):
    """Modules of simreg that a file imports."""
    text = path.read_text()
    found = set(re.findall(r"^from simreg\.([\w.]+) import", text, re.MULTILINE))
    for line in re.findall(r"^from simreg import (.+)$", text, re.MULTILINE):
        found |= {name.strip().split(" as ")[0] for name in line.split(",")}
    return {name.split(".")[0] for name in found}


ALLOWED = {
    "_checks": set(),
    "layers": {"_checks"},
    "features": {"_checks", "layers"},
    "kernels": {"_checks", "kernels"},
    "passes": {"_checks", "features"},
    "functional": {"_checks", "kernels"},
    "centering": {"kernels"},
    "targets": {"_checks", "functional", "targets"},
    "batch": {"_checks", "targets"},
    "health": {"targets"},
    "pool": {"_checks", "batch", "functional", "health", "targets"},
    "watch": {"_checks"},
    "cost": {"_checks", "features"},
    "regularizer": {
        "_checks",
        "batch",
        "centering",
        "cost",
        "features",
        "functional",
        "kernels",
        "layers",
        "passes",
        "targets",
        "watch",
    },
    "robustness": {"_checks", "robustness"},
    "data": {"_checks"},
    "nets": {"_checks"},
    "model_files": {"_checks"},
    "evaluation": {"_checks", "data", "evaluation", "model_files", "robustness"},
    "comparison": {
        "_checks",
        "comparison",
        "data",
        "evaluation",
        "model_files",
        "nets",
        "robustness",
    },
    "reporting": {"_checks", "reporting", "robustness"},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_go_one_way(name):
    path = ROOT / "simreg" / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files
    for file in files:
        assert imports_of(file) <= ALLOWED[name], file


def test_readme_loop_runs(tmp_path):
    """The training loop that the README shows, on stand-ins for the reader's model and loader."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert any("# <- the one line" in block for block in blocks)
    g = torch.Generator().manual_seed(0)
    for block in blocks:
        loader = [(torch.rand(8, 3, 32, 32, generator=g), torch.randint(10, (8,), generator=g)) for _ in range(2)]
        images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=g)
        exec(block, {"loader": loader, "images": images, "__name__": "readme"})
