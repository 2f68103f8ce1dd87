#!/usr/bin/env python3
"""Draws a quantity over the length of the context as SVG, from figures.

bench/plot_context.py FIGURES.json OUT.svg

FIGURES.json: {"title": ..., "subtitle": ..., "y": label of the axis, "series": [{"name": ..., "points": [[tokens of
context, value], ...]}, ...]}. Only the Python standard library is needed.
"""
import html
import json
import math
import sys

WIDTH, HEIGHT = 760, 400
LEFT, TOP, BOTTOM = 70, 70, 60
LETTER = 8  # width of a bold one, about
COLOURS = ["#7f8c8d", "#2980b9", "#c0392b", "#27ae60", "#8e44ad", "#d35400", "#16a085", "#2c3e50"]


def label(tokens):
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def grid_step(top):
    """The widest of 1, 2 and 5 times a power of ten that gives at least four lines above 0."""
    power = 10 ** math.floor(math.log10(top / 4))
    return next(n * power for n in (5, 2, 1) if n * power <= top / 4)


def draw(figures, path):
    """Writes the picture of figures, as FIGURES.json holds them, to path."""
    series = figures["series"]
    contexts = sorted({x for s in series for x, _ in s["points"]})
    top = max(y for s in series for _, y in s["points"]) * 1.1
    names = [f'{s["name"]}: {s["points"][-1][1]:.1f}' for s in series]
    right = max(170, 12 + LETTER * max(map(len, names)))
    low, high = math.log2(contexts[0]), math.log2(contexts[-1])

    def at(x, y):
        share = (math.log2(x) - low) / (high - low) if high > low else 0.5
        return (LEFT + share * (WIDTH - LEFT - right),
                HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM))

    def text(x, y, words, extra=""):
        return f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{html.escape(words)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="white"/>',
           text(LEFT, 26, figures["title"], 'font-size="17" font-weight="bold"'),
           text(LEFT, 46, figures["subtitle"], 'fill="#555"')]
    step = grid_step(top)
    for i in range(int(top / step) + 1):
        x, y = at(contexts[0], i * step)
        out.append(f'<line x1="{x:.0f}" y1="{y:.1f}" x2="{WIDTH - right}" y2="{y:.1f}" '
                   'stroke="#ddd"/>')
        out.append(text(x - 8, y + 4, f"{i * step:g}", 'text-anchor="end" fill="#555"'))
    for tokens in contexts:
        x, y = at(tokens, 0)
        out.append(text(x, y + 20, label(tokens), 'text-anchor="middle" fill="#555"'))
    out.append(text((LEFT + WIDTH - right) / 2, HEIGHT - 14, "tokens of context",
                    'text-anchor="middle" fill="#555"'))
    out.append(f'<text transform="translate(20 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" '
               f'text-anchor="middle" fill="#555">{html.escape(figures["y"])}</text>')
    taken = []
    for s, name, colour in zip(series, names, COLOURS):
        points = [at(x, y) for x, y in s["points"]]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
        y = points[-1][1] + 4
        while any(abs(y - other) < 16 for other in taken):
            y += 16
        taken.append(y)
        out.append(text(points[-1][0] + 12, y, name, f'fill="{colour}" font-weight="bold"'))
    out.append("</svg>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        draw(json.load(file), sys.argv[2])


if __name__ == "__main__":
    main()
