"""``simreg select``: choose the strength of the regularizer on validation images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from simreg.cli import _training as shared


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "select",
        help="choose the regularizer's strength on validation images",
        description="Train an unregularized net and a grid of regularized ones on the training images less a "
        "validation part, weigh clean accuracy kept (R0/U0) against robustness to Gaussian noise gained (RD/UD) on "
        "that part, and choose. Test images are not touched. Stopped and started again with the same --out, it goes on "
        "where it was. Values in brackets are the defaults.",
    )
    add = parser.add_argument
    add("--results", type=Path, metavar="FILE", help="choose from a finished selection again; nothing is trained")
    add(
        "--minimum-clean-ratio",
        type=float,
        default=0.9,
        metavar="A0",
        help="smallest acceptable clean accuracy over that of the unregularized net [0.9]",
    )
    add("--out", type=Path, metavar="DIR", help="where everything is kept [runs/select-<data>]")
    _add_grid_options(parser.add_argument_group("grid"))
    shared.add_data_options(parser)
    shared.add_training_options(parser)
    shared.add_hardware_options(parser)
    parser.set_defaults(run=run)


def _add_grid_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--target", choices=["pixel", "threshold"], default="pixel", help="[pixel]")
    add(
        "--mode",
        choices=["same-batch", "separate", "joint"],
        default="same-batch",
        help="same-batch: all pairs of the task batch, early layers; separate: the paper's [same-batch]",
    )
    add("--alpha", type=shared.numbers, default=(1.0, 3.0, 10.0, 30.0), metavar="LIST", help="[1,3,10,30]")
    add("--threshold", type=shared.numbers, default=(), metavar="LIST", help="of target threshold [0.6,0.8,0.9]")
    add("--pairs", type=shared.whole_numbers, default=(), metavar="LIST", help="a step; modes separate and joint [16]")
    add(
        "--pool-size",
        type=shared.whole_numbers,
        default=(),
        metavar="LIST",
        help="regularization images; modes separate and joint [5000]",
    )
    add("--seeds", type=shared.whole_numbers, default=(0,), metavar="LIST", help="comma list [0]")
    add("--epochs", type=float, default=3.0, help="of every net [3]")
    add("--epsilon", type=shared.fraction, default=0.1, help="standard deviation of the noise [0.1]")
    add("--validation-images", type=shared.positive, metavar="N", help="[a tenth of the training images, at most 2000]")


def run(args: argparse.Namespace) -> int:
    """Select, or choose again, print the table, and say where the results are."""
    from simreg.comparison import selection_text

    results, out = _choose_again(args) if args.results is not None else _select(args)
    print(selection_text(results))
    for note in results["notes"]:
        print(f"simreg: warning: {note}", file=sys.stderr)
    if out is not None:
        print(f"\nwritten: {out / 'results.json'}   next: simreg report {out}")
    return 0


def _choose_again(args: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """The same nets under another bound; written only where ``--out`` is given."""
    from simreg.comparison import weigh
    from simreg.robustness import read_results, write_results

    path = args.results / "results.json" if args.results.is_dir() else args.results
    results = weigh(read_results(path), args.minimum_clean_ratio)
    if args.out is not None:
        write_results(args.out / "results.json", results)
    return results, args.out


def _select(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    from simreg.comparison import Grid, SelectionPlan, select

    grid = Grid(args.alpha, args.threshold, args.pairs, args.pool_size, args.target, args.mode)
    device = shared.pick_device(args)
    train = shared.load_images(args, "train", args.train_images)
    plan = SelectionPlan(
        recipe=shared.recipe(args, train.name),
        epochs=args.epochs,
        width=args.width,
        stem_stride=args.stem_stride,
        validation=args.validation_images,
        epsilon=args.epsilon,
        minimum_clean_ratio=args.minimum_clean_ratio,
        device=device,
    )
    out = args.out or Path("runs") / f"select-{train.name}"
    return select(train, grid, args.seeds, plan=plan, out=out, progress=not args.quiet), out
