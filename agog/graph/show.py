"""A drawing of a graph: one HTML page with SVG inside, and nothing from outside.

Steps stand below what they read. Hovering over one shows its line of the text and the user's line; the graphs inside
loops, branches and fused nodes are drawn below, each under a heading that the node links to.
"""

from __future__ import annotations

import html
import pathlib
from typing import Any

from agog.graph.build import number
from agog.graph.ir import Graph, Node, Value, describe

_ROW, _GAP, _HEIGHT, _CHAR = 78, 26, 38, 6.7
_FAR = 12  # layers from which a line goes straight, behind the boxes

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem;background:Canvas;color:CanvasText;color-scheme:light dark}
h2{font-size:1rem;margin:1.5rem 0 .3rem}pre{font-size:12px;overflow-x:auto}
svg{max-width:none;font:12px ui-monospace,monospace}div.drawing{overflow-x:auto}
rect{fill:Canvas;stroke:CanvasText;stroke-opacity:.55;rx:6}
g{--c:#999}.elementwise,.cast{--c:#4a90d9}.reduction,.softmax,.normalization{--c:#a06cd5}.form{--c:#a3b82d}
.contraction,.conv,.product,.attention{--c:#e07b39}.input{--c:#2fa48d}.output{--c:#d0434c}
g rect{fill:color-mix(in srgb,var(--c) 18%,Canvas)}.input rect,.output rect{rx:18}
text{fill:CanvasText;text-anchor:middle}text.spec{font-size:10px;opacity:.75}
path{fill:none;stroke:CanvasText;stroke-opacity:.4}g.step:hover rect{stroke-width:2.5}
"""


class _Box:
    """One step, input or output of the drawing."""

    def __init__(self, label: str, spec: str, kind: str, title: str, link: str = ""):
        self.label, self.spec, self.kind, self.title, self.link = label, spec, kind, title, link
        self.width = max(len(label) * 7.4, len(spec) * _CHAR, 40) + 22
        self.layer, self.x = 0, 0.0
        self.sources: list[_Box] = []


def show(graph: Graph, path: Any = None) -> str:
    """The page as a string; written to `path` if that is given."""
    sections: list[str] = []
    _section(graph, graph.name, "g", sections)
    page = (f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>{html.escape(graph.name)}</title>"
            f"<style>{_STYLE}</style><body>{''.join(sections)}"
            f"<h2>Text</h2><pre>{html.escape(str(graph))}</pre></body></html>")
    if path is not None:
        pathlib.Path(path).write_text(page, encoding="utf-8")
    return page


def _section(graph: Graph, heading: str, anchor: str, sections: list[str]) -> None:
    inner: list[tuple[Graph, str, str]] = []
    boxes = _boxes(graph, anchor, heading, inner)
    _layers(boxes)
    sections.append(f"<h2 id={anchor}>{html.escape(heading)}</h2><div class=drawing>{_svg(boxes)}</div>")
    for g, title, name in inner:
        _section(g, title, name, sections)


def _boxes(graph: Graph, anchor: str, heading: str, inner: list[tuple[Graph, str, str]]) -> list[_Box]:
    of: dict[Any, _Box] = {}
    boxes = []
    for i, v in enumerate(graph.inputs):
        label = v.role.path or v.name or f"input {i}"
        of[v] = box = _Box(label, describe(*v.spec), "input", f"{v.role.kind} {label}")
        boxes.append(box)
    for i, node in enumerate(graph.nodes):
        link = ""
        for j, g in enumerate(node.graphs):
            name = f"{anchor}-{i}-{j}"
            link = link or name
            inner.append((g, f"{heading} / {node.op.name} {i}: {g.name}", name))
        box = _Box(_label(node), ", ".join(describe(*v.spec) for v in node.outputs), _kind(node), _title(node), link)
        box.sources = [of[v] for v in dict.fromkeys(node.inputs) if v in of]
        for v in node.outputs:
            of[v] = box
        boxes.append(box)
    for v, role in zip(graph.outputs, graph.roles):
        box = _Box(f"{role.kind} {role.path}".strip(), describe(*v.spec), "output", role.kind)
        if v in of:
            box.sources = [of[v]]
        boxes.append(box)
    return boxes


def _label(node: Node) -> str:
    """The operation, with constants of one number in their places."""
    numbers = [number(v) if isinstance(v, Value) else None for v in node.inputs]
    if any(n is not None for n in numbers):
        parts = ["·" if n is None else f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers]
        return f"{node.op.name}({', '.join(parts)})"
    first = next(iter(node.statics), None)
    return f"{node.op.name} {first}" if node.graphs and isinstance(first, str) else node.op.name


def _kind(node: Node) -> str:
    return node.op.kind if node.is_row else "form"


def _title(node: Node) -> str:
    given = [describe(*v.spec) if v is not None else "None" for v in node.inputs]
    given += [f"{k}={v!r}" for k, v in node.static.items()]
    return f"{node.op.name}({', '.join(given)})" + (f"\n{node.where}" if node.where is not None else "")


def _layers(boxes: list[_Box]) -> None:
    """Give every box its layer (the longest way from an input) and its place in the layer."""
    last = 0
    for box in boxes:
        box.layer = max((s.layer + 1 for s in box.sources), default=0)
        last = max(last, box.layer)
    readers: dict[_Box, list[_Box]] = {b: [] for b in boxes}
    for box in boxes:
        for s in box.sources:
            readers[s].append(box)
    for box in boxes:  # an input stands just above its first reader
        if not box.sources and readers[box]:
            box.layer = max(min(r.layer for r in readers[box]) - 1, 0)
    boxes += [bend for box in list(boxes) for bend in _bends(box, readers)]
    layers: list[list[_Box]] = [[] for _ in range(last + 1)]
    for box in boxes:
        layers[box.layer].append(box)
    _spread(layers)
    for sweep in range(4):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            near = {b: (b.sources if sweep % 2 == 0 else readers[b]) for b in layer}
            layer.sort(key=lambda b: sum(n.x for n in near[b]) / len(near[b]) if near[b] else b.x)
        _spread(layers)


def _bends(box: _Box, readers: dict[_Box, list[_Box]]) -> list[_Box]:
    """Places, one in each layer between, that lines to `box` from farther up go through, so that they cross no box."""
    made = []
    for i, source in enumerate(box.sources):
        if box.layer - source.layer > _FAR:
            continue
        while source.layer < box.layer - 1:
            bend = _Box("", "", "bend", "")
            bend.width, bend.layer, bend.sources = 0, source.layer + 1, [source]
            readers[bend] = [box]
            made.append(bend)
            source = box.sources[i] = bend
    return made


def _spread(layers: list[list[_Box]]) -> None:
    """Places from left to right, every layer around the middle."""
    widths = [sum(b.width + _GAP for b in layer) for layer in layers]
    for layer, width in zip(layers, widths):
        x = (max(widths) - width) / 2 + _GAP / 2
        for box in layer:
            box.x = x + box.width / 2
            x += box.width + _GAP


def _svg(boxes: list[_Box]) -> str:
    width = max((b.x + b.width / 2 for b in boxes), default=0) + _GAP
    height = (max((b.layer for b in boxes), default=0) + 1) * _ROW
    out = [f'<svg width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}">']
    for box in boxes:
        for s in box.sources:
            x0, y0, x1, y1 = s.x, s.layer * _ROW + _HEIGHT + 8, box.x, box.layer * _ROW + 8
            middle = (y0 + y1) / 2
            out.append(f'<path d="M{x0:.1f} {y0}C{x0:.1f} {middle} {x1:.1f} {middle} {x1:.1f} {y1}"/>')
    for box in boxes:
        y = box.layer * _ROW + 8
        if box.kind == "bend":
            out.append(f'<path d="M{box.x:.1f} {y}V{y + _HEIGHT}"/>')
            continue
        body = (f'<g class="step {box.kind}"><title>{html.escape(box.title)}</title>'
                f'<rect x="{box.x - box.width / 2:.1f}" y="{y}" width="{box.width:.1f}" height="{_HEIGHT}"/>'
                f'<text x="{box.x:.1f}" y="{y + 16}">{html.escape(box.label)}</text>'
                f'<text class="spec" x="{box.x:.1f}" y="{y + 30}">{html.escape(box.spec)}</text></g>')
        out.append(f'<a href="#{box.link}">{body}</a>' if box.link else body)
    return "".join(out) + "</svg>"
