"""The drawing: well-formed, self-contained, complete."""

import html.parser
import re

import numpy as np

from agog.graph import Builder, build, optimize, xp


class Checker(html.parser.HTMLParser):
    """Tags that are opened are closed; nothing is fetched."""

    VOID = {"meta", "path", "rect", "br"}

    def __init__(self):
        super().__init__()
        self.stack, self.texts, self.titles = [], [], []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            assert name not in ("src", "onload") and not re.match(r"(https?:)?//", value or ""), (tag, name, value)
            if name == "href":
                assert value.startswith("#")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "text":
            self.texts.append(data)
        if self.stack and self.stack[-1] == "title":
            self.titles.append(data)


def checked(page):
    checker = Checker()
    checker.feed(page)
    assert checker.stack == []
    return checker


def test_everything_is_in_it(tmp_path):
    def fn(x, w):
        y, = x.builder.while_loop(lambda v: xp.sum(v) > 1, lambda v: v * 0.5, [x])
        return xp.softmax(y @ w + 1.0) < 2

    graph = build(fn, ((4, 3), "float32"), ((3, 5), "float32"), name="net<b>")
    path = tmp_path / "net.html"
    page = graph.show(path)
    assert path.read_text(encoding="utf-8") == page and page == graph._repr_html_()
    seen = checked(page)
    for word in ("x", "w", "while_loop", "matmul", "softmax", "add(·, 1)", "result", "f32[4, 5]"):
        assert word in seen.texts, word
    assert any("test_show.py" in t and "xp.softmax(y @ w" in t for t in seen.titles)
    assert page.count("<svg") == 3  # the graph, the loop's test and body
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f"id={anchor}>" in page


def test_fused_graphs_and_wide_ones():
    graph = build(lambda x: xp.sum(xp.exp(x) * 2 + xp.sin(x)), ((30,), "float32"))
    checked(optimize(graph.grad(value=True)).show())
    b = Builder("wide")
    x = b.input((3,), "float32")
    checked(b.build([x * float(i) for i in range(40)]).show())
    checked(Builder("empty").build([np.zeros(3)]).show())


def test_steps_do_not_overlap_and_lie_below_what_they_read():
    graph = build(lambda x, y: xp.sum((xp.exp(x) + y) * (xp.sin(x) - y)), ((3,), "float32"), ((3,), "float32"))
    boxes = [tuple(map(float, m)) for m in re.findall(r'<rect x="([-\d.]+)" y="(\d+)" width="([\d.]+)"', graph.show())]
    assert len(boxes) == 2 + 6 + 1
    for x, y, w in boxes:
        assert sum(y == y2 and x < x2 + w2 and x2 < x + w for x2, y2, w2 in boxes) == 1
    for y0, y1 in re.findall(r'<path d="M[-\d.]+ (\d+)C.* [-\d.]+ (\d+)"/>', graph.show().replace("/><", "/>\n<")):
        assert int(y0) < int(y1)
