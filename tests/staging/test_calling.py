"""The written-out call: what it reads from outside is what is there now."""

import gc
import itertools
import weakref

import numpy as np
import pytest

import agog as ag


def T(*values, dtype="float32"):
    return ag.asarray(np.array(values, dtype))


def staged(f, *args):
    f = ag.function(f)
    for _ in range(3):
        f(*args)
    assert f._entries, f.explain()
    return f


CHANGES = {
    "an entry is replaced": lambda ps, d: ps.__setitem__(1, T(50)),
    "one is added": lambda ps, d: ps.append(T(50)),
    "one is removed": lambda ps, d: ps.pop(),
    "two are exchanged": lambda ps, d: ps.__setitem__(slice(0, 2), [ps[1], ps[0]]),
    "an inner list grows": lambda ps, d: d["inner"].append(T(7)),
    "a number inside changes": lambda ps, d: d["numbers"].__setitem__(0, 3),
    "a number becomes a float": lambda ps, d: d["numbers"].__setitem__(0, 2.0),
    "an entry of a dict is replaced": lambda ps, d: d.__setitem__("w", T(5)),
    "a name is added": lambda ps, d: d.__setitem__("z", T(5)),
    "a name is exchanged for another": lambda ps, d: d.__setitem__("z", d.pop("w", T(6))),
    "the order of a dict": lambda ps, d: d.__setitem__("w", d.pop("w", T(6))),
    "an empty list is filled": lambda ps, d: d["empty"].append(T(9)),
    "an empty dict is filled": lambda ps, d: d["nothing"].__setitem__("k", T(11)),
    "a tuple is replaced": lambda ps, d: d.__setitem__("pair", (T(1), T(8))),
    "an assignment": lambda ps, d: ps[0].__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_containers_of_tensors(change):
    ps = [T(1), T(20), T(300)]
    d = {"w": T(2), "inner": [T(3)], "numbers": [2, True, None, "x", 1.5], "empty": [], "nothing": {},
         "pair": (T(1), T(2)), "v": T(4)}

    def f(x):
        for i, p in enumerate(ps):
            x = x * (i + 2) + p
        for k, v in d.items():
            if isinstance(v, ag.Tensor):
                x = x * 1.25 + v * len(k)
        for v in [*d["inner"], *d["empty"], *d["nothing"].values(), *d["pair"]]:
            x = x * 3 - v
        return x + d["numbers"][0] * d["numbers"][4]

    x = T(1)
    g = staged(f, x)
    for _ in range(2):
        change(ps, d)
        want = f(x)
        for _ in range(3):
            got = g(x)
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype="float32").reshape(3, 2) + 1,
        np.arange(6, dtype="int32").reshape(2, 3) + 1,
        np.arange(6, dtype="float64").reshape(2, 3) + 1,
        (np.arange(6, dtype="float32").reshape(3, 2) + 1).T,
        np.arange(12, dtype="float32").reshape(2, 6)[:, ::2],
        np.array(7, "float32"),
        np.zeros((2, 3), "float32"),
    ],
    ids=lambda v: f"{v.dtype}{v.shape}",
)
def test_a_captured_tensor_with_a_value_of_another_form(value):
    w = ag.asarray(np.ones((2, 3), "float32"))

    def f(x):
        return (x * w).sum() + w.size

    x = T(2)
    g = staged(f, x)
    w._data = value
    want = f(x)
    for _ in range(3):
        got = g(x)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


def test_arguments_of_several_forms_in_turn():
    g = ag.function(lambda x: x * 2)
    forms = [T(1, 2), T(1, 2, 3), T([1, 2], [3, 4]), T(1, 2, dtype="int32"), T(1, dtype="float64"),
             ag.asarray(np.arange(6, dtype="float32").reshape(2, 3).T)]
    for _ in range(4):
        for x in forms:
            y = g(x)
            assert y.dtype == x.dtype and y.numpy().tolist() == (x.numpy() * 2).tolist()


def test_memory_that_is_shared_with_numpy():
    data = np.ones(3, "float32")
    w = ag.from_dlpack(data)
    g = staged(lambda x: x + w, T(1, 1, 1))
    data[:] = 5
    assert g(T(1, 1, 1)).tolist() == (T(1, 1, 1) + w).tolist()


@pytest.mark.parametrize("count", range(5))
def test_tensors_by_position_and_by_name_keep_their_places(count):
    """Of one form, and each used differently: nothing but their places tells them apart."""
    f = ag.function(lambda a, b, c, d: a * 1000 + b * 100 + c * 10 + d, strict=True)
    values = [T(i + 1) for i in range(4)]
    for order in itertools.permutations("abcd"[count:]):
        by_name = {name: values["abcd".index(name)] for name in order}
        for _ in range(3):  # (the second call is the first native one)
            assert f(*values[:count], **by_name).tolist() == [1234.0]


@pytest.mark.parametrize("nested", [list, tuple, dict])
def test_tensors_in_containers_by_position_and_by_name_keep_their_places(nested):
    def made(*values):
        return dict(zip("pq", values)) if nested is dict else nested(values)

    @ag.function(strict=True)
    def f(x, pair, *, also, last):
        (a, b), (c, d) = (tuple(p.values()) if isinstance(p, dict) else p for p in (pair, also))
        return x * 1e5 + a * 1e4 + b * 1e3 + c * 100 + d * 10 + last

    for _ in range(3):
        assert f(T(1), made(T(2), T(3)), also=made(T(4), T(5)), last=T(6)).tolist() == [123456.0]
        assert f(T(1), last=T(6), also=made(T(4), T(5)), pair=made(T(2), T(3))).tolist() == [123456.0]


def test_arguments_may_have_any_name():
    def f(x, *args, **kwargs):
        for k, v in kwargs.items():
            x = x * len(k) + v
        return sum(args, x)

    g = ag.function(f)
    for _ in range(3):
        for args, kwargs in (((), {}), ((T(2),), {}), ((T(2), T(3)), {"self": T(4)}), ((), {"rest": T(1)}),
                             ((T(5),), {"kwargs": T(6), "a0": T(7), "args": T(8)})):
            assert g(T(1), *args, **kwargs).tolist() == f(T(1), *args, **kwargs).tolist()
    assert g.calls_staged >= 10


def test_arguments_that_are_too_few_or_too_many():
    g = staged(lambda x, y, k=2: x * y + k, T(1), T(2))
    for wrong in (lambda: g(), lambda: g(T(1)), lambda: g(T(1), T(2), 3, 4), lambda: g(T(1), T(2), z=1)):
        with pytest.raises(TypeError, match="<lambda>"):
            wrong()
    assert g(T(1), T(2), 5).tolist() == [7] and g(T(1), y=T(2)).tolist() == g(T(1), T(2)).tolist() == [4]


def test_calls_are_counted_wherever_they_are_answered():
    g = ag.function(lambda x: x * 2 if x.sum() > 0 else x * 3)
    for v in (1, -1, *[1, -1] * 5):
        assert g(T(v)).tolist() == [v * (2 if v > 0 else 3)]
    assert g.calls_staged == 10


def test_a_staged_function_is_gone_when_nothing_holds_it():
    g = staged(lambda x: x * 2, T(1))
    alone, kept = weakref.ref(g), g.__call__
    gc.collect()
    gc.disable()
    try:
        del g
        assert alone() is None
    finally:
        gc.enable()
    assert kept(T(3)).tolist() == [6] and kept(T([3, 4])).tolist() == [[6, 8]]  # (what it answers no more runs eagerly)


def test_a_class_of_staged_functions():
    class Counting(type(ag.function(lambda x: x))):
        before = 0

        def __call__(self, *args, **kwargs):
            self.before += 1
            return super().__call__(*args, **kwargs)

    g = Counting(lambda x: x * 2)
    for i in range(4):
        assert g(T(i)).tolist() == [2 * i]
    assert g.before == 4 and g.calls_staged == 3


def test_errors_of_native_calls_are_those_of_the_function():
    x, i = T(1, 2, 3), ag.asarray(np.array([0, 1]))
    g = staged(lambda x, i, n: ag.take(x, i) / n, x, i, 2)
    h = staged(lambda x, i: ag.take(x, i), x, i)
    for wrong in (lambda i: g(x, i, 2), lambda i: h(x, i)):
        with pytest.raises(IndexError) as caught:
            wrong(ag.asarray(np.array([0, 9])))
        assert not isinstance(caught.value.__context__, ag.errors.GuardFailed)
    with pytest.raises(ZeroDivisionError):
        ag.function(lambda x, n: x * (1 / n), dynamic="n")(x, 0)


def test_what_a_callback_raises_is_raised_once():
    class Note:
        seen = []

        def __call__(self, v):
            self.seen.append(v.item())
            if len(self.seen) > 4:
                raise KeyError("full")

    note, seen = Note(), Note.seen

    @ag.function
    def f(x):
        y = x * 2
        ag.callback(note, y.sum())
        return y if y.sum() > 0 else -y

    for v in (1, -1, 1, -1):
        f(T(v))
    for v in (1, -1):
        with pytest.raises(KeyError, match="full"):
            f(T(v))
    assert seen == [2, -2, 2, -2, 2, -2]


# ----------------------------------------------------------------------------- what need not, and what must be watched
def watches(f, *args, **kwargs):
    text = str(f.explain(*args, **kwargs))
    return text.partition("watches: ")[2].partition("\n")[0]


def test_the_default_float_is_watched_where_it_was_asked_for():
    x, n = T(1, 2), ag.asarray(np.array([1, 2]))
    free = [lambda x: x * x + 2.0, lambda x: (x @ x).sum() / x.size, lambda x: x.astype("float64"), lambda x: x > 1]
    asked = [lambda x: x + ag.ones(2), lambda x: x * ag.asarray(1.5), lambda x: x + ag.random.normal((2,)),
             lambda x: x.astype(float), lambda x: x * n.mean(), lambda x: x + n / 2, lambda x: x * (n + 1j).real,
             lambda x: x * len(str(ag.default_float())), lambda x: n * 2.5 + x]
    for f in free + asked:
        g = staged(f, x)
        assert ("the default float" in watches(g, x)) == (f in asked), watches(g, x)
    try:
        for dtype in ("float64", "float32"):
            ag.set_default_float(dtype)
            for f in free + asked[:2] + asked[3:]:
                g, want = ag.function(f), f(x)
                for _ in range(3):
                    got = g(x)
                    assert got.dtype == want.dtype and got.tolist() == want.tolist()
    finally:
        ag.set_default_float("float32")


def test_the_default_float_changes_under_a_staged_function():
    n = ag.asarray(np.array([1, 2, 4]))
    functions = [lambda x: x + ag.ones(3), lambda x: x + n.mean(), lambda x: x * (n * 0.5), lambda x: x.astype(float),
                 lambda x: (x.astype("int32") + 1j).real, lambda x: x * 2]
    x = T(1, 2, 3)
    both = [(f, staged(f, x)) for f in functions]
    try:
        for dtype in ("float64", "float32", "float64"):
            ag.set_default_float(dtype)
            for f, g in both:
                want = f(x)
                for _ in range(2):
                    got = g(x)
                    assert got.dtype == want.dtype and got.tolist() == want.tolist()
    finally:
        ag.set_default_float("float32")


def test_a_gradient_that_is_taken_with_another_default_float():
    w = ag.asarray(np.array([1, 2], "float32"), requires_grad=True)
    g = staged(lambda x: (w * x).tanh(), T(1, 2))
    assert "the default float" in watches(g, T(1, 2))


def test_defaults_that_come_go_and_change():
    def f(x, k=2.0, *, j=3.0):
        return x * k + j

    def plain(x, k, *, j):
        return x * k + j

    g, h = staged(f, T(1)), ag.function(plain)
    assert "__defaults__ of f" in watches(g, T(1)) and "__kwdefaults__ of f" in watches(g, T(1))
    for _ in range(3):
        assert h(T(1), 2.0, j=3.0).tolist() == [5]
    assert "defaults" not in watches(h, T(1), 2.0, j=3.0) and h.calls_staged
    for defaults, names in (((4.0,), {"j": 1.0}), ((5.0,), {"j": 1.0}), ((5.0,), {"j": 2.0}), ((6.0,), {"j": 7.0})):
        f.__defaults__ = plain.__defaults__ = defaults
        f.__kwdefaults__ = plain.__kwdefaults__ = names
        for _ in range(2):
            assert g(T(1)).tolist() == f(T(1)).tolist() == h(T(1)).tolist() == [defaults[0] + names["j"]]
            assert h(T(1), 2.0, j=3.0).tolist() == g(T(1), 2.0, j=3.0).tolist() == [5]
            assert h(T(1), j=3.0).tolist() == [defaults[0] + 3]
    f.__defaults__ = plain.__defaults__ = None
    for broken in (g, h):
        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            broken(T(1), j=1.0)
        assert broken(T(1), 2.0, j=3.0).tolist() == [5]


def test_defaults_that_the_function_itself_looks_at():
    def f(x):
        return x * (f.__defaults__ or (2.0,))[0]

    g = staged(f, T(1))
    f.__defaults__ = (5.0,)
    assert g(T(1)).tolist() == [5]


def test_variables_of_enclosing_functions_that_are_deleted_and_bound_again():
    def make():
        ws = [T(2), T(3)]
        v = T(10)

        def f(x):
            for w in ws:
                x = x * w
            return x + v

        def drop():
            nonlocal ws, v
            del ws, v

        def bind(new, value):
            nonlocal ws, v
            ws, v = new, value

        return f, drop, bind

    f, drop, bind = make()
    g = staged(f, T(1))
    assert g(T(1)).tolist() == [16]
    drop()
    for _ in range(2):
        with pytest.raises(NameError):
            g(T(1))
    bind([T(2), T(5)], T(1))
    for _ in range(3):
        assert g(T(1)).tolist() == [11]


# ------------------------------------------------------------------------------------------- which path a call takes
def runs(f):
    """A list to which each native call of the written-out calls of `f` adds the number of the entry as it was."""
    done = []

    def counted(i, native):
        return lambda *arrays: done.append(i) or native(*arrays)

    for i, entry in enumerate(f._entries):
        entry.__globals__["native"] = counted(i, entry.__globals__["native"])
    return done


@pytest.mark.parametrize("look", ["comparisons", "numbers"])
def test_the_values_that_are_seen_say_which_path_it_is(look):
    def f(x):
        s = x.sum()
        if look == "numbers":
            return x * (int(s) + 2)
        if s > 4:
            return x * 6
        if s > 3:
            return x * 5
        if s > 2:
            return x * 4
        return x * (3 if s > 1 else 2)

    g = ag.function(f, strict=True)
    values = [0.5, 1.5, 2.5, 3.5, 4.5]
    for v in values:
        for _ in range(2):
            assert g(T(v)).tolist() == [v * (int(v) + 2)]
    done, before = runs(g), g.calls_staged
    for v in np.random.default_rng(0).permutation(values * 20):
        done.clear()
        want = f(T(v)).tolist()
        assert g(T(v)).tolist() == want
        assert len(done) == len(set(done)) <= (2 if look == "numbers" else 3)  # the first, one that tells, and it
        for _ in range(2):
            assert g(T(v)).tolist() == want
        done.clear()
        assert g(T(v)).tolist() == want and len(done) == 1  # what is taken again and again is tried first
    assert g.calls_staged == before + 400 and "5 recordings" in repr(g)


@pytest.mark.parametrize("seed", range(3))
def test_paths_that_look_at_different_things(seed):
    n = [0]

    def f(x, y):
        if x.sum() > n[0]:
            return x * (2 if y.sum() > 0 else 3)
        if y.max() > 1:
            return y * 4
        while x.max() > 1:
            x = x * 0.5
        if y.min() < -1:
            return x * 5
        return x + y * int(x.min())

    g = ag.function(f, limit=30)
    rng = np.random.default_rng(seed)
    for i in range(200):
        x, y = (ag.asarray(rng.integers(-3, 3, 2).astype("float32")) for _ in "xy")
        n[0] = i // 20 % 2
        assert g(x, y).tolist() == f(x, y).tolist()
    assert g.calls_staged > 100


def test_two_shapes_with_the_same_looks():
    g = ag.function(lambda x: x * 2 if x.sum() > 0 else x * 3)
    xs = [T(*[v] * n) for v in (1, -1, 0) for n in (2, 3, 4)]
    for _ in range(4):
        for x in xs:
            assert g(x).tolist() == (x * 2 if x.sum() > 0 else x * 3).tolist()
    assert g.calls_staged >= 27 and "6 recordings" in repr(g)
