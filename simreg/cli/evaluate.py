"""``simreg evaluate``: measure a model with a suite of attacks."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from simreg.cli._training import pick_device, positive
from simreg.comparison.surrogate import managed_surrogate
from simreg.data import DATASETS
from simreg.evaluation import (
    SUITES,
    EvaluationData,
    LoadedModel,
    Suite,
    build_suite,
    check_model,
    evaluate_model,
    load_evaluation_data,
    resolve_model,
    strengths_of,
    surrogate_from,
    text_summary,
)
from simreg.evaluation.data import STRENGTHS, with_strengths
from simreg.robustness import Surrogate, read_results


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how robust a model is",
        description="Measure how robust a classifier is: noise, white-box, transferred, decision- and score-based "
        "attacks and corruptions, with a panel on masked gradients and a plain verdict for each threat. Stopped and "
        "started again with the same --out, it goes on where it was. Values in brackets are the defaults.",
    )
    _add_model_options(parser)
    _add_data_options(parser.add_argument_group("data"))
    _add_suite_options(parser.add_argument_group("suite"))
    _add_hardware_options(parser.add_argument_group("hardware"))
    parser.set_defaults(run=run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a model file of simreg; module:function that returns a model; or an architecture of torchvision or timm "
        "(resnet18, timm:resnet18), with --checkpoint or --pretrained",
    )
    add("--checkpoint", type=Path, metavar="FILE", help="weights of a named architecture")
    add("--pretrained", action="store_true", help="weights that torchvision or timm downloads")
    add("--num-classes", type=positive, metavar="K", help="logits of a named architecture [classes of the data]")
    add("--mean", type=_numbers, metavar="M[,M,M]", help="subtracted from images in [0, 1] [as the model says, else 0]")
    add("--std", type=_numbers, metavar="S[,S,S]", help="divides them [as the model says, else 1]")
    add("--name", help="label of the model in tables and plots [its file, module:function or architecture]")


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data",
        required=True,
        metavar="NAME|FOLDER|FILE",
        help=f"{', '.join(DATASETS)}; a folder with test/<class>/* or <class>/*; an .npz with images and labels; or an "
        ".npy of images with --labels",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where datasets are and are downloaded to [~/.cache/simreg]")
    add("--labels", type=Path, metavar="FILE", help="labels of an .npy file of images")
    add("--images", type=positive, metavar="N", help="at most so many test images [1000 for quick, 10000 otherwise]")
    colors = group.add_mutually_exclusive_group()
    colors.add_argument("--color", action="store_true", default=None, help="three channels [as the model says]")
    colors.add_argument("--gray", action="store_false", dest="color", default=None, help="one channel")
    add("--size", type=positive, help="side of the square images [as they are; digits: 32]")
    add("--corruptions", type=Path, metavar="DIR", help="folder of the published arrays, such as CIFAR-10-C")


def _add_suite_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--suite", choices=SUITES, default="quick", help="how many attacks and images [quick]")
    add("--only", metavar="KEYS", help="comma list of measurements, such as clean,gaussian,pgd_linf [all of the suite]")
    add(
        "--strengths",
        choices=STRENGTHS,
        default="auto",
        help="how large distortions are: as for photographs (L-inf up to 8/255), or as for digits (up to 0.3); auto: "
        "digits for mnist, fashionmnist and digits, photographs for all else [auto]",
    )
    add(
        "--surrogate",
        metavar="FILE|auto|none",
        default="auto",
        help="model for transferred attacks: a model file; auto trains one on the training images and keeps it [auto]",
    )
    add("--layers", default="", metavar="NAMES", help="regularized layers, which the adaptive attack then works on")
    add("--samples", type=positive, default=16, help="passes averaged for a model that is random at inference [16]")
    add("--seed", type=int, default=0, help="seed of everything random [0]")
    add("--out", type=Path, metavar="DIR", help="where results are kept [runs/evaluate-<model>-<data>-<suite>]")


def _add_hardware_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto: cuda where there is one [auto]")
    add("--batch-size", type=positive, help="images per call, halved where memory runs out [what fits]")
    add("--threads", type=positive, help="CPU threads [torch's choice]")
    add("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the summary, and say where the results are."""
    device = pick_device(args)
    model, images = _model_and_data(args, device)
    data = with_strengths(images, args.strengths)
    check_model(model, data, samples=args.samples)  # before a surrogate is trained for it
    suite = build_suite(args.suite, strengths_of(data.dataset, data.images.shape[-1]))
    suite = suite.only([key.strip() for key in args.only.split(",")]) if args.only else suite
    out = args.out or _default_folder(args, model, data)
    _check_strengths(out, data)
    surrogate, reason = _surrogate(args, suite, data, device)
    results = evaluate_model(
        model,
        data,
        suite=suite,
        out=out,
        surrogate=surrogate,
        no_surrogate=reason,
        layers=[layer.strip() for layer in args.layers.split(",") if layer.strip()],
        corruptions=args.corruptions,
        samples=args.samples,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=not args.quiet,
    )
    print(text_summary(results))
    print(f"\nwritten: {out / 'results.json'}   next: simreg report {out}")
    return 0


def _model_and_data(args: argparse.Namespace, device: str) -> tuple[LoadedModel, EvaluationData]:
    """The model under its label, and the images; a file or a function says how many channels they have."""
    named = args.checkpoint is not None or args.pretrained
    options: dict[str, Any] = {"mean": args.mean, "std": args.std, "device": device}
    model = None if named else resolve_model(args.model, **options)
    color = args.color if args.color is not None else model is None or (model.channels or 3) == 3
    data = load_evaluation_data(
        args.data,
        limit=args.images or (1000 if args.suite == "quick" else 10_000),
        data_dir=args.data_dir,
        labels=args.labels,
        color=color,
        size=args.size,
        progress=not args.quiet,
    )
    if model is None:
        options |= {"checkpoint": args.checkpoint, "pretrained": args.pretrained}
        model = _named_architecture(args, data, options)
    return replace(model, name=args.name or model.name), data


def _named_architecture(args: argparse.Namespace, data: EvaluationData, options: dict[str, Any]) -> LoadedModel:
    """A network for the classes and channels of the data."""
    low, high = int(data.labels.min()), int(data.labels.max())
    classes = args.num_classes or len(data.classes) or high + 1
    try:
        return resolve_model(args.model, num_classes=classes, channels=data.images.shape[1], **options)
    except ValueError as error:
        if low == 0 or data.classes or args.num_classes:
            raise
        raise ValueError(
            f"{error} Or the labels are wrong: those of {data.name} are {low} to {high}, and labels count from 0."
        ) from error


def _surrogate(
    args: argparse.Namespace, suite: Suite, data: EvaluationData, device: str
) -> tuple[Surrogate | None, str]:
    """The model for transferred attacks, or None, and why there is none."""
    if args.surrogate == "none" or not any(m.key.startswith("transferred") for m in suite.measurements):
        return None, "no surrogate: --surrogate none"
    if args.surrogate == "auto":
        return managed_surrogate(data, device=device, progress=not args.quiet)
    return surrogate_from(args.surrogate, device=device), ""


def _default_folder(args: argparse.Namespace, model: LoadedModel, data: EvaluationData) -> Path:
    parts = [_slug(model.name), _slug(data.name), args.suite]
    return Path("runs") / "-".join(["evaluate", *parts, *([] if args.strengths == "auto" else [args.strengths])])


def _check_strengths(out: Path, data: EvaluationData) -> None:
    """Raise if the folder holds results with other strengths: one file has one kind."""
    path = out / "results.json"
    before = read_results(path).get("data", {}).get("strengths") if path.exists() else None
    if before not in (None, data.to_dict()["strengths"]):
        raise ValueError(f"--out {out} holds an evaluation with --strengths {before}. Choose another folder.")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from None


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:60] or "model"
