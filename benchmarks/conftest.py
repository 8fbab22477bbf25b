import sys
from pathlib import Path

import pytest
import torch

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))  # scripts, which import their neighbours

from environment import environment, keep_freed_memory  # noqa: E402

SIZES = ("smoke", "default", "full")


def pytest_addoption(parser):
    parser.addoption(
        "--sizes",
        choices=SIZES,
        default="default",
        help="smoke: a minute or two, to see that everything runs; full: every layer set, N and centring",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "sizes(smoke, default, full): values of the argument `case` for each --sizes")


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("sizes")
    if marker is not None:
        metafunc.parametrize("case", marker.kwargs[metafunc.config.getoption("--sizes")], ids=str)


def pytest_sessionstart(session):
    torch.set_num_threads(1)
    keep_freed_memory()


@pytest.fixture
def rounds(request):
    """Rounds of a race: the number given, but two for ``--sizes=smoke``."""
    smoke = request.config.getoption("--sizes") == "smoke"
    return lambda number: 2 if smoke else number


@pytest.fixture(scope="session")
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.clear()  # it names the host


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep what the tables are made of: quartiles, not each round."""
    found = environment()
    for benchmark in output_json["benchmarks"]:
        benchmark["extra_info"]["environment"] = found
        kept = ("median", "q1", "q3", "rounds")
        benchmark["stats"] = {name: benchmark["stats"][name] for name in kept}
        for name in ("options", "params", "param", "fullname"):
            benchmark.pop(name, None)
    output_json["commit_info"] = {"id": found["commit"]}
