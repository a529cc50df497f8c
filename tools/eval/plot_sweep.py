#!/usr/bin/env python3
"""Draws what lexico-eval sweep --json wrote.

  tools/eval/plot_sweep.py recovery.json --out recovery.svg recovery.png

Needs matplotlib: pip install matplotlib
"""
import argparse
import json
import sys

COLORS = ["#1f4e8c", "#c2571a", "#2e7d4f", "#7a4f9c", "#8a6d1f", "#4f8c8c", "#9c3f5f", "#6d6d6d"]

# Of each experiment its pictures: (column of y, title, y from 0, logarithmic y); a line for each value of `by`, along `x`.
PICTURES = {
    "recovery": ("sparsity", "noise", [("exact_support", "Vectors whose atoms are all found", True, False),
                                       ("atoms_found", "Share of atoms found", True, False),
                                       ("rel_error", "Relative error", True, False)]),
    "coding-cost": ("n_atoms", "sparsity", [("code_us", "Coding, us a vector", True, False),
                                            ("attention_us", "Attention, us a step of one layer", True, False)]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="output of lexico-eval sweep ... --json")
    parser.add_argument("--out", nargs="+", help="by their endings: .svg, .png, .pdf (default: EXPERIMENT.svg)")
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        sys.exit("error: matplotlib is missing; python3 -m pip install matplotlib (in a virtual environment) brings it")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "lexico", "svg.fonttype": "none"})  # the same small file each time
    experiment, rows = read(options.file)
    figure = draw_bars(rows) if experiment == "universality" else draw_lines(rows, *PICTURES[experiment])
    for out in options.out or [f"{experiment}.svg"]:
        figure.savefig(out, dpi=160, metadata={"Date": None} if out.endswith(".svg") else None)
        print(out)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            sweep = json.load(file)
        experiment, rows = sweep["experiment"], sweep["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path} is not the output of lexico-eval sweep --json: {error!r}")
    if experiment != "universality" and experiment not in PICTURES:
        sys.exit(f"error: {path} holds the experiment '{experiment}'; there are pictures of {', '.join(PICTURES)}, universality")
    if not rows:
        sys.exit(f"error: {path} has no rows")
    return experiment, rows


def style(axes, title):
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def draw_lines(rows, x, by, pictures):
    from matplotlib import pyplot
    figure, all_axes = pyplot.subplots(1, len(pictures), figsize=(4.4 * len(pictures), 3.8), layout="constrained")
    for axes, (y, title, from_zero, logarithmic) in zip(all_axes, pictures):
        for color, value in zip(COLORS, sorted({row[by] for row in rows})):
            line = sorted((row[x], row[y]) for row in rows if row[by] == value)
            axes.plot(*zip(*line), marker="o", markersize=4, linewidth=1.2, color=color, label=f"{by} {value:g}")
        if logarithmic:
            axes.set_yscale("log")
        elif from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xscale("log", base=2)
        ticks = sorted({row[x] for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(x, fontsize=8)
        style(axes, title)
    all_axes[0].legend(frameon=False, fontsize=8)
    return figure


def draw_bars(rows):
    """Errors by text; a bar for each dictionary and sparsity."""
    from matplotlib import pyplot
    texts = list(dict.fromkeys(row["text"] for row in rows))
    settings = list(dict.fromkeys((row["dictionary"], row["sparsity"]) for row in rows))
    figure, all_axes = pyplot.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
    width = 0.8 / len(settings)
    for axes, column, title in zip(all_axes, ("error_k", "error_v"), ("Relative error of keys", "Relative error of values")):
        for i, (dictionary, sparsity) in enumerate(settings):
            values = {row["text"]: row[column] for row in rows if (row["dictionary"], row["sparsity"]) == (dictionary, sparsity)}
            axes.bar([at + (i + 0.5) * width - 0.4 for at in range(len(texts))], [values.get(text, 0) for text in texts], width * 0.92,
                     color=COLORS[i % len(COLORS)], label=f"{dictionary}, {sparsity} atoms")
        axes.set_xticks(range(len(texts)), texts)
        style(axes, title)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
