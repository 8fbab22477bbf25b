from pathlib import Path

import pytest
from harness import environment, prepare_process, race


def pytest_addoption(parser):
    parser.addoption("--sizes", choices=("default", "smoke"), default="default", help="smoke: tiny inputs, two rounds")


def pytest_configure(config):
    (Path(__file__).parent / "results").mkdir(exist_ok=True)  # where --benchmark-json writes at the very end
    config.addinivalue_line("markers", "sizes(default, smoke): values of the argument `case` for each --sizes")
    prepare_process()


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("sizes")
    if marker is not None:
        metafunc.parametrize("case", marker.kwargs[metafunc.config.getoption("--sizes")], ids=str)


@pytest.fixture
def compare(benchmark, request):
    """A race, of two rounds for ``--sizes smoke``; what pytest-benchmark itself times is the whole of it."""

    def run(candidates, bases, rounds, **noted):
        smoke = request.config.getoption("--sizes") == "smoke"
        found = benchmark.pedantic(race, args=(candidates, bases, 2 if smoke else rounds))
        benchmark.extra_info.update(noted, **found, environment=environment())

    return run


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep what the tables are made of: nothing that names the host, quartiles instead of each round."""
    kept = ("name", "group", "extra_info")
    output_json["benchmarks"] = [{key: b[key] for key in kept} for b in output_json["benchmarks"]]
    output_json["machine_info"] = environment()
    output_json["commit_info"] = {"id": output_json["machine_info"]["commit"]}
