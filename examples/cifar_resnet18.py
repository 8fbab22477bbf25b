"""Main job: what the similarity regularizer does to a ResNet18's accuracy and robustness.

    python examples/cifar_resnet18.py                            # CIFAR-10, minutes on 2 CPU cores
    python examples/cifar_resnet18.py --dataset digits           # no network needed
    python examples/cifar_resnet18.py --preset paper --amp       # the paper's scheme, on a GPU

Trains the same network from the same seed without and with the regularizer (preset fast: also with Gaussian noise on
the training images, the simple alternative), measures all of them, and writes results.json, checkpoints and plots.
The training loop, with simreg's lines marked, is in training.py.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from evaluation import Evaluation, choose_budget, evaluate
from nets import Job, train_all
from report import caption, findings, table_rows, trade_off_lines, trade_offs, write_plots
from settings import Settings, build_parser, resolve
from training import Split

from simreg.comparison.checkpoints import load_checkpoint
from simreg.data import ImageData, load_dataset
from simreg.robustness import read_results, table, write_results


def run(args: argparse.Namespace) -> None:
    """Train, measure, report."""
    started = time.monotonic()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.out is not None:
        check_folder(args.out, resume=args.resume)
    job = prepare(args)
    history, surrogate, nets = train_all(job)
    evaluations = {}
    for name, model in nets.items():
        print(f"measuring {name}", flush=True)
        cache = job.out / f"evaluation-{name}.json"
        evaluations[name] = evaluate(model, job.data, job.settings, surrogate, cache=cache)
    report(job, evaluations, history, seconds=time.monotonic() - started)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; mistakes of the user end with one line and exit code 2."""
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on from here", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(args: argparse.Namespace) -> Job:
    """Load the data, settle the settings, claim the output folder."""
    data = choose_dataset(args)
    settings = resolve(args, data)
    out = args.out or Path("runs") / f"{data.name}-{settings.preset}-seed{settings.seed}"
    check_folder(out, resume=args.resume)
    claim_folder(out, {"settings": settings.to_dict(), "data_sha256": fingerprint(data)}, resume=args.resume)
    if settings.smoke:
        data = replace(data, train_images=data.train_images[:400], train_labels=data.train_labels[:400])
    training, validation = hold_out(data, settings)
    print(
        f"{data.name}: {len(training.labels)} training, {len(validation.labels)} validation, {len(data.test_labels)} "
        f"test images\nfrom {data.source}\npreset {settings.preset}, {settings.epochs} epochs, seed {settings.seed}, "
        f"{settings.device}; everything goes to {out}",
        flush=True,
    )
    if settings.smoke:
        print("smoke run: it shows that everything works; its numbers mean nothing", flush=True)
    return Job(settings, data, training, validation, out, args.data_dir)


def choose_dataset(args: argparse.Namespace) -> ImageData:
    """The dataset asked for; by default CIFAR-10, or digits where it is not to be had."""
    options = {"data_dir": args.data_dir, "color": args.color, "progress": True}
    if args.dataset is not None or args.smoke:
        return load_dataset(args.dataset or "digits", **options)
    try:
        return load_dataset("cifar10", **options)
    except FileNotFoundError as error:
        print(f"CIFAR-10 is not to be had: {error}\nRunning on the digits of scikit-learn instead.", flush=True)
        return load_dataset("digits", **options)


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise unless ``out`` can be written and holds no run that would be overwritten."""
    if holds_run(out) and not resume:
        raise ValueError(f"--out {out} holds a run already. Go on with it by --resume, or choose another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"--out {out} cannot be written ({error.strerror}). Choose another folder.") from error


def holds_run(out: Path) -> bool:
    """Whether a run has begun to train in ``out``; one that stopped before, over a mistake, leaves nothing to keep."""
    return (out / "run.json").exists() and any(out.rglob("*.safetensors"))


def claim_folder(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Note in ``out`` what is run there; a resumed run must be the same, and its checkpoints whole."""
    path = out / "run.json"
    if not holds_run(out):
        if resume:
            print(f"nothing to resume in {out} yet: starting from the beginning", flush=True)
        write_results(path, identity)
        return
    before = read_results(path)
    old, new = before["settings"], identity["settings"]
    names = sorted({*old, *new})
    changed = [
        f"{name} (was {old.get(name)!r}, now {new.get(name)!r})" for name in names if old.get(name) != new.get(name)
    ]
    if before["data_sha256"] != identity["data_sha256"] and old["dataset"] == new["dataset"]:
        changed.append("the images of the dataset")
    if changed:
        raise ValueError(
            f"--resume: the run in {out} was started with other settings: {', '.join(changed)}. "
            "Resume it with the same ones, or choose another --out."
        )
    for checkpoint in sorted(out.rglob("*.safetensors")):
        load_checkpoint(checkpoint)  # raises, naming the file, if it is damaged


def fingerprint(data: ImageData) -> str:
    """Checksum of all images and labels."""
    digest = hashlib.sha256()
    for tensor in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(tensor.numpy())
    return digest.hexdigest()


def hold_out(data: ImageData, settings: Settings) -> tuple[Split, Split]:
    """Training and validation images on the device, drawn from the seed."""
    n = len(data.train_labels)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
    held = max(min(100, n // 10), round(settings.validation_share * n))
    images, labels = data.train_images, data.train_labels
    parts = [
        Split(images[part].to(settings.device), labels[part].to(settings.device)) for part in (rows[held:], rows[:held])
    ]
    return parts[0], parts[1]


def describe_nets(job: Job, names: Sequence[str]) -> dict[str, str]:
    """A label for each net, for table and plots."""
    labels = {name: name for name in names}
    if "noise-augmented" in labels:
        labels["noise-augmented"] = f"noise augmentation {choose_budget(job.settings).noise['gaussian'] / 2:g}"
    if "equal-accuracy" in labels:
        epoch = load_checkpoint(job.out / "model-equal-accuracy.safetensors")["info"]["epoch"]
        labels["equal-accuracy"] = f"unregularized at epoch {epoch:.1f}"
    return labels


def report(job: Job, evaluations: dict[str, Evaluation], history: dict[str, Any], *, seconds: float) -> None:
    """Write results.json and the plots; print the table and what it means."""
    labels = describe_nets(job, list(evaluations))
    rows, trades = table_rows(evaluations, labels), trade_offs(evaluations)
    said = findings(evaluations, labels)
    paths = write_plots(job.out, evaluations, labels, history, job.data.name)
    results = write_results(
        job.out / "results.json",
        {
            "settings": job.settings.to_dict(),
            "data": {
                "name": job.data.name,
                "source": job.data.source,
                "classes": job.data.classes,
                "training": len(job.train.labels),
                "validation": len(job.validation.labels),
                "test": len(job.data.test_labels),
                "image_shape": list(job.data.train_images.shape[1:]),
            },
            "models": {
                name: {"label": labels[name], **evaluation.sweeps, "boundary": evaluation.boundary}
                for name, evaluation in evaluations.items()
            },
            "trade_off": trades,
            "findings": said,
            "table": rows,
            "history": history,
            "seconds_of_the_last_start": seconds,
        },
    )
    (job.out / "table.md").write_text(table(rows, style="markdown") + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n{caption(evaluations['regularized'])}\n")
    print("\n".join([*trade_off_lines(trades), "", *said, ""]))
    weights = ", ".join(f"{layer} {values[-1]:.2f}" for layer, values in history.get("layer_weights", {}).items())
    print(f"layer weights at the end: {weights}\nwritten: {', '.join(map(str, [results, *paths]))}")
    print(f"checkpoints: {job.out}/model-*.safetensors\n{seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
