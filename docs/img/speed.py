#!/usr/bin/env python3
"""Draws docs/img/speed.svg from the figures of docs/performance.md: python3 docs/img/speed.py > docs/img/speed.svg"""

# (title, unit, [(label, Lexico dense, Lexico paper-s16, llama.cpp)]); None: not measured.
CHARTS = [
    ("Reading a document, tokens a second", [
        ("Z, 1,024", 11027, 2306, 4829),
        ("Z, 16,384", 2695, 1528, 606),
        ("X, 1,024", 6921, 950, 1494),
        ("X, 16,384", 1970, 784, None),
    ]),
    ("Answering, tokens a second", [
        ("Z, 1,024", 748, 362, 474),
        ("Z, 16,384", 152, 198, 77),
        ("X, 1,024", 476, 149, 178),
        ("X, 16,384", 89, 86, 30),
    ]),
]
SERIES = [("Lexico, dense", "#7a9cc6"), ("Lexico, paper-s16 (a fifth of the memory)", "#1f4e8c"), ("llama.cpp", "#c9c9c9")]
BAR, GAP, LEFT, WIDTH = 15, 14, 90, 560


def bars(rows, y):
    most = max(value for row in rows for value in row[1:] if value)
    for label, *values in rows:
        yield f'<text x="{LEFT - 8}" y="{y + 1.5 * BAR + 5}" text-anchor="end">{label}</text>'
        for value, (_, color) in zip(values, SERIES):
            width = 0 if value is None else WIDTH * value / most
            text = "did not end in 120 s" if value is None else f"{value:,}"
            yield f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{color}"/>'
            yield f'<text x="{LEFT + width + 5:.1f}" y="{y + BAR - 4}" font-size="11">{text}</text>'
            y += BAR
        y += GAP


def main():
    parts, y = [], 24
    for i, (name, color) in enumerate(SERIES):
        x = LEFT + 210 * i if i < 2 else LEFT + 490
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{color}"/><text x="{x + 17}" y="{y}">{name}</text>')
    y += 30
    for title, rows in CHARTS:
        parts.append(f'<text x="{LEFT}" y="{y}" font-weight="bold">{title}</text>')
        parts.extend(bars(rows, y + 10))
        y += 10 + len(rows) * (3 * BAR + GAP) + 26
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y - 20}" font-family="sans-serif" font-size="12">')
    print('<rect width="100%" height="100%" fill="white"/>')
    print("\n".join(parts))
    print("</svg>")


if __name__ == "__main__":
    main()
