"""``simreg compare``: train many defences with one recipe, seeds and clock, and measure them all."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from simreg.cli import _training as shared

_DEFAULT = "none,simreg,gaussian,jacobian,fgsm-rs,pgd-at,simreg+gaussian"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "compare",
        help="train defences with one recipe and measure them all",
        description="Train defences with the same network, images, order, schedule and seeds, and measure every net "
        "with a suite of attacks. Stopped and started again with the same --out, it goes on where it was; methods and "
        "seeds can be added later. Values in brackets are the defaults.",
    )
    add = parser.add_argument
    add(
        "--methods",
        default=_DEFAULT,
        metavar="LIST",
        help="comma list; settings follow a name, as in gaussian:sigma=0.05, and + combines, as in simreg+augmix "
        f"[{_DEFAULT}]",
    )
    add("--list", action="store_true", help="say which methods there are, with their settings, and stop")
    add("--seeds", type=shared.whole_numbers, default=(0,), metavar="LIST", help="comma list [0]")
    add("--epochs", type=float, default=3.0, help="of every net; 0 leaves the comparison at equal epochs out [3]")
    add(
        "--budget-seconds",
        type=float,
        metavar="S",
        help="also compare at equal training time: the schedule of every net is stretched to the steps that fit",
    )
    add(
        "--epsilon",
        type=shared.fraction,
        metavar="E",
        help="L-inf radius of adversarial training in pixel units, such as 4/255 [8/255; digits and clothes 0.3]",
    )
    add("--suite", choices=["quick", "standard", "full"], default="quick", help="attacks and images [quick]")
    add("--test-images", type=shared.positive, metavar="N", help="at most so many test images [all]")
    add("--out", type=Path, metavar="DIR", help="where everything is kept [runs/compare-<data>]")
    shared.add_data_options(parser)
    shared.add_training_options(parser)
    shared.add_hardware_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, and say where the results are."""
    from simreg.comparison import Plan, compare, comparison_text, parse_methods
    from simreg.comparison.parts import EPSILON
    from simreg.comparison.recipe import DIGIT_LIKE

    if args.list:
        print(_list())
        return 0
    parse_methods(args.methods)  # a misspelt name shows before anything is read
    device = shared.pick_device(args)
    train = shared.load_images(args, "train", args.train_images)
    epsilon = args.epsilon if args.epsilon is not None else 0.3 if train.name in DIGIT_LIKE else EPSILON
    plan = Plan(
        recipe=shared.recipe(args, train.name),
        epochs=args.epochs,
        budget_seconds=args.budget_seconds,
        width=args.width,
        stem_stride=args.stem_stride,
        suite=args.suite,
        device=device,
    )
    out = args.out or Path("runs") / f"compare-{train.name}"
    results = compare(
        train,
        shared.load_images(args, "test", args.test_images),
        parse_methods(args.methods, epsilon=epsilon),
        args.seeds,
        plan=plan,
        out=out,
        progress=not args.quiet,
    )
    print(comparison_text(results))
    print(f"\nwritten: {out / 'results.json'}   next: simreg report {out}")
    return 0


def _list() -> str:
    """All methods, their descriptions and settings."""
    from simreg.comparison import METHODS, parse_method

    blocks = []
    for name in METHODS:
        method = parse_method(name)
        settings = ":".join(f"{key}={_value(value)}" for key, value in method.settings.items())
        text = textwrap.fill(method.description, 110, initial_indent="    ", subsequent_indent="    ")
        reason = f"\n    cannot run here: {method.obstacle}" if method.obstacle else ""
        blocks.append(f"{name}\n{text}" + (f"\n    settings: {settings}" if settings else "") + reason)
    return "\n".join(blocks)


def _value(value: object) -> str:
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
