#!/usr/bin/env python3
"""Draws what lexico-bench-serving --json wrote: latency percentiles and throughput of each profile.

  tools/bench_serving/plot.py serving.json [more.json ...] [--out serving.svg]

Several files stand side by side, each named by its load. Needs matplotlib: pip install matplotlib
"""
import argparse
import json
import sys

PERCENTILES = [("p50", "#1f4e8c"), ("p90", "#7a9cc6"), ("p99", "#c9c9c9")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="output of lexico-bench-serving --json")
    parser.add_argument("--out", default="serving.svg", help="by its ending: .svg, .png, .pdf (default: %(default)s)")
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        sys.exit("error: matplotlib is missing; python3 -m pip install matplotlib (in a virtual environment) brings it")
    matplotlib.use("Agg")
    rows = [row for path in options.files for row in read(path, len(options.files) > 1)]
    if not rows:
        sys.exit(f"error: no profile in {', '.join(options.files)}; was the benchmark refused at its start?")
    draw(rows, options.out)


def read(path, with_load):
    """(label, profile) of each profile in the file."""
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        load = f"{report['rate']}/s" if report["loop"] == "open" else f"{report['users']} users"
        return [(f"{p['profile']}\n{load}" if with_load else p["profile"], p) for p in report["profiles"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path} is not the output of lexico-bench-serving --json: {error!r}")


def draw(rows, out):
    from matplotlib import pyplot
    labels = [label for label, _ in rows]
    figure, (first, inter, rate) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    draw_percentiles(first, "Time to the first token, ms", labels, [p["latency_seconds"]["first_token"] for _, p in rows])
    draw_percentiles(inter, "Between two tokens, ms", labels, [p["latency_seconds"]["inter_token"] for _, p in rows])
    bars = rate.bar(range(len(rows)), [p["generated_tokens_per_second"] for _, p in rows], color="#1f4e8c", width=0.6)
    rate.bar_label(bars, fmt="%.3g", fontsize=8)
    rate.set_title("Generated tokens a second", fontsize=10)
    rate.set_xticks(range(len(rows)), labels)
    for axes in (first, inter, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    first.legend(frameon=False, fontsize=8)
    figure.savefig(out)
    print(out)


def draw_percentiles(axes, title, labels, summaries):
    width = 0.8 / len(PERCENTILES)
    for i, (key, color) in enumerate(PERCENTILES):
        places = [x + (i - 1) * width for x in range(len(labels))]
        bars = axes.bar(places, [1e3 * s[key] for s in summaries], width, color=color, label=key)
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(labels)), labels)


if __name__ == "__main__":
    main()
