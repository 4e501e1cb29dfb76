"""Write the tables of speed from `docs/speed-cpu.json`, which `benchmarks/` writes.

python docs/speed_tables.py
"""

from __future__ import annotations

import json

from make_numbers import ROOT, write

NUMBERS = ROOT / "docs/speed-cpu.json"
BASE = "transformers fp32"
TITLES = {
    "default": "the embedded model (x2)",
    "swin2sr-lightweight-x2-64": "the published lightweight x2 weights",
    "light": "the shape of lightweight x2, seeded weights",
    "classical": "the shape of classical x4 (180 wide, 36 layers), seeded weights",
}
SHORT = (BASE, "transformers bf16", "spandrel fp32", "ours, PyTorch fp32")
SHORT += ("ours, kernels fp32", "ours, kernels bf16")
README_MODELS, README_SIZE = ("swin2sr-lightweight-x2-64", "light"), 256
HEAD = "| | seconds | times transformers | PSNR (dB) | largest difference | peak MB "


def where(facts: dict) -> str:
    """Describe a run's machine and versions."""
    versions = ", ".join(
        f"{name} {facts[name]}"
        for name in ("torch", "transformers", "spandrel")
        if facts[name]
    )
    load = facts["load before"]
    busy = "" if load is None else f", mean load of the minute before {load}"
    sets = facts.get("instruction sets")  # runs before they were noted have none
    processor = f"{facts['processor']} ({sets})" if sets else facts["processor"]
    cores = f"{facts['threads']} of {facts['cores']} cores"
    return f"{processor}, {cores}, {versions}{busy}."


def number(value: float | None, form: str = "#.3g") -> str:
    if value is None:
        return "–"
    text = format(value, form)
    return f"{value:.0f}" if "e+" in text else text.rstrip(".")


def cells(row: dict) -> str:
    """Return what is said of one engine at one size."""
    if "note" in row:
        return f"| {row['engine']} | {row['note']} | | | "
    psnr = "same" if row["psnr"] is None else f"{row['psnr']:.1f}"
    return (
        f"| {row['engine']} | {number(row['seconds'])} | "
        f"{number(row['times transformers'])} | {psnr} | "
        f"{row['largest difference']:.0e} | {number(row['peak megabytes'], '.0f')} "
    )


def compared_at(rows: list[dict], wanted: int = 0) -> int:
    """Return the largest size, or the wanted one, at which transformers ran."""
    sizes = [r["size"] for r in rows if r["engine"] == BASE and "seconds" in r]
    return wanted if wanted in sizes else max(sizes)


def model_tables(name: str, found: dict) -> list[str]:
    """Return the part of the page about one model."""
    rows, facts = found["rows"], found["machine"]
    sizes = sorted({row["size"] for row in rows})
    at = {(row["engine"], row["size"]): row for row in rows}
    rates = facts["matrix rate, GFLOP/s"]
    title = TITLES.get(name, name)
    lines = [
        f"### {title[0].upper()}{title[1:]}\n\n{where(facts)} Large matrix products: "
        f"{rates['fp32']} GFLOP/s in float32, {rates['bf16']} in bfloat16.\n\nSeconds "
        "per forward (times as fast as transformers in float32), by the side of the "
        "image in px:\n",
        f"| | {' | '.join(map(str, sizes))} |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    notes = {}
    for engine in dict.fromkeys(row["engine"] for row in rows):
        line = [engine]
        for size in sizes:
            row = at[engine, size]
            if "note" in row:
                notes.setdefault((engine, row["note"]), []).append(size)
                line.append("–")
                continue
            times = row["times transformers"]
            ratio = f" ({number(times, '.2g' if times < 10 else '.0f')})"
            line.append(number(row["seconds"]) + (ratio if times else ""))
        lines.append(f"| {' | '.join(line)} |")
    lines.append("\nNot measured (–):\n")
    for (engine, note), left_out in notes.items():
        lines.append(f"- {engine}, {', '.join(map(str, left_out))} px: {note}.")
    size = compared_at(rows)
    lines += [f"\nAt {size} × {size} px:\n", f"{HEAD}| of the matrix rate | n |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        if row["size"] == size and "note" not in row:
            share, n = row["share of matrix rate"], row["repeats"]
            lines.append(f"{cells(row)}| {share:.0%} | {n} |")
    return [*lines, ""]


def scaling_table(found: dict) -> list[str]:
    """Return the part of the page about areas."""
    lines = [
        f"{where(found['machine'])}\n",
        "| | input megapixels | seconds | seconds per megapixel | peak MB |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        if "note" in row:
            lines.append(f"| {row['what']} | {row['note']} | | | |")
            continue
        lines.append(
            f"| {row['what']} | {row['megapixels']:.2f} | {number(row['seconds'])} | "
            f"{number(row['seconds per megapixel'])} | {row['peak megabytes']:.0f} |"
        )
    return lines


def main() -> None:
    stored = json.loads(NUMBERS.read_text("utf-8"))
    models = {k: stored["models"][k] for k in TITLES if k in stored["models"]}
    page = [
        line for name, found in models.items() for line in model_tables(name, found)
    ]
    write("docs/explanation/speed.md", "speed", *page)
    for found in stored.get("scaling", {}).values():
        write("docs/explanation/speed.md", "scaling", *scaling_table(found))
    name = next(name for name in README_MODELS if name in models)
    rows, facts = models[name]["rows"], models[name]["machine"]
    size = compared_at(rows, README_SIZE)
    chosen = {r["engine"]: r for r in rows if r["size"] == size}
    write(
        "README.md",
        "speed",
        f"One forward of {size} × {size} RGB pixels on a CPU, {TITLES[name]}; "
        f"{where(facts)}\n",
        f"{HEAD}|",
        "|---" * 6 + "|",
        *(f"{cells(chosen[engine])}|" for engine in SHORT if engine in chosen),
    )


if __name__ == "__main__":
    main()
