"""Measure the shipped models and write the tables of docs/models.md.

Usage: python scripts/model_card.py [--measure] [--limit N] [METHOD ...]

With --measure, scores of the METHODs (default: all) are computed and kept in
docs/images/model-scores.json; tables are always written from that file. The images
are not part of the repository: NAPARI_SWIN2SR_SHARED, or ../shared beside it, names
the folder with testsets/, traindata/ and weights/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import skimage.data

from napari_swin2sr.model.zoo import resolve_model
from napari_swin2sr.training.data import find_images, held_out
from napari_swin2sr.training.evaluate import evaluate
from napari_swin2sr.training.sheet import write_sheet

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NAPARI_SWIN2SR_SHARED", ROOT.parent / "shared"))
SCORES = Path(os.environ.get("SCORES", ROOT / "docs" / "images" / "model-scores.json"))
PAGE = ROOT / "docs" / "models.md"
CARD = ROOT / "src" / "napari_swin2sr" / "models" / "default" / "README.md"
CLEAN_CARD = CARD.parents[1] / "default-clean" / "README.md"
RECORD = CARD.parent / "training.json"
LIGHTWEIGHT = SHARED / "weights" / "swin2sr-lightweight-x2-64"
MODELS = {
    "default": "default",
    "default-clean": "default-clean",
    "lightweight-x2": str(LIGHTWEIGHT),
}
METHODS = ("nearest", "bicubic", "lanczos", *MODELS)
NOISE = (150.0, 0.01)
CROP = 384
VALIDATION = 0.2  # the share that the recipe of the default holds out
DOMAINS = ("natural", "fluorescence", "histology_brightfield", "satellite")
PICTURES = (
    *("cell", "microaneurysms", "retina", "ihc", "moon", "hubble_deep_field"),
    *("brick", "grass", "gravel", "coins"),
)
START, END = "<!-- {} -->", "<!-- end {} -->"


def validation_files(domain: str, limit: int) -> list[Path]:
    """Return up to `limit` validation files of a domain, evenly spread by name."""
    files = sorted(held_out(find_images(SHARED / "traindata" / domain), VALIDATION))
    picked = np.linspace(0, len(files) - 1, min(limit, len(files))).astype(int)
    return [files[i] for i in np.unique(picked)]


def sets(limit: int) -> dict[str, dict]:
    """Return every measurement: name -> keywords of `evaluate`."""
    benchmark = {"measure": "y"}
    found = {
        "Set5": {"paths": [SHARED / "testsets" / "Set5"], **benchmark},
        "BSD100, every fourth": {
            "paths": [SHARED / "testsets" / "BSD100"],
            **benchmark,
        },
    }
    for domain in DOMAINS:
        clean = {
            "paths": validation_files(domain, limit),
            "measure": "linear",
            "border": 4,
            "crop": CROP,
        }
        found[f"{domain}, clean"] = clean
        found[f"{domain}, noisy"] = {**clean, "noise": NOISE}
    return found


def measure(methods: list[str], limit: int) -> None:
    """Compute the scores of some methods on every set; keep those of the others."""
    stored = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    for name, keywords in sets(limit).items():
        paths = keywords.pop("paths")
        for method in methods:
            weights = MODELS.get(method, method)
            scores = evaluate([weights], paths, upscale=2, **keywords)
            stored.setdefault(name, {})[method] = {
                score.image: [
                    round(score.psnr, 4),
                    round(score.ssim, 5),
                    round(score.intensity, 6),
                ]
                for score in scores
            }
            print(name, method, mean(stored[name][method]), flush=True)
            SCORES.parent.mkdir(parents=True, exist_ok=True)
            SCORES.write_text(json.dumps(stored, indent=1) + "\n")


def mean(found: dict[str, list[float]]) -> tuple[float, float]:
    """Mean PSNR and SSIM."""
    values = np.mean([row[:2] for row in found.values()], axis=0)
    return round(float(values[0]), 3), round(float(values[1]), 4)


def tables(stored: dict) -> str:
    """Return the tables of the page."""
    methods = [m for m in METHODS if m in stored["Set5"]]
    lines = [f"| images | n | {' | '.join(methods)} |"]
    lines.append("|---" * (len(methods) + 2) + "|")
    for name, rows in stored.items():
        count = len(rows["bicubic"])
        cells = []
        for method in methods:
            values = mean(rows[method]) if method in rows else None
            cells.append(f"{values[0]:.2f} / {values[1]:.4f}" if values else "-")
        lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    lines += [
        "",
        "`default` against bicubic interpolation, image by image: PSNR in dB, and "
        "total intensity of the result over that of the truth.",
        "",
        "| images | mean | worst image | best image | intensity |",
        "|---|---|---|---|---|",
    ]
    for name, rows in stored.items():
        gains = gains_over_bicubic(rows)
        worst, best = min(gains, key=gains.get), max(gains, key=gains.get)
        sums = [row[2] for row in rows["default"].values()]
        lines.append(
            f"| {name} | {np.mean(list(gains.values())):+.2f} | "
            f"{gains[worst]:+.2f} ({worst}) | {gains[best]:+.2f} ({best}) | "
            f"{min(sums):.4f} to {max(sums):.4f} |"
        )
    return "\n".join(lines)


def gains_over_bicubic(rows: dict) -> dict[str, float]:
    """PSNR of the default minus that of bicubic interpolation, per image."""
    return {k: rows["default"][k][0] - v[0] for k, v in rows["bicubic"].items()}


def recipe() -> str:
    """Return the recorded runs as commands."""
    record = json.loads(RECORD.read_text())
    last = record["history"][-1]
    lines = [
        "Starting weights: 28 minutes on one CPU core by the same recipe "
        "(3990 steps on clean crops, half of the loss against the official "
        "lightweight network, then 1630 steps with noise). Then, each run continuing "
        "the one before (recorded in `training.json`):",
        "",
    ]
    for run in record["runs"]:
        lines += [f"from step {run['from_step']}:", "", "```console", command(run)]
        lines += ["```", ""]
    lines.append(
        f"{last['step']} steps of 8 crops in all, {last['seconds'] / 60:.0f} minutes "
        "on the clock with one thread on a busy two-core machine. No GPU was used; a "
        "better model from one is future work. What the commands do not show: the "
        "first 781 steps had the options of the first command but held out other "
        "files, and the code learned on the way to draw dim samples (step 2033), to "
        "punish a wrong mean (step 2154) and to leave noise below zero unclipped "
        "(step 2652)."
    )
    return "\n".join(lines)


def command(run: dict) -> str:
    """Write the options of a run as a command line."""
    options = run["options"]
    degradation = options["degradation"]

    def listed(values: dict) -> str:
        return ",".join(f"{k}={round(100 * v, 1):g}" for k, v in values.items())

    ways = {way: degradation[way] for way in ("bicubic", "area", "psf")}
    words = [
        f"$ napari-swin2sr train {' '.join(run['folders'])} -o default",
        f"--from {run['start']} --minutes {options['minutes']:g}",
        f"--learning-rate {options['learning_rate']:g}",
        f"--mix {listed(options['mix'])}",
        f"--downscale {listed(ways)} --noise {degradation['noise']:g}",
        "--photons " + ",".join(f"{v:g}" for v in degradation["photons"]),
        "--read-noise " + ",".join(f"{v:g}" for v in degradation["read_noise"]),
        f"--hot {degradation.get('hot', 0):g} --validation {run['validation']:g}",
        f"--seed {options['seed']} --threads 1",
    ]
    return " \\\n    ".join(words)


def replace(path: Path, name: str, text: str) -> None:
    """Put text between the marks `name` of a page."""
    page = path.read_text()
    start, end = START.format(name), END.format(name)
    before, rest = page.split(start)
    _, after = rest.split(end)
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


def pictures() -> None:
    """Draw crops of the images with the smallest gain: where the model fails.

    They are free pictures inside scikit-image, none of which the model was trained on.
    """
    folder = Path(skimage.data.__file__).parent
    paths = [next(folder.glob(f"{name}.*")) for name in PICTURES]
    common = {"measure": "linear", "border": 4, "crop": CROP, "keep_crops": True}
    worst: list = []
    for kind, noise in (("clean", None), ("noisy", NOISE)):
        methods = {"bicubic": {}, "default": {}}
        for score in evaluate(list(methods), paths, noise=noise, **common):
            methods[score.method][score.image] = score
        pairs = list(zip(*(m.values() for m in methods.values()), strict=True))
        pairs.sort(key=lambda pair: pair[1].psnr - pair[0].psnr)
        for pair in pairs[:3]:
            worst += [dataclasses.replace(score, kind=kind) for score in pair]
    write_sheet(ROOT / "docs" / "images" / "model-failures.png", worst)


def main() -> None:
    """Measure if asked, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--limit", type=int, default=8, help="images per domain")
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    args = parser.parse_args()
    if args.measure:
        print(resolve_model("default").sha256)
        measure(args.methods, args.limit)
    text = tables(json.loads(SCORES.read_text()))
    for path in (PAGE, CARD, CLEAN_CARD):
        replace(path, "tables", text)
    for path in (PAGE, CARD):
        replace(path, "recipe", recipe())
    if args.pictures:
        pictures()


if __name__ == "__main__":
    main()
