"""How many images a model takes at once: by the memory that one of them needs and the memory that is free."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from simreg.evaluation.suites import Subject
from simreg.robustness import Classifier, ExpectedClassifier
from simreg.robustness.classifier import evaluation_mode, unit_float

_LARGEST_GPU_BATCH = 1024
_LARGEST_BATCH = 128  # elsewhere, where larger ones are no faster
_FREE_SHARE = 0.5  # of the free memory that a batch may take
_TRIED = 4  # images of the trial


def fitting_batch(subject: Subject) -> int:
    """Images whose forward and backward pass takes half of the free memory: at most 1024 on a GPU, 128 elsewhere.

    A model whose results depend on the batch, such as one that is random at inference, takes 128 on a GPU too. Where
    nothing can be measured, such as for a model without gradient, the largest number is returned: lack of memory halves
    it later.
    """
    device = subject.classifier.device or torch.device("cpu")
    batch_matters = subject.batch_matters or isinstance(subject.classifier, ExpectedClassifier)
    largest = _LARGEST_GPU_BATCH if device.type == "cuda" and not batch_matters else _LARGEST_BATCH
    free = free_memory(device)
    if free is None:
        return largest
    try:
        each = bytes_per_image(subject.classifier, subject.images[:_TRIED])
    except (RuntimeError, ValueError):  # no gradient, or no room even for the trial
        return largest
    fits = max(1, int(_FREE_SHARE * free / max(each, 1)))
    return min(largest, 1 << fits.bit_length() - 1)


def bytes_per_image(classifier: Classifier, images: Tensor) -> int:
    """Memory that a forward and a backward pass take for each image: measured on a GPU, elsewhere from what is saved.

    Raises:
        RuntimeError: If the model has no gradient.
    """
    device = classifier.device or images.device
    saved: dict[int, torch.UntypedStorage] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(classifier.model):
        pixels = unit_float(images).to(device).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = classifier(pixels)
        torch.autograd.grad(logits.sum(), pixels)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) - before) // len(pixels)
    model = classifier.model
    for tensor in (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ():
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    # gradients and work space take about as much again
    return 2 * sum(storage.nbytes() for storage in saved.values()) // len(pixels)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be used, on Linux within the limit of a container; None where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = _text("/proc/meminfo").splitlines()
    known = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        known.append(max(0, int(limit) - int(used)))
    return min(known, default=None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
