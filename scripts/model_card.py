"""Measure the shipped models and write the tables of docs/models.md.

Usage: python scripts/model_card.py [--measure] [--pictures] [METHOD ...]

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

from napari_swin2sr.training.data import find_images, held_out
from napari_swin2sr.training.evaluate import evaluate, write_sheet
from napari_swin2sr.training.run import flat_options

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NAPARI_SWIN2SR_SHARED", ROOT.parent / "shared"))
SCORES = Path(os.environ.get("SCORES", ROOT / "docs" / "images" / "model-scores.json"))
PAGE = ROOT / "docs" / "models.md"
FOLDERS = {
    name: ROOT / "src" / "napari_swin2sr" / "embedded" / name
    for name in ("default", "default-clean")
}
LIGHTWEIGHT = SHARED / "weights" / "swin2sr-lightweight-x2-64"
MODELS = {
    "default": "default",
    "default-clean": "default-clean",
    "lightweight-x2": str(LIGHTWEIGHT),
}
METHODS = ("nearest", "bicubic", "lanczos", *MODELS)
NOISES = {
    "60 photons": (60.0, 0.02),
    "150 photons": (150.0, 0.01),
    "600 photons": (600.0, 0.005),
}
CROP = 384
VALIDATION = 0.2  # the share that the recipe of the default holds out
DOMAINS = ("natural", "fluorescence", "histology_brightfield", "satellite")
PICTURES = (
    *("cell", "microaneurysms", "retina", "ihc", "moon", "hubble_deep_field"),
    *("brick", "grass", "gravel", "coins"),
)
START, END = "<!-- {} -->", "<!-- end {} -->"


def sets() -> dict[str, dict]:
    """Return every measurement: name -> keywords of `evaluate`."""
    found = {
        name: {"paths": [SHARED / "testsets" / folder], "measure": "y"}
        for name, folder in (("Set5", "Set5"), ("BSD100, every fourth", "BSD100"))
    }
    for domain in DOMAINS:
        files = sorted(held_out(find_images(SHARED / "traindata" / domain), VALIDATION))
        clean = {"paths": files, "measure": "linear", "border": 4, "crop": CROP}
        found[f"{domain}, clean"] = clean
        for level, noise in NOISES.items():
            found[f"{domain}, {level}"] = {**clean, "noise": noise}
    return found


def measure(methods: list[str]) -> None:
    """Compute the scores of some methods on every set; keep those of the others."""
    stored = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    names = sets()
    stored = {name: stored.get(name, {}) for name in names}
    for name, keywords in names.items():
        paths = keywords.pop("paths")
        for method in methods:
            weights = MODELS.get(method, method)
            scores = evaluate([weights], paths, upscale=2, **keywords)
            stored[name][method] = {
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


def tables(stored: dict, models: tuple[str, ...]) -> str:
    """Return the table of all methods, and one image by image for some models."""
    methods = [m for m in METHODS if m in stored["Set5"]]
    lines = [f"| images | n | {' | '.join(methods)} |"]
    lines.append("|---" * (len(methods) + 2) + "|")
    for name, rows in stored.items():
        cells = ["{:.2f} / {:.4f}".format(*mean(rows[method])) for method in methods]
        lines.append(f"| {name} | {len(rows['bicubic'])} | {' | '.join(cells)} |")
    for model in models:
        lines += [
            "",
            f"`{model}` against bicubic interpolation, image by image: PSNR in dB, how "
            "many are below, and total intensity over that of the interpolation.",
            "",
            "| images | mean | worst image | best image | below | intensity |",
            "|---|---|---|---|---|---|",
            *(gains_row(name, rows, model) for name, rows in stored.items()),
        ]
    return "\n".join(lines)


def gains_row(name: str, rows: dict, model: str) -> str:
    """Return a model's gain over bicubic interpolation on one set, as a table row."""
    gains = {k: rows[model][k][0] - v[0] for k, v in rows["bicubic"].items()}
    worst, best = min(gains, key=gains.get), max(gains, key=gains.get)
    sums = [row[2] / rows["bicubic"][k][2] for k, row in rows[model].items()]
    return (
        f"| {name} | {np.mean(list(gains.values())):+.2f} | "
        f"{gains[worst]:+.2f} ({worst}) | {gains[best]:+.2f} ({best}) | "
        f"{sum(gain < 0 for gain in gains.values())} of {len(gains)} | "
        f"{min(sums):.4f} to {max(sums):.4f} |"
    )


def recipe(model: str) -> str:
    """Return the recorded runs as commands."""
    record = json.loads((FOLDERS[model] / "training.json").read_text())
    last = record["history"][-1]
    lines = [
        "The starting weights, `start-48x44`, were made in 20 minutes on one CPU core: "
        "3990 steps of 8 clean crops from bicubic interpolation, learning rate 8e-4, "
        "half of the loss against the official lightweight network (Apache-2.0) on "
        "1500 crops of the same images, of which none were held out. Then, each run "
        "continuing the one before:",
        "",
    ]
    for runs in alike(record["runs"]):
        lines += [f"from step {runs[0]['from_step']}:", ""]
        lines += ["```console", command(runs[-1], model), "```", ""]
        if runs[1:]:
            planned = " then ".join(str(flat_options(run)["steps"]) for run in runs)
            lines += [f"(planned for {planned} steps, as time allowed)", ""]
    lines.append(
        f"{last['step']} steps of 8 crops, {last['seconds'] / 60:.0f} minutes on the "
        "clock with one thread of a busy two-core machine. No GPU was used. "
        "`training.json` lists all options, the files held out, and the history. In "
        "the first run both models learned from the same 4000 crops that the teacher "
        "labeled, drawn with the mix of `default-clean` and few dim ones. The loss "
        "was changed on the way: in the first fifth of the last quarter it left out "
        "total intensity, and then, to its middle, measured it against the truth."
    )
    return "\n".join(lines)


def alike(runs: list[dict]) -> list[list[dict]]:
    """Group successive runs that differ in their planned length only."""
    groups: list[list[dict]] = []
    for run in runs:
        if groups and command(run, "", steps=0) == command(groups[-1][0], "", steps=0):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def command(run: dict, model: str, steps: int | None = None) -> str:
    """Write the options of a run as a command line."""
    options = flat_options(run)
    steps = options["steps"] if steps is None else steps

    def listed(values: dict) -> str:
        return ",".join(f"{k}={round(100 * v, 1):g}" for k, v in values.items())

    words = [
        f"$ napari-swin2sr train {' '.join(options['folders'])} -o {model}",
        f"--from {options['start']} --steps {steps}",
        f"--learning-rate {options['learning_rate']:g} "
        f"--psnr-share {options.get('psnr_share', 0):g}",
        f"--teacher {options['teacher']} --teacher-crops {options['teacher_crops']}",
        f"--teacher-share {options['teacher_share']:g}",
        f"--mix {listed(options['mix'])}",
        f"--smooth {options.get('smooth', 0):g} "
        f"--downscale {listed(options['downscale'])}",
        f"--noise {options['noise']:g} "
        f"--photons {','.join(f'{v:g}' for v in options['photons'])} "
        f"--read-noise {','.join(f'{v:g}' for v in options['read_noise'])}",
        f"--hot {options['hot']:g} --validation {options['validation']:g}",
        f"--seed {options['seed']} --threads {options['threads']}",
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
    for kind, noise in (("clean", None), ("noisy", NOISES["150 photons"])):
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
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    args = parser.parse_args()
    if args.measure:
        measure(args.methods)
    stored = json.loads(SCORES.read_text())
    replace(PAGE, "tables", tables(stored, tuple(FOLDERS)))
    for model, folder in FOLDERS.items():
        replace(PAGE, f"recipe {model}", recipe(model))
        card = folder / "README.md"
        replace(card, "tables", tables(stored, (model,)))
        replace(card, "recipe", recipe(model))
    if args.pictures:
        pictures()


if __name__ == "__main__":
    main()
