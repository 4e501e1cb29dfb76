"""The commands `train` and `evaluate`: argparse only, the work is imported late."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping


def add_parsers(subparsers: Any) -> None:
    """Add the parsers of `train` and `evaluate` to the command line."""
    _add_train(subparsers)
    _add_evaluate(subparsers)


def shares(text: str) -> dict[str, float]:
    """Read NAME=NUMBER,NAME=NUMBER,... as shares of the whole."""
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        found = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=NUMBER,NAME=NUMBER"
        ) from None
    total = sum(found.values())
    if min(found.values()) < 0 or not 0 < total < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: shares must be 0 or more, and not all 0"
        )
    return {name: value / total for name, value in found.items()}


def pair(text: str) -> tuple[float, float]:
    """Read LOW,HIGH."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH") from None
    return low, high


def numbers(text: str) -> tuple[int, ...]:
    """Read N,N,..."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers N,N,..."
        ) from None


# -------------------------------------------------------------------- train


def _add_train(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train or fine-tune a model on your own images",
        description="Train a model on a folder of sharp images. Their low-resolution "
        "sides are made from them. The result is a model folder for --model; running "
        "the same command again continues an interrupted run. Folders inside FOLDER "
        "are kinds of images, scored separately.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", type=Path, help="images to learn from"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="model folder"
    )
    _add_start(parser.add_argument_group("what to start from"))
    _add_budget(parser.add_argument_group("how long and how"))
    _add_images(parser.add_argument_group("images and their degradation"))
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.add_argument(
        "--json", action="store_true", help="one JSON record per line on stdout"
    )
    parser.set_defaults(run=_train)


def _add_start(group: Any) -> None:
    group.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="fine-tune this model (a name, folder or file); without it a new network "
        "starts at bicubic interpolation",
    )
    group.add_argument(
        "--upscale",
        type=int,
        metavar="N",
        help="factor, a multiple of that of the model after --from [the model's own]",
    )
    group.add_argument(
        "--embed-dim", type=int, default=48, metavar="N", help="width [%(default)s]"
    )
    group.add_argument(
        "--depths", type=numbers, default=(4, 4), metavar="N,N", help="layers [4,4]"
    )
    group.add_argument(
        "--heads", type=numbers, default=(3, 3), metavar="N,N", help="heads [3,3]"
    )
    group.add_argument(
        "--teacher",
        metavar="MODEL",
        help="a stronger model whose results are learned too, on clean samples",
    )
    group.add_argument(
        "--teacher-crops",
        type=int,
        default=1500,
        metavar="N",
        help="crops the teacher labels before training starts [%(default)s]",
    )
    group.add_argument(
        "--teacher-share",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="share of samples taken from them [%(default)s]",
    )


def _add_budget(group: Any) -> None:
    group.add_argument(
        "--minutes", type=float, metavar="M", help="time budget [10, if no --steps]"
    )
    group.add_argument("--steps", type=int, metavar="N", help="optimiser steps")
    group.add_argument(
        "--batch", type=int, default=8, metavar="N", help="[%(default)s]"
    )
    group.add_argument(
        "--patch",
        type=int,
        default=32,
        metavar="N",
        help="side of a low-resolution crop, in px [%(default)s]",
    )
    group.add_argument(
        "--learning-rate", type=float, default=5e-4, metavar="X", help="[%(default)s]"
    )
    group.add_argument(
        "--psnr-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="last share of the budget that raises the PSNR of each sample instead of "
        "lowering its absolute error [%(default)s]",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="[%(default)s]")
    group.add_argument(
        "--validate-every",
        type=int,
        default=250,
        metavar="N",
        help="steps between validations [%(default)s]",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, mps [auto]")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="arithmetic inside the transformer; auto: bf16 where the device has it",
    )
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    group.add_argument(
        "--fresh", action="store_true", help="forget an interrupted run in OUT"
    )


def _add_images(group: Any) -> None:
    group.add_argument(
        "--mix",
        type=shares,
        default={},
        metavar="KIND=X,...",
        help="shares of the kinds of images (folder names)",
    )
    group.add_argument(
        "--smooth",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of samples blurred before, as if out of focus [%(default)s]",
    )
    group.add_argument(
        "--downscale",
        type=shares,
        default={"bicubic": 0.5, "area": 0.25, "psf": 0.25},
        metavar="WAY=X,...",
        help="shares of the ways to make the small image: bicubic (benchmarks), area "
        "(camera binning), psf (blur) [bicubic=50,area=25,psf=25]",
    )
    group.add_argument(
        "--noise",
        type=float,
        default=0.35,
        metavar="SHARE",
        help="share of samples with camera noise [%(default)s]",
    )
    group.add_argument(
        "--photons",
        type=pair,
        default=(60.0, 3000.0),
        metavar="LOW,HIGH",
        help="photons at full scale of noisy samples [60,3000]",
    )
    group.add_argument(
        "--read-noise",
        type=pair,
        default=(0.002, 0.02),
        metavar="LOW,HIGH",
        help="their read-out noise, as a share of full scale [0.002,0.02]",
    )
    group.add_argument(
        "--hot",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of samples with hot pixels [%(default)s]",
    )
    group.add_argument(
        "--jpeg", type=float, default=0.0, metavar="SHARE", help="JPEG samples [0]"
    )
    group.add_argument(
        "--validation",
        type=float,
        default=0.15,
        metavar="SHARE",
        help="share of files held out, chosen by file name [%(default)s]",
    )


def _train(args: argparse.Namespace) -> int:
    from napari_swin2sr.cli.console import complain, emit, interruptible
    from napari_swin2sr.training.run import Plan, train

    plan = Plan(
        folders=tuple(args.folders),
        output=args.output,
        start=args.start,
        upscale=args.upscale,
        embed_dim=args.embed_dim,
        depths=args.depths,
        heads=args.heads,
        teacher=args.teacher,
        teacher_crops=args.teacher_crops,
        validation=args.validation,
        device=args.device,
        options=_train_options(args),
    )

    def report(record: Mapping[str, Any]) -> None:
        if args.json:
            emit(record)
        elif not args.quiet:
            complain(_line(record))

    with interruptible() as token:
        folder = train(plan, fresh=args.fresh, report=report, cancelled=token.is_set)
        if token.is_set():
            complain(f"stopped; the same command continues. So far: {folder}")
            return 128 + int(token.signum)
    if args.json:
        emit({"event": "result", "output": str(folder)})
    else:
        sys.stdout.write(f"{folder}\n")
    return 0


def _train_options(args: argparse.Namespace) -> Any:
    from napari_swin2sr.training.degrade import DOWNSCALES, Degradation
    from napari_swin2sr.training.options import TrainOptions

    for way in args.downscale:
        if way not in DOWNSCALES:
            raise OptionError(
                f"downscale names {way!r}, which is not one of {', '.join(DOWNSCALES)}"
            )
    ways = {way: args.downscale.get(way, 0.0) for way in DOWNSCALES}
    minutes = args.minutes
    if minutes is None and args.steps is None:
        minutes = 10.0
    return TrainOptions(
        minutes=minutes,
        steps=args.steps,
        batch=args.batch,
        patch=args.patch,
        learning_rate=args.learning_rate,
        seed=args.seed,
        mix=args.mix,
        smooth=args.smooth,
        degradation=Degradation(
            **ways,
            noise=args.noise,
            photons=args.photons,
            read_noise=args.read_noise,
            hot=args.hot,
            jpeg=args.jpeg,
        ),
        teacher_share=args.teacher_share,
        psnr_share=args.psnr_share,
        validate_every=args.validate_every,
        precision=args.precision,
        threads=args.threads,
    )


def _line(record: Mapping[str, Any]) -> str:
    """One line of text for a progress record."""
    if record["event"] != "validation":
        return str(record["message"])
    gains = "  ".join(f"{k} {v:+.2f}" for k, v in record["validation"].items())
    loss = "" if record["loss"] is None else f"loss {record['loss']:.5f}  "
    return (
        f"step {record['step']}  {record['seconds'] / 60:.1f} min  "
        f"{loss}{record['samples_per_second']:.1f} crops/s  "
        f"dB over bicubic: {gains}"
    )


# ----------------------------------------------------------------- evaluate


def _add_evaluate(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model on images or pairs of images",
        description="Measure a model. A folder with HR and LR pictures (sub-folders HR "
        "and LR_bicubic/X2, HR and LR_X2, ...) is a set of pairs; of other images the "
        "low-resolution side is made here, as MATLAB's bicubic imresize does.",
    )
    parser.add_argument("model", metavar="MODEL", help="name, folder or file")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGES", help="folders or files"
    )
    parser.add_argument(
        "--measure",
        choices=("auto", "y", "linear"),
        default="auto",
        help="y: 8-bit luma as in published tables; linear: values as they are, peak "
        "1; auto: y for 8-bit colour, linear for the rest",
    )
    parser.add_argument(
        "--border", type=int, metavar="N", help="px dropped on each side [the factor]"
    )
    parser.add_argument(
        "--noise",
        type=pair,
        metavar="PHOTONS,SIGMA",
        help="add this noise to the low-resolution side",
    )
    parser.add_argument(
        "--crop",
        type=int,
        metavar="N",
        help="use only the centre N x N px of each image",
    )
    parser.add_argument(
        "--against",
        default="bicubic",
        metavar="NAME,...",
        help="comparisons: nearest, bicubic, lanczos, or models [%(default)s]",
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="write a picture of crops to look at"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps [auto]")
    parser.add_argument(
        "--json", action="store_true", help="one JSON record per line on stdout"
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from napari_swin2sr.cli.console import emit
    from napari_swin2sr.training.evaluate import evaluate, summary, table
    from napari_swin2sr.training.sheet import write_sheet

    methods = (*(name for name in args.against.split(",") if name), args.model)
    scores = evaluate(
        methods,
        args.images,
        measure=args.measure,
        border=args.border,
        noise=args.noise,
        crop=args.crop,
        device=args.device,
        keep_crops=args.sheet is not None,
    )
    if args.json:
        for score in scores:
            emit({"event": "score", **score.as_dict()})
        emit({"event": "summary", "means": summary(scores)})
    else:
        sys.stdout.write(table(scores))
    if args.sheet is not None:
        write_sheet(args.sheet, scores)
        if not args.json:
            sys.stdout.write(f"{args.sheet}\n")
    return 0
