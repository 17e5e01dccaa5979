"""`set_reproducible`: what eager code gives does not depend on which kernels happened to be compiled."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import agog as ag

PROGRAM = """
    import hashlib, json, sys, threading
    import numpy as np
    import agog as ag
    from agog import nn

    f, rng = nn.functional, np.random.default_rng(0)
    array = lambda *shape: ag.asarray(rng.standard_normal(shape).astype(np.float32))
    x, y, image, kernel, w = array(300, 700), array(300, 700), array(16, 8, 24, 24), array(8, 8, 3, 3), array(700, 80)
    few, row, double = array(30, 40), array(700), ag.asarray(rng.standard_normal(5000))
    labels, places = ag.asarray(rng.integers(0, 700, 300)), ag.asarray(rng.integers(0, 300, 300))

    def gradient(fn, *args):
        return ag.grad(lambda *a: ag.sum(fn(*a) ** 2), argnums=0)(*args)

    def trained():
        ag.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                              nn.Linear(8 * 11 * 11, 64), nn.LayerNorm(64), nn.GELU(), nn.Dropout(0.5),
                              nn.Linear(64, 700))
        opt = ag.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            opt.zero_grad()
            f.cross_entropy(model(image), labels[:16]).backward()
            opt.step()
        return list(model.state_dict().values())

    def shared():
        found = [None] * 4
        def run(i):
            found[i] = ag.log2(double ** 2 + 1)
        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        return found

    WHAT = {
        "exp": lambda: ag.exp(x), "tanh of few": lambda: ag.tanh(few), "sigmoid": lambda: f.sigmoid(x),
        "gelu": lambda: f.gelu(x), "erf, float64": lambda: ag.erf(double), "pow": lambda: ag.abs(few) ** 1.3,
        "float16": lambda: ag.tanh(x.astype("float16")), "row": lambda: x / (row * row + 1), "sum": lambda: x.sum(),
        "mean of rows": lambda: x.mean(axis=1), "var": lambda: ag.var(x, axis=0), "prod": lambda: ag.prod(few, axis=1),
        "cumsum": lambda: ag.cumsum(x, axis=1), "softmax": lambda: f.softmax(x, axis=0),
        "norm": lambda: f.layer_norm(x, (700,)), "logsumexp": lambda: ag.logsumexp(x, axis=1),
        "product": lambda: x @ w, "convolution": lambda: f.conv2d(image, kernel),
        "add at places": lambda: few.at[places[:50] % 30].add(0.1), "normal": lambda: ag.random.normal((999,)),
        "gradient of tanh": lambda: gradient(ag.tanh, x), "of convolution": lambda: gradient(f.conv2d, image, kernel),
        "of pooling": lambda: gradient(lambda v: f.max_pool2d(v, 2), image),
        "of softmax": lambda: gradient(f.softmax, x),
        "attention": lambda: f.scaled_dot_product_attention(*[image.reshape(16, 8, 24, 24)] * 3), "training": trained,
        "threads": shared,
    }

    def digest(name):
        ag.manual_seed(1)
        found = WHAT[name]()
        arrays = [v.detach().numpy() for v in (found if isinstance(found, list) else [found])]
        return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()

    if sys.argv[1:] == ["late"]:  # some kernels are there, some on their way, and some were not asked for
        for name in list(WHAT)[::2] * 3:
            digest(name)
        ag.set_reproducible()
    first = {name: digest(name) for name in WHAT}
    print(json.dumps({**first, "changed": [name for name in WHAT if digest(name) != first[name]]}))
"""


def digests(cache, *argv, **env):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), *argv], capture_output=True, text=True,
                          env=os.environ | {"AGOG_CACHE_DIR": str(cache), **env}, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_results_are_those_of_any_other_run(tmp_path):
    cold = digests(tmp_path, AGOG_REPRODUCIBLE="1")
    assert not cold["changed"]
    assert digests(tmp_path, AGOG_REPRODUCIBLE="1") == cold  # what was compiled is on disk now
    assert digests(tmp_path, "late") == cold


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_only_true_and_false_are_taken(value):
    with pytest.raises(ag.errors.ArgumentError, match="True or False"):
        ag.set_reproducible(value)


def test_its_name_in_pytorch_leads_to_it():
    with pytest.raises(AttributeError, match=r"ag\.set_reproducible\(True\)"):
        ag.use_deterministic_algorithms  # noqa: B018
