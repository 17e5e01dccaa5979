"""What a recording does not keep alive, and what happens when it goes."""

import gc
import time
import warnings
import weakref

import pytest

import agog as ag
from agog import nn
from agog.staging import recording


class Plain:
    def __init__(self):
        self.w, self.scale, self.parts = ag.asarray([1.0, 2.0], requires_grad=True), 2.0, [Part(), Part()]

    @ag.function(strict=True)
    def step(self, x):
        return (x * self.w * self.scale * self.parts[0].v).sum()


class Part:
    v = 3.0


class Net(nn.Module):
    def __init__(self):
        self.lin = nn.Linear(2, 2)
        self.w = self.lin.weight

    @ag.function(strict=True)
    def step(self, x):
        return self.lin(x).sum()


class Slots:
    __slots__ = ("__weakref__", "scale", "w")

    def __init__(self):
        self.w, self.scale = ag.ones(2), 2.0

    @ag.function(strict=True)
    def step(self, x):
        return (x * self.w * self.scale).sum()


@pytest.mark.parametrize("make", [Plain, Net])
def test_a_staged_method_lets_its_objects_go(make):
    x = ag.asarray([1.0, -1.0])
    gc.collect()
    gc.disable()
    try:
        objects, weights = [], []
        for _ in range(5):
            net = make()
            assert len({net.step(x).item() for _ in range(3)}) == 1
            objects.append(weakref.ref(net))
            weights.append(weakref.ref(net.w))
        assert make.step.calls_staged
        del net
        assert not any(r() for r in objects) and all(r() is None for r in weights)
        assert not make.step._forms and not make.step._entries
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [Plain, Net, Slots])
def test_objects_are_told_apart_as_ever(make):
    x = ag.asarray([1.0, -1.0])
    nets = [make() for _ in range(3)]
    for k, net in enumerate(nets):
        with ag.no_grad():
            net.w.assign(net.w * 0 + k + 1)
    for _ in range(3):
        for net in nets:
            with ag.eager():
                want = net.step(x).item()
            assert net.step(x).item() == pytest.approx(want)
    before = make.step.calls_staged
    assert before
    if make is not Slots:
        nets[0].__dict__["extra"] = 1  # (nothing reads it)
    else:
        nets[0].scale = 5.0
    for net in nets * 2:
        with ag.eager():
            want = net.step(x).item()
        assert net.step(x).item() == pytest.approx(want)


def test_a_change_of_an_object_that_is_not_kept_alive_is_seen():
    net, x = Plain(), ag.asarray([1.0, 1.0])
    for scale in (2.0, 2.0, 2.0, 3.0, 3.0, 2.0):
        net.scale = scale
        assert net.step(x).item() == 9 * scale
    net.parts[0].v = 1.0
    assert net.step(x).item() == 6
    net.__class__ = type("Other", (Plain,), {"scale": property(lambda self: 10.0, lambda self, v: None)})
    assert net.step(x).item() == 30
    model, seen = Net(), set()
    for mode in (True, True, False, False, True):
        model.train(mode)
        seen.add(model.step(x).item())
    assert len(seen) == 1


def test_an_object_that_something_else_holds_too():
    """A global that names the argument is compared by identity, and keeps it."""
    net, x = Plain(), ag.ones(2)
    holder = {"net": net}
    f = ag.function(lambda n, x: n.step(x) + (1 if holder["net"] is n else 0))
    assert [f(net, x).item() for _ in range(3)] == [19] * 3
    holder["net"] = None
    assert f(net, x).item() == 18


def test_arguments_do_not_wait_for_the_garbage_collector():
    f = ag.function(lambda xs, y: xs[0] * y["a"] + 1)
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            a, b = ag.ones(3), ag.ones(3)
            r = weakref.ref(a), weakref.ref(b)
            f([a], {"a": b})
            del a, b
            assert r[0]() is None and r[1]() is None
    finally:
        gc.enable()


def test_a_new_object_at_every_call_is_not_recorded_for_ever():
    class Config:
        scale = 2.0

    f = ag.function(lambda x, c: x * c.scale)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(300):
            assert f(ag.ones(1), Config()).item() == 2
    assert "different forms of arguments" in str(caught[0].message) and len(caught) == 1


def test_finalizers_of_others_do_not_run_in_a_recording():
    """Where the garbage collector strikes is chance: what it makes run there is not what the function does."""
    seen = []

    class Noisy:
        def __init__(self):
            self.me = self

        def __del__(self):
            seen.append(ag.config.modes.recorder is not None)
            time.time()

    def g(x):
        return x * len([[i] for i in range(5000)])

    f = ag.function(g, strict=True)
    x = ag.ones(2)
    gc.collect()
    before = gc.get_threshold()
    gc.disable()
    for _ in range(3):
        Noisy()
    gc.set_threshold(gc.get_count()[0] + 3000, 1, 1)
    gc.enable()
    try:
        f(x), f(x)
        assert gc.isenabled() and f.calls_staged == 1
        gc.collect()
        assert seen == [False] * 3
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_waits_for_the_program(fails, monkeypatch):
    seen, build = [], recording.build

    def watched(graph):
        seen.append(gc.isenabled())
        if fails:
            raise KeyError("no program")
        return build(graph)

    monkeypatch.setattr(recording, "build", watched)
    x = ag.ones(2)
    for switched in (True, False):
        f = ag.function(lambda x: x * 2)
        (gc.enable if switched else gc.disable)()
        try:
            if fails:
                with pytest.raises(KeyError):
                    f(x)
            else:
                f(x)
            assert gc.isenabled() is switched
        finally:
            gc.enable()
    assert seen == [False, False]


def test_a_function_that_switches_the_garbage_collector():
    @ag.function
    def f(x):
        gc.disable()
        return x * 2

    try:
        for _ in range(3):
            gc.enable()
            assert f(ag.ones(1)).item() == 2 and not gc.isenabled()
    finally:
        gc.enable()
