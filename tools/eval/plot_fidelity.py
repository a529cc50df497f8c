#!/usr/bin/env python3
"""Draws what lexico-eval fidelity --json wrote: quality against bytes, and relative errors by layer.

  tools/eval/plot_fidelity.py fidelity.json [more.json ...] [--out fidelity.svg]

Methods of several files stand in one picture; they compare only where texts and lengths are the same.
Needs matplotlib: pip install matplotlib
"""
import argparse
import json
import re
import sys

# (what names match, label, colour, marker): a family is one line. The first that matches.
FAMILIES = [
    (r"paper-s\d+", "Lexico, paper-sN", "#1f4e8c", "o"),
    (r"rotate-\d-unbiased", "rotation, unbiased", "#c2571a", "D"),
    (r"rotate-\d", "rotation + Lloyd-Max", "#e2a36f", "d"),
    (r"kivi-\d", "KIVI, group 32", "#2e7d4f", "s"),
    (r"token-\d", "per token, group 32", "#8fbf9f", "s"),
    (r"snapkv", "SnapKV", "#7d7d7d", "^"),
    (r"streaming", "StreamingLLM", "#b5b5b5", "v"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="output of lexico-eval fidelity --json")
    parser.add_argument("--out", default="fidelity.svg", help="by its ending: .svg, .png, .pdf (default: %(default)s)")
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        sys.exit("error: matplotlib is missing; python3 -m pip install matplotlib (in a virtual environment) brings it")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "lexico", "svg.fonttype": "none"})  # the same small file each time
    methods = [method for path in options.files for method in read(path)]
    if not any(method["kl"] > 0 for method in methods):
        sys.exit(f"error: nothing but exact caches in {', '.join(options.files)}; nothing to draw")
    draw(methods, options.out)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [m for m in json.load(file)["methods"] if m["name"] not in ("dense", "exact")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path} is not the output of lexico-eval fidelity --json: {error!r}")


def family(method):
    return next((f for f in FAMILIES if re.match(f[0], method["name"])), (method["name"], method["name"], "#000000", "x"))


def draw(methods, out):
    from matplotlib import pyplot
    figure, (kl, top1, errors) = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    families = {family(m): sorted((x for x in methods if family(x) == family(m)), key=lambda x: x["bytes_per_vector"])
                for m in methods}
    for (_, label, color, marker), members in families.items():
        x = [m["bytes_per_vector"] for m in members]
        kl.errorbar(x, [m["kl"] for m in members], [m["kl_standard_error"] for m in members], label=label, color=color,
                    marker=marker, markersize=5, linewidth=1.2, capsize=2)
        top1.plot(x, [100 * m["top1"] for m in members], color=color, marker=marker, markersize=5, linewidth=1.2)
    kl.set_yscale("log")
    kl.set_title("KL to the exact cache, nats a token", fontsize=10)
    top1.set_title("Same most probable token, %", fontsize=10)
    for axes in (kl, top1):
        axes.set_xlabel("bytes a vector, scales included (FP16: 2 a number)", fontsize=8)
    kl.legend(frameon=False, fontsize=8)
    draw_errors(errors, [m for m in methods if m["kind"] == "profile" and m["relative_error_k"]])
    for axes in (kl, top1, errors):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(out, dpi=160, metadata={"Date": None} if out.endswith(".svg") else None)
    print(out)


def draw_errors(axes, profiles):
    for i, method in enumerate(profiles):
        shade = 0.25 + 0.75 * (i + 1) / len(profiles)
        for key, style in (("relative_error_k", "-"), ("relative_error_v", "--")):
            axes.plot(method[key], style, color="#1f4e8c", alpha=shade, linewidth=1.2,
                      label=method["name"] if style == "-" else None)
    axes.set_title("Relative error by layer: keys (line), values (dashes)", fontsize=10)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylim(bottom=0)
    if profiles:
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
