#!/usr/bin/env python3
"""Pictures of a dictionary: its atoms, how alike they are, and how often codes take them.

  lexico-eval atoms --dictionary dictionary-N4096.safetensors --model DIR --text FILE --atoms atoms.json
  tools/eval/plot_atoms.py atoms.json --layer 3 --out atoms.svg atoms.png

Needs matplotlib and numpy: pip install matplotlib numpy
"""
import argparse
import json
import struct
import sys

N_SHOWN = 96  # atoms of a picture
KINDS = (("k", "keys", "#1f4e8c"), ("v", "values", "#c2571a"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="what lexico-eval atoms --atoms wrote")
    parser.add_argument("--layer", type=int, default=0, help="whose atoms are drawn (default: %(default)s)")
    parser.add_argument("--dictionary", help="the dictionary's file (default: where it was)")
    parser.add_argument("--out", nargs="+", default=["atoms.svg"], help="by their endings: .svg, .png, .pdf")
    options = parser.parse_args()
    try:
        import matplotlib
        import numpy
    except ImportError as error:
        sys.exit(f"error: {error.name} is missing; python3 -m pip install matplotlib numpy (in a virtual environment) brings it")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "lexico", "svg.fonttype": "none"})  # the same small file each time
    facts = read(options.file)
    path = options.dictionary or facts["dictionary"]
    shown = [(one, label, color) for kind, label, color in KINDS
             for one in facts["dictionaries"] if one["name"] == f"layers.{options.layer}.{kind}"]
    if not shown:
        sys.exit(f"error: {options.file} has no layer {options.layer}; it has {facts['dictionaries'][0]['name']} to {facts['dictionaries'][-1]['name']}")
    draw(numpy, [(one, read_rows(numpy, path, one["name"]), label, color) for one, label, color in shown], options.out)


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        facts["dictionary"], facts["dictionaries"][0]["coherence"]
        return facts
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"error: {path} is not what lexico-eval atoms --atoms writes: {error!r}")


def read_rows(numpy, path, name):
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            tensor = json.loads(file.read(length))[name]
            begin, end = tensor["data_offsets"]
            file.seek(8 + length + begin)
            dtype = {"F16": "<f2", "F32": "<f4"}[tensor["dtype"]]
            return numpy.frombuffer(file.read(end - begin), dtype).reshape(tensor["shape"]).astype("f4")
    except (OSError, ValueError, KeyError, struct.error) as error:
        sys.exit(f"error: {path}: {name} cannot be read: {error!r}; name the file with --dictionary")


def draw(numpy, dictionaries, outs):
    from matplotlib import pyplot
    figure = pyplot.figure(figsize=(13, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(2.2, 1, 1))
    coherence = figure.add_subplot(grid[0, 1:])
    uses = figure.add_subplot(grid[1, 1:])
    for row, (one, atoms, label, color) in enumerate(dictionaries):
        counts = numpy.array(one["uses"] or [0] * len(atoms))
        most = numpy.argsort(-counts, kind="stable")[:N_SHOWN]
        axes = figure.add_subplot(grid[row, 0])
        bound = float(numpy.abs(atoms[most]).max())
        axes.imshow(atoms[most], aspect="auto", cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
        what = "most used" if counts.any() else "first"
        axes.set_title(f"{one['name']}: the {len(most)} {what} atoms, one a row", fontsize=10)
        axes.set_xlabel("component", fontsize=8)
        axes.tick_params(labelsize=8)
        coherence.hist(one["coherence"], bins=60, range=(0, 1), histtype="step", linewidth=1.4, color=color, label=label)
        if counts.any():
            uses.plot(numpy.arange(1, len(counts) + 1), numpy.sort(counts)[::-1] / counts.sum(), color=color, linewidth=1.4, label=label)
    coherence.set_title("Atoms by the largest |<atom, another>|", fontsize=10)
    coherence.legend(frameon=False, fontsize=8)
    uses.set_title("Share of all uses, atoms by rank", fontsize=10)
    uses.set_xscale("log")
    uses.set_yscale("log")
    for axes in (coherence, uses):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for out in outs:
        figure.savefig(out, dpi=160, metadata={"Date": None} if out.endswith(".svg") else None)
        print(out)


if __name__ == "__main__":
    main()
