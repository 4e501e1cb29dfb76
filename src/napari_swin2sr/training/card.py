"""The model card that training writes beside the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_swin2sr.weights.config import Swin2SRConfig

WARNING = """\
**Do not measure on invented pixels.** Super-resolution fills in detail that is likely,
not detail that was seen. Count, segment and look with it; take intensities, distances
near the resolution limit and evidence from the original image."""

HEADER = """\
---
library_name: transformers
pipeline_tag: image-to-image
tags: [super-resolution, swin2sr, napari-swin2sr]
---

"""


def write_card(
    folder: Path, name: str, record: Mapping[str, Any], config: Swin2SRConfig
) -> Path:
    """Write README.md into a model folder and return its path.

    Parameters
    ----------
    folder : where to write
    name : of the model
    record : what `training.json` holds: runs, data, bicubic, history
    config : geometry of the network
    """
    path = folder / "README.md"
    path.write_text(HEADER + card(name, record, config), "utf-8")
    return path


def card(name: str, record: Mapping[str, Any], config: Swin2SRConfig) -> str:
    """Return the text of a model card."""
    lines = [
        f"# {name}",
        "",
        f"Swin2SR x{config.upscale}: width {config.embed_dim}, layers "
        f"{list(config.depths)}, heads {list(config.num_heads)}, window "
        f"{config.window_size}, head `{config.upsampler}`. Written by "
        "`napari-swin2sr train`; loads in napari-swin2sr and in transformers.",
        "",
        WARNING,
        "",
        "## Data",
        "",
        "| kind | files for training |",
        "|---|---|",
    ]
    data = record["data"]
    lines += [f"| {k or 'images'} | {n} |" for k, n in data["training_files"].items()]
    lines += [
        "",
        f"{len(data['held_out'])} files were held out for validation (listed in "
        f"`training.json`), {data['left_out']} could not be used.",
        "",
        "## Validation on the held-out files",
        "",
        "PSNR in dB on linear values, centre crops; *noisy*: 150 photons at full scale "
        "and 1 % read-out noise.",
        "",
        "| images | bicubic | this model |",
        "|---|---|---|",
    ]
    final = record["history"][-1]["validation"]
    lines += [
        f"| {kind} | {value:.2f} | {value + final[kind]:.2f} |"
        for kind, value in record["bicubic"].items()
    ]
    lines += ["", "## Training", ""]
    for number, run in enumerate(record["runs"], 1):
        lines.append(f"{number}. from step {run['from_step']}: {_options(run)}")
    steps = record["history"][-1]
    lines += [
        "",
        f"{steps['step']} steps in {steps['seconds'] / 60:.0f} minutes on the clock.",
        "",
    ]
    return "\n".join(lines)


def _options(run: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for key, value in run.items():
        if key == "from_step":
            continue
        if isinstance(value, dict) and key == "options":
            flat.update(value)
        else:
            flat[key] = value
    return ", ".join(f"`{k}={v}`" for k, v in flat.items() if v not in (None, {}))
