"""Control flow, exceptions, context managers, generators, decorators, recursion; arguments of all kinds."""

import asyncio
import contextlib
import functools
import itertools

import numpy as np
from staging.worlds import Cases, T, attempt

import agog as ag

case = Cases()


@case(staged=True)
def if_elif_else_on_values(stage):
    @stage
    def f(x):
        s = x.sum()
        if s > 10:
            return x * 2
        elif s > 0:
            return x + 1
        else:
            return -x

    for v in (1, 1, 20, 20, -3, -3, 1, 20):
        yield f(T(v))


@case(staged=True)
def nested_ifs(stage):
    @stage
    def f(x, y):
        if x.sum() > 0:
            if y.sum() > 0:
                return x + y
            return x - y
        return x * y

    for a, b in ((1, 1), (1, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)):
        yield f(T(a), T(b))


@case(staged=True)
def while_and_break(stage):
    @stage
    def f(x):
        n = 0
        while True:
            x = x * 2
            n += 1
            if x.max() > 20:
                break
        else:
            n = -1
        return x, n

    for v in (1, 9, 1, 9, 3, 1):
        yield f(T(v, 1))


@case(staged=True)
def for_else_continue(stage):
    @stage
    def f(x):
        total = x * 0
        for i in range(5):
            if i % 2:
                continue
            total = total + x * i
        else:
            total = total + 100
        return total

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case(staged=True)
def iterate_over_tensor_rows(stage):
    @stage
    def f(x):
        out = x[0] * 0
        for i, row in enumerate(x):
            out = out + row * i
        a, b = x
        return out, a - b, [r.sum() for r in x], len(x)

    for v in (1, 2, 3, 4):
        yield f(T(v, 2, 3, 4).reshape(2, 2))


@case(staged=True)
def zip_enumerate_reversed_map_filter(stage):
    ks = [1.0, 2.0, 3.0]

    @stage
    def f(x):
        y = x * 0
        for i, (a, b) in enumerate(zip(ks, reversed(ks))):
            y = y + x * a * b * i
        return y + sum(map(lambda k: k * 2, filter(lambda k: k > 1, ks)))  # noqa: C417

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case(staged=True)
def itertools_made_inside(stage):
    @stage
    def f(x):
        c = itertools.count(1)
        return (
            x * next(c) + x * next(c),
            [x * a for a in itertools.accumulate([1.0, 2.0])],
            sum(x * a * b for a, b in itertools.product([1.0, 2.0], repeat=2)),
        )

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def itertools_from_outside(stage):
    c = itertools.cycle([1.0, 2.0])
    f = stage(lambda x: x * next(c))
    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def generator_argument(stage):
    f = stage(lambda g: sum(x * 2 for x in g))
    for v in (1, 2, 3, 4):
        yield f(T(v + i) for i in range(3))


@case
def map_object_argument(stage):
    f = stage(lambda g: list(g)[0])
    for v in (1, 2, 3, 4):
        yield f(map(lambda i: T(v + i), range(3)))  # noqa: B023, C417


@case(staged=True)
def generator_function_called_inside(stage):
    def rows(x, n):
        for i in range(n):
            yield x * i
        return

    def chained(x):
        yield from rows(x, 2)
        yield from rows(x + 1, 2)

    @stage
    def f(x):
        return list(chained(x)), sum(rows(x, 3))

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case(staged=True)
def generator_with_send_and_close(stage):
    def averager():
        total, n = 0.0, 0
        value = None
        while True:
            value = yield (total / n if n else 0.0)
            total = total + value
            n += 1

    @stage
    def f(x):
        g = averager()
        next(g)
        g.send(x)
        out = g.send(x * 3)
        g.close()
        return out

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case(staged=True)
def context_managers_inside(stage):
    @contextlib.contextmanager
    def scaled(k):
        yield k * 2

    class Scope:
        def __init__(self, k):
            self.k = k

        def __enter__(self):
            return self.k

        def __exit__(self, *exc):
            return False

    @stage
    def f(x):
        with scaled(3.0) as k, Scope(2.0) as j:
            y = x * k * j
        with contextlib.suppress(KeyError):
            y = y + {}["missing"]
        with contextlib.nullcontext(5.0) as z, contextlib.ExitStack() as stack:
            stack.callback(lambda: None)
            y = y + z
        return y

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def context_manager_with_outer_state(stage):
    depth = [0]

    @contextlib.contextmanager
    def deeper():
        depth[0] += 1
        try:
            yield depth[0]
        finally:
            depth[0] -= 1

    @stage
    def f(x):
        with deeper() as d:
            return x * d

    for v in (1, 2, 3):
        yield f(T(v)), depth
    depth[0] = 5
    yield f(T(1)), depth
    yield f(T(1)), depth


@case(staged=True)
def try_finally_return(stage):
    @stage
    def f(x):
        y = x
        try:
            if x.sum() > 5:
                return y * 2
            y = y + 1
        finally:
            y = y * 100
        return y

    for v in (1, 9, 1, 9):
        yield f(T(v))


@case(staged=True)
def python_exception_caught_inside(stage):
    @stage
    def f(x, d):
        try:
            k = d["k"]
        except KeyError as e:
            k = len(str(e))
        else:
            k = k + 1
        try:
            raise ValueError("a")
        except (TypeError, ValueError) as e:
            k += len(e.args)
        return x * k

    for d in ({"k": 1.0}, {}, {"k": 1.0}, {}, {"k": 2.0}):
        yield f(T(1), d)


@case
def op_errors_caught_inside(stage):
    @stage
    def f(x, y):
        try:
            return x @ y
        except ValueError:
            return x.sum() + y.sum()

    for b in (T(1, 2), T(1, 2, 3), T(1, 2), T(1, 2, 3)):
        yield f(T(1, 2), b)


@case
def exceptions_out_of_the_call(stage):
    class Mine(Exception):
        pass

    @stage
    def f(x, kind):
        y = x * 2
        if kind == 1:
            raise Mine("mine", 3)
        if kind == 2:
            return y.reshape(3, 5)
        if kind == 3:
            return {}["k"]
        if kind == 4:
            return y @ y @ y
        if kind == 5:
            assert y.sum() < 0, f"bad {kind}"
        if kind == 6:
            return y.nothing
        return y

    for kind in (0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0):
        yield attempt(f, T(1, 2), kind)


@case
def state_after_an_exception(stage):
    log, w = [], T(1)

    @stage
    def f(x):
        log.append(len(log))
        w.assign(w + 1)
        if x.sum() < 0:
            raise ValueError("no")
        w.assign(w * 2)
        return x + w

    for v in (1, 1, -1, 1, -1):
        yield attempt(f, T(v)), w, log


@case
def assert_on_values(stage):
    @stage
    def f(x):
        assert x.sum() > 0
        assert bool((x < 100).all()), "too large"
        return x.log()

    for v in (1, 2, -1, 200, 3):
        yield attempt(f, T(v, 1))


@case(staged=True)
def ternary_boolean_operators_chained(stage):
    @stage
    def f(x, y):
        a = x if x.sum() > y.sum() else y
        b = (x > 0).all() and (y > 0).all()
        c = not (x.sum() > 3)
        d = 0 < x.sum() < 5
        return a, a * (2 if b else 3), a + (1 if c else 0), a - (1 if d else 0), max(x.sum(), y.sum()), min(3, x.sum())

    for a, b in ((1, 2), (1, 2), (4, 2), (9, 9), (4, 2), (-1, 2)):
        yield f(T(a), T(b))


@case(staged=True)
def tensor_in_list_and_count(stage):
    @stage
    def f(x):
        return x * (2 if 3.0 in x else 5), [1.0, 2.0].count(1.0)

    for v in (3, 3, 1, 1, 3):
        yield f(T(v, 0))


@case(staged=True)
def int_float_complex_index_of_tensors(stage):
    @stage
    def f(x, i):
        k = int(i)
        return x[i], x[int(i)], [10.0, 20.0, 30.0][i] * x, float(i) * x, complex(i).real, range(i)[-1:], x[: k + 1], k

    for i in (1, 1, 0, 2, 0, 1):
        yield f(T(1, 2, 3), ag.asarray(i))


@case(staged=True)
def item_as_dict_key_and_format(stage):
    table = {0: 1.0, 1: 5.0}

    @stage
    def f(x, i):
        return x * table[i.item()], f"{i.item():03d}", f"{x.sum():.2f}"

    for i, v in ((0, 1), (1, 1), (0, 1), (1, 1)):
        yield f(T(v), ag.asarray(i))


@case
def unseen_key_raises(stage):
    table = {0: 1.0}
    f = stage(lambda x, i: x * table[i.item()])
    for i in (0, 0, 3, 0):
        yield attempt(f, T(1), ag.asarray(i))


@case(staged=True)
def recursion_on_python_and_on_values(stage):
    @stage
    def fact(x, n):
        return x if n <= 1 else fact(x, n - 1) * n

    @stage
    def halve(x):
        return x if x.sum() < 1 else halve(x / 2) + 1

    for v, n in ((1, 3), (2, 3), (1, 4), (2, 4)):
        yield fact(T(v), n), halve(T(v * 4))
        yield fact(T(v), n), halve(T(v * 4))


@case(staged=True)
def mutual_recursion(stage):
    @stage
    def even(x, n):
        return x if n == 0 else odd(x + 1, n - 1)

    @stage
    def odd(x, n):
        return x * 10 if n == 0 else even(x + 2, n - 1)

    for n in (3, 3, 4, 4, 3):
        yield even(T(1), n), odd(T(1), n)


@case(staged=True)
def decorators_below_and_above(stage):
    def doubled(fn):
        @functools.wraps(fn)
        def wrapper(*args, **kwargs):
            return fn(*args, **kwargs) * 2

        return wrapper

    k = [1.0]

    @stage
    @doubled
    @doubled
    def below(x):
        return x + k[0]

    @doubled
    @stage
    def above(x):
        return x + k[0]

    for v in (1.0, 1.0, 3.0, 3.0):
        k[0] = v
        yield below(T(1)), above(T(1)), below.__name__, above.__name__


@case
def counting_decorator(stage):
    def counted(fn):
        @functools.wraps(fn)
        def wrapper(x):
            wrapper.calls += 1
            return fn(x) * wrapper.calls

        wrapper.calls = 0
        return wrapper

    @stage
    @counted
    def f(x):
        return x + 1

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def caching_decorator_of_the_user(stage):
    def cached(fn):
        memo = {}

        @functools.wraps(fn)
        def wrapper(x, n):
            if n not in memo:
                memo[n] = fn(n)
            return x * memo[n]

        return wrapper

    k = [2.0]

    @stage
    @cached
    def f(n):
        return n * k[0]

    for n in (1, 1, 2, 2, 1):
        yield f(T(1), n)
    k[0] = 100.0
    for n in (1, 2, 3, 3):
        yield f(T(1), n)


@case(staged=True)
def lru_cache_inside(stage):
    k = [2.0]

    @functools.cache
    def power(n):
        return k[0] ** n

    power(3)
    f = stage(lambda x: x * power(3))
    yield f(T(1))
    yield f(T(1))
    k[0] = 3.0
    yield f(T(1))  # still the cached 8
    power.cache_clear()
    yield f(T(1))
    yield f(T(1))


@case
def lru_cache_filled_inside(stage):
    @functools.lru_cache
    def power(n):
        return 2.0**n

    f = stage(lambda x, n: x * power(n))
    for n in (1, 1, 2, 2, 3, 1):
        yield f(T(1), n), power.cache_info().misses


@case
def cached_property(stage):
    class P:
        def __init__(self):
            self.base = 2.0

        @functools.cached_property
        def k(self):
            return self.base * 2

    p = P()
    f = stage(lambda x: x * p.k)
    yield f(T(1))
    yield f(T(1))
    p.base = 5.0
    yield f(T(1))
    del p.k
    yield f(T(1))
    yield f(T(1))


@case
def singledispatch(stage):
    @functools.singledispatch
    def kind(o):
        return 1.0

    @kind.register
    def _(o: int):
        return 2.0

    f = stage(lambda x, o: x * kind(o))
    for o in (1, 1, "a", "a", 1):
        yield f(T(1), o)
    kind.register(str, lambda o: 7.0)
    for o in ("a", "a", 1):
        yield f(T(1), o)


@case(staged=True)
def partial_and_partialmethod(stage):
    class A:
        def scale(self, x, k):
            return x * k

        twice = functools.partialmethod(scale, k=2.0)

    p = functools.partial(lambda x, *, k: x + k, k=3.0)
    a = A()
    f = stage(lambda x: a.twice(x) + p(x))
    g = stage(p)
    for v in (1, 2, 3, 4):
        yield f(T(v)), g(T(v)), g(T(v), k=1.0)
    p.keywords["k"] = 10.0
    yield f(T(1)), g(T(1))
    yield f(T(1)), g(T(1))


@case(staged=True)
def reduce_and_operator(stage):
    import operator

    f = stage(lambda xs: functools.reduce(operator.mul, xs, xs[0] * 0 + 1))
    for n in (1, 3, 3, 1):
        yield f([T(i + 1) for i in range(n)])


@case(staged=True)
def sorted_with_key_on_values(stage):
    f = stage(lambda xs: sorted(xs, key=lambda t: t.sum().item())[0])
    for a, b in ((1, 2), (2, 1), (1, 2), (2, 1), (3, 4)):
        yield f([T(a), T(b)])


@case(staged=True)
def arguments_of_all_kinds(stage):
    @stage
    def f(a, /, b, c=2.0, *args, d, e=3.0, **kw):
        y = a * b + c * d - e
        for x in args:
            y = y + x
        for k in kw:
            y = y + kw[k] * len(k)
        return y

    for _ in range(2):
        yield f(T(1), T(2), d=T(3))
        yield f(T(1), b=T(2), d=T(3), c=5.0)
        yield f(T(1), T(2), 1.0, T(4), 5, d=T(3), zz=T(1), y=2.0)
        yield f(T(1), T(2), 1.0, T(4), 6, d=T(3), zz=T(1), y=2.0)
        yield f(T(1), d=T(3), b=T(2), e=0)
        yield f(*[T(1), T(2)], d=T(3), q=1)
    yield attempt(f, T(1))
    yield attempt(f, T(1), T(2), d=T(1), a=3)[0]


@case(staged=True)
def keyword_order_and_defaults(stage):
    f = stage(lambda x, a=1.0, b=2.0: x * a - b)
    for _ in range(3):
        yield f(T(1), a=3.0, b=1.0), f(T(1), b=1.0, a=3.0), f(T(1), 3.0, 1.0), f(T(1)), f(x=T(1))


@case(staged=True)
def plain_arguments_by_type_and_value(stage):
    f = stage(lambda x, k: (x * k if not isinstance(k, str | bytes | None) else x, type(k).__name__))
    for _ in range(2):
        for k in (1, 1.0, True, 0, 0.0, -0.0, False, 2**40, "1", b"1", None, 1 + 0j, 1e300, float("inf")):
            yield f(T(3), k)


@case(staged=True)
def nan_and_negative_zero_arguments(stage):
    f = stage(lambda x, k: x * k)
    for k in (float("nan"), float("nan"), 0.0, -0.0, 0.0, -0.0):
        yield f(T(3), k)
        yield f(T(-3), k)


@case
def huge_ints(stage):
    f = stage(lambda x, k: x * (k % 7) + (k > 2**70))
    for k in (2**80, 2**80, 2**80 + 1, -(2**80), 3):
        yield f(T(3), k)
    g = stage(lambda x, k: x * k)
    for k in (2**70, 2**70, 2**62):
        yield attempt(g, ag.asarray([1, 2]), k)[0]
        yield attempt(g, T(1), k)


@case(staged=True)
def dict_arguments(stage):
    f = stage(lambda p: p["w"] @ p["x"] + p.get("b", 0) + sum(p[k].sum() for k in p if k != "b"))
    for v in (1, 2, 3, 4):
        yield f({"w": T(v, 2), "x": T(3, v)})
        yield f({"x": T(3, v), "w": T(v, 2)})
        yield f({"w": T(v, 2), "x": T(3, v), "b": T(1)})


@case(staged=True)
def one_container_twice(stage):
    f = stage(lambda a, b: (a["x"] * 2 if a is b else a["x"] * 3, b["x"]))
    for v in (1, 2, 3, 4):
        a, b = {"x": T(v)}, {"x": T(v)}
        yield f(a, b), f(a, a), f({"x": a["x"]}, a)


@case(staged=True)
def nested_containers_in_and_out(stage):
    f = stage(lambda p: {"a": [p["a"][0] * 2, (p["b"], None, 3, "s")], "e": [], "t": (), "d": {}})
    for v in (1, 2, 3, 4):
        yield f({"a": [T(v)], "b": T(v, v)})


@case(staged=True)
def slices_ellipsis_and_dtypes_as_arguments(stage):
    f = stage(lambda x, s, d: x[s].astype(d))
    for s, d in (
        (slice(0, 2), "float64"),
        (slice(0, 2), "float64"),
        (slice(1, None), ag.int32),
        (..., ag.int32),
        (slice(1, None), ag.int32),
        (..., "float32"),
    ):
        yield f(T(1, 2, 3), s, d)


@case(staged=True)
def function_and_class_arguments(stage):
    def double(x):
        return x * 2

    class Add:
        def __init__(self, k):
            self.k = k

        def __call__(self, x):
            return x + self.k

    add = Add(1.0)
    f = stage(lambda fn, x: fn(x))
    for fn in (double, add, ag.exp, ag.Tensor.sum, lambda x: x - 1, double, add):
        yield f(fn, T(1))
        yield f(fn, T(1))
    add.k = 5.0
    yield f(add, T(1))
    yield f(add, T(1))


@case(staged=True)
def lambda_argument_closing_over_a_number(stage):
    f = stage(lambda fn, x: fn(x))
    for k in (1.0, 2.0, 1.0):
        g = lambda x: x * k  # noqa: B023
        yield f(g, T(1))
        yield f(g, T(1))


@case(staged=True)
def local_functions_and_lambdas_in_loops(stage):
    @stage
    def f(x):
        fs = [lambda y, i=i: y * i for i in range(3)]
        late = [lambda y: y * i for i in range(3)]  # noqa: B023
        return [g(x) for g in fs], [g(x) for g in late]

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def coroutine_run_inside(stage):
    async def work(x):
        await asyncio.sleep(0)
        return x * 2

    f = stage(lambda x: asyncio.run(work(x)))
    for v in (1, 2, 3):
        yield f(T(v))


@case(staged=True)
def exec_without_source(stage):
    space = {"k": 1.0, "__name__": "made_up"}
    exec("def f(x):\n    return x * k\nclass A:\n    g = 1.0\na = A()\ndef h(x): return x * a.g", space)
    f, h = stage(space["f"]), stage(space["h"])
    yield f(T(1)), h(T(1))
    yield f(T(1)), h(T(1))
    space["k"] = 4.0
    space["A"].g = 5.0
    yield f(T(1)), h(T(1))
    yield f(T(1)), h(T(1))


@case(staged=True)
def equal_code_with_other_globals(stage):
    source = "def f(x):\n    return g(x)\ndef g(x):\n    return x * K\n"
    one, two = {"K": 1.0}, {"K": 2.0}
    exec(source, one)
    exec(source, two)
    f = stage(lambda x: one["f"](x) + two["f"](x) * 10)
    yield f(T(1))
    yield f(T(1))
    two["K"] = 5.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def redefined_as_in_a_notebook(stage):
    space = {"ag": ag}
    exec("def helper(x): return x + 1\ndef f(x): return helper(x)", space)
    f = stage(space["f"])
    yield f(T(1))
    yield f(T(1))
    exec("def helper(x): return x * 100", space)
    yield f(T(1))
    yield f(T(1))
    exec("def f(x): return helper(x) - 1", space)
    g = stage(space["f"])
    yield f(T(1)), g(T(1))
    yield f(T(1)), g(T(1))


@case
def eval_and_exec_inside(stage):
    k = [2.0]

    @stage
    def f(x):
        space = {"x": x, "k": k[0]}
        exec("y = x * k", space)
        return eval("y + 1", space)

    for v in (2.0, 2.0, 3.0, 3.0):
        k[0] = v
        yield f(T(1))


@case(staged=True)
def builtin_shadowed_later(stage):
    space = {}
    exec("def f(x): return x * len([1, 2])", space)
    f = stage(space["f"])
    yield f(T(1))
    yield f(T(1))
    space["len"] = lambda v: 100
    yield f(T(1))
    del space["len"]
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def monkeypatched_library_functions(stage):
    import math

    f = stage(lambda x: x * math.sqrt(4.0) + ag.exp(x * 0) + float(np.sqrt(4.0)))
    yield f(T(1))
    yield f(T(1))
    before = math.sqrt, ag.exp, np.sqrt
    try:
        math.sqrt = lambda v: 10.0
        yield f(T(1))
        ag.exp = lambda x: x + 100
        yield f(T(1))
        np.sqrt = lambda v: 3.0
        yield f(T(1))
        yield f(T(1))
    finally:
        math.sqrt, ag.exp, np.sqrt = before
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def nested_staged_functions_with_state(stage):
    k = [1.0]
    inner = stage(lambda x: x * k[0])
    middle = stage(lambda x: inner(x) + inner(x + 1))
    outer = stage(lambda x: middle(x) * inner(x))
    for v in (1.0, 1.0, 3.0, 3.0):
        k[0] = v
        yield outer(T(2)), middle(T(2)), inner(T(2))
        yield outer(T(2)), middle(T(2)), inner(T(2))


@case(staged=True)
def staged_methods_of_all_kinds(stage):
    class A:
        k = 2.0

        def __init__(self, j):
            self.j = j

        @stage
        def method(self, x):
            return x * self.j

        @staticmethod
        @stage
        def static(x):
            return x * A.k

        @classmethod
        @stage
        def klass(cls, x):
            return x * cls.k

        @property
        @stage
        def prop(self):
            return ag.asarray([1.0]) * self.j

        @stage
        def __call__(self, x):
            return self.method(x) + 1

    class B(A):
        k = 5.0

        def method(self, x):
            return super().method(x) * 100

    for _ in range(3):
        for o in (A(1.0), A(2.0), B(3.0)):
            yield o.method(T(1)), o.static(T(1)), o.klass(T(1)), o.prop, o(T(1)), type(o).klass(T(1))
    a = A(1.0)
    for j in (1.0, 1.0, 4.0, 4.0):
        a.j = j
        yield a.method(T(1)), a.prop, a(T(1))
        yield A.method(a, T(1))
    A.k = 9.0
    yield a.static(T(1)), a.klass(T(1)), B.klass(T(1))
    yield a.static(T(1)), a.klass(T(1)), B.klass(T(1))


@case(staged=True)
def staged_override_and_super(stage):
    class A:
        @stage
        def f(self, x):
            return x + 1

    class B(A):
        @stage
        def f(self, x):
            return super().f(x) * 2

    a, b = A(), B()
    for v in (1, 2, 3, 4):
        yield a.f(T(v)), b.f(T(v)), B().f(T(v))


@case(staged=True)
def unbound_method_and_callable_class(stage):
    class A:
        k = 1.0

        def f(self, x):
            return x * self.k

        def __call__(self, x):
            return x + self.k

    a = A()
    bound, call, unbound = stage(a.f), stage(a), stage(A.f)
    for k in (1.0, 1.0, 2.0, 2.0):
        a.k = k
        yield bound(T(1)), call(T(1)), unbound(a, T(1))


test_staged_is_plain = case.test()
