"""Datasets that torchvision knows: found on disk, or downloaded within a bounded time. Internal."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simreg._images import require

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashionmnist": "FashionMNIST"}
_TIMEOUT = 10.0  # seconds without an answer before a server counts as out of reach


def torchvision_splits(name: str, root: Path, *, download: bool, progress: bool) -> tuple[Any, Any]:
    """Training and test set as torchvision's objects; ``FileNotFoundError`` names the alternatives."""
    dataset_class = getattr(require("torchvision.datasets", "torchvision"), TORCHVISION[name])
    try:
        return dataset_class(root, train=True, download=False), dataset_class(root, train=False, download=False)
    except (RuntimeError, OSError):  # not there, or incomplete: torchvision repairs it while downloading
        if not download:
            raise FileNotFoundError(_missing(name, root, "downloading was not allowed (download=False)")) from None
    return _download(name, dataset_class, root, progress=progress)


def _download(name: str, dataset_class: Any, root: Path, *, progress: bool) -> tuple[Any, Any]:
    urls = [dataset_class.url] if hasattr(dataset_class, "url") else list(dataset_class.mirrors)
    if not _reachable(urls):
        hosts = ", ".join(sorted({url.split("/")[2] for url in urls}))
        raise FileNotFoundError(_missing(name, root, f"no connection to {hosts}"))
    try:
        with _socket_timeout(3 * _TIMEOUT), _quiet(not (progress and sys.stderr.isatty())):
            return dataset_class(root, train=True, download=True), dataset_class(root, train=False, download=True)
    except (OSError, RuntimeError) as error:  # URLError and time-outs are OSErrors; a wrong checksum is a RuntimeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(_missing(name, root, f"the download failed: {reason}")) from error


def _missing(name: str, root: Path, reason: str) -> str:
    archives = sorted(path.name for path in root.glob("*") if path.name.endswith((".tar.gz", ".tgz", ".zip")))
    unpack = f" {root} holds {', '.join(archives[:3])}: if that is it, unpack it first." if archives else ""
    return (
        f"dataset {name!r} was not found in {root} and could not be downloaded: {reason}.{unpack} "
        f"Either point data_dir (--data-dir) to a folder that holds it, as torchvision stores it or as "
        f"train/<class>/* and test/<class>/*, or name an image folder instead, or use 'digits', which needs no network."
    )


def _reachable(urls: Sequence[str]) -> bool:
    """Whether one of the servers answers in time; in threads because a name look-up cannot be given a time limit."""
    answered = threading.Event()

    def ask(url: str) -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT).close()
        except urllib.error.HTTPError:
            pass  # an answer, if not a kind one
        except (OSError, ValueError):
            return
        answered.set()

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _TIMEOUT
    while any(thread.is_alive() for thread in threads) and not answered.is_set() and time.monotonic() < deadline:
        answered.wait(0.05)
    return answered.is_set()


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)  # torchvision's downloads have no time limit of their own
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _quiet(active: bool) -> Iterator[None]:
    """Swallow torchvision's progress bars and messages."""
    if not active:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
