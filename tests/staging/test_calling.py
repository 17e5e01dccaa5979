"""The written-out call: what it reads from outside is what is there now."""

import itertools

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
