"""``simreg evaluate``: measure a model with a suite of attacks."""

from __future__ import annotations

import argparse
from pathlib import Path

from simreg.cli._training import pick_device, positive
from simreg.comparison.surrogate import managed_surrogate
from simreg.data import DATASETS
from simreg.evaluation import (
    SUITES,
    build_suite,
    check_model,
    evaluate_model,
    load_evaluation_data,
    resolve_model,
    strengths_of,
    surrogate_from,
    text_summary,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how robust a model is",
        description="Measure how robust a classifier is: noise, white-box, transferred, decision- and score-based "
        "attacks and corruptions, with a panel on masked gradients and a plain verdict for each threat. Stopped and "
        "started again with the same --out, it goes on where it was. Values in brackets are the defaults.",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a model file of simreg; module:function that returns a model; or an architecture of torchvision or timm "
        "(resnet18, timm:resnet18), with --checkpoint or --pretrained",
    )
    add("--checkpoint", type=Path, metavar="FILE", help="weights of a named architecture")
    add("--pretrained", action="store_true", help="weights that torchvision or timm downloads")
    add("--num-classes", type=int, metavar="K", help="logits of a named architecture [classes of the data]")
    add("--mean", type=_numbers, metavar="M[,M,M]", help="subtracted from images in [0, 1] [as the model says, else 0]")
    add("--std", type=_numbers, metavar="S[,S,S]", help="divides them [as the model says, else 1]")
    add("--name", help="label of the model in tables and plots [its file or architecture]")
    data = parser.add_argument_group("data")
    add = data.add_argument
    add(
        "--data",
        required=True,
        metavar="NAME|FOLDER|FILE",
        help=f"{', '.join(DATASETS)}; a folder with test/<class>/* or <class>/*; or an .npz with images and labels",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where datasets are and are downloaded to [~/.cache/simreg]")
    add("--labels", type=Path, metavar="FILE", help="labels of an .npy file of images")
    add("--images", type=positive, metavar="N", help="at most so many test images [1000 for quick, 10000 otherwise]")
    colors = data.add_mutually_exclusive_group()
    colors.add_argument("--color", action="store_true", default=None, help="three channels [as the model says]")
    colors.add_argument("--gray", action="store_false", dest="color", default=None, help="one channel")
    add("--size", type=positive, help="side of the square images [as they are]")
    add("--corruptions", type=Path, metavar="DIR", help="folder of the published arrays, such as CIFAR-10-C")
    suite = parser.add_argument_group("suite")
    add = suite.add_argument
    add("--suite", choices=SUITES, default="quick", help="how many attacks and images [quick]")
    add("--only", metavar="KEYS", help="comma list of measurements, such as clean,gaussian,pgd_linf [all of the suite]")
    add("--surrogate", metavar="FILE|auto|none", default="auto", help="model for transferred attacks: a model file; "
        "auto trains one on the training images and keeps it [auto]")  # fmt: skip
    add("--layers", default="", metavar="NAMES", help="regularized layers, which the adaptive attack then works on")
    add("--samples", type=positive, default=16, help="passes averaged for a model that is random at inference [16]")
    add("--seed", type=int, default=0, help="seed of everything random [0]")
    add("--out", type=Path, metavar="DIR", help="where results are kept [runs/evaluate-<model>-<data>-<suite>]")
    hardware = parser.add_argument_group("hardware")
    add = hardware.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto: cuda where there is one [auto]")
    add("--batch-size", type=positive, help="images per call, halved where memory runs out [what fits]")
    add("--threads", type=positive, help="CPU threads [torch's choice]")
    add("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the summary, and say where the results are."""
    device = pick_device(args)
    progress = not args.quiet
    known = None if args.color is None else 3 if args.color else 1
    limit = args.images or (1000 if args.suite == "quick" else 10_000)
    options = {"checkpoint": args.checkpoint, "pretrained": args.pretrained, "mean": args.mean, "std": args.std}
    if args.checkpoint is None and not args.pretrained:  # a file or a function: it knows its channels, if anything does
        model = resolve_model(args.model, device=device, **options)
        color = (known or model.channels or 3) == 3
    else:
        color = known != 1
    data = load_evaluation_data(
        args.data,
        limit=limit,
        data_dir=args.data_dir,
        labels=args.labels,
        color=color,
        size=args.size,
        progress=progress,
    )
    if args.checkpoint is not None or args.pretrained:
        classes = args.num_classes or len(data.classes) or int(data.labels.max()) + 1
        channels = data.images.shape[1]
        model = resolve_model(args.model, device=device, num_classes=classes, channels=channels, **options)
    name = args.name or model.name
    check_model(model, data, samples=args.samples)  # before a surrogate is trained for it
    suite = build_suite(args.suite, strengths_of(data.dataset, data.images.shape[-1]))
    suite = suite.only([key.strip() for key in args.only.split(",")]) if args.only else suite
    surrogate, reason = None, "no surrogate: --surrogate none"
    if any(m.key.startswith("transferred") for m in suite.measurements):
        if args.surrogate == "auto":
            surrogate, reason = managed_surrogate(data, device=device, progress=progress)
        elif args.surrogate != "none":
            surrogate = surrogate_from(args.surrogate, device=device)
    out = args.out or Path("runs") / f"evaluate-{_slug(name)}-{_slug(data.name)}-{args.suite}"
    results = evaluate_model(
        type(model)(model.classifier, name, model.spec, model.classes, model.channels),
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
        progress=progress,
    )
    print(text_summary(results))
    print(f"\nwritten: {out / 'results.json'}   next: simreg report {out}")
    return 0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas between them, got {text!r}") from None


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower()).strip("-")[:60] or "model"
