"""Tensors: aliasing, in-place changes, views, dtypes, escapes, randomness, NumPy, side effects of all kinds."""

import contextlib
import io
import logging
import os
import random
import tempfile
import threading
import time
import warnings

import numpy as np
from staging.worlds import Cases, T, attempt

import agog as ag
from agog.errors import StagingWarning

case = Cases()


@case(staged=True)
def in_place_on_argument_and_alias(stage):
    @stage
    def f(x, y):
        x += y
        x *= 2
        return x, x + y

    a, b = T(1, 2), T(3, 4)
    alias = a
    for _ in range(4):
        out, _ = f(a, b)
        yield a, alias, out is a, b


@case(staged=True)
def in_place_on_a_view_leaves_the_base(stage):
    @stage
    def f(x):
        v = x[0]
        v += 10
        w = x.reshape(4)
        w[1] = 7
        return v, w, x

    for i in range(4):
        yield f(T(i, 1, 2, 3).reshape(2, 2))


@case(staged=True)
def item_assignment_forms(stage):
    @stage
    def f(x, i, v):
        x[i] = v
        x[:, 0] = 5
        x[x > 100] = 0
        x[[0, 1], [1, 0]] += 1
        return x.sum()

    for i in (0, 1, 1, 0):
        x = ag.arange(6).reshape(2, 3).astype("float32")
        yield f(x, ag.asarray(i), T(200)), x


@case(staged=True)
def out_of_range_then_fine(stage):
    f = stage(lambda x, i: x[i])
    for i in (0, 1, 5, -1, -9, 2):
        yield attempt(f, T(1, 2, 3), ag.asarray(i))


@case(staged=True)
def captured_tensor_assigned_inside_and_outside(stage):
    w = T(1)

    @stage
    def f(x):
        y = w * x
        w.assign(w + 1)
        return y, w * x

    for i in range(5):
        if i == 3:
            w.assign(T(100))
        yield f(T(2)), w


@case(staged=True)
def captured_in_place(stage):
    w = T(1, 2)

    @stage
    def f(x):
        nonlocal w
        w += x
        return w * 2

    for _i in range(5):
        yield f(T(2, 1)), w
    keep = w
    yield f(T(1, 1)), w, keep is w


@case(staged=True)
def swap_two_captured(stage):
    a, b = T(1), T(2)

    @stage
    def f(x):
        t = a + 0
        a.assign(b)
        b.assign(t)
        return a * x - b

    for _ in range(5):
        yield f(T(3)), a, b


@case(staged=True)
def two_captured_share_memory(stage):
    a = T(1, 2)
    b = a.detach()

    @stage
    def f(x):
        a.assign(a + x)
        return a + b

    for _ in range(4):
        yield f(T(1, 1)), a, b


@case(staged=True)
def same_tensor_twice_and_views_of_it(stage):
    f = stage(lambda x, y: (x * 2, y + x, x is y))
    a = T(1, 2)
    for _ in range(3):
        yield f(a, a), f(a, T(1, 2)), f(a, a[::-1]), f(a[::-1], a)


@case(staged=True)
def not_contiguous_arguments(stage):
    f = stage(lambda x: (x @ x.T + x.sum(), x * 2))
    base = ag.arange(24).astype("float32").reshape(4, 6)
    for x in (base[:, ::2], base[:, 1::2], base[::-1, :3], base[:, :3] + 0, base.T[:4, :3], base[:, ::-2]):
        yield f(x)


@case(staged=True)
def empty_and_zero_dim(stage):
    f = stage(lambda x: (x * 2, x.sum(), (x + 1).reshape(-1)))
    for _ in range(3):
        yield f(ag.zeros(0, 3)), f(ag.asarray(2.0)), f(ag.zeros(2, 0)), f(T(1))


@case(staged=True)
def zero_dim_results_are_tensors(stage):
    f = stage(lambda x: (x[0], x.max(), x.argmax(), x[0] > 1, x.shape, x.ndim, x.size, x.dtype))
    for v in (1, 2, 3, 0):
        yield f(T(v, 1))


@case(staged=True)
def dtypes_promote(stage):
    f = stage(lambda x, y: (x + y, x * 2, x / 2, y - 1, x * True))
    for _ in range(3):
        for a in ("float32", "float64", "int64", "int8", "bool", "float16", "bfloat16"):
            for b in ("float32", "int32"):
                yield attempt(f, ag.asarray([0, 1, 1]).astype(a), ag.asarray([1, 2, 3]).astype(b))


@case(staged=True)
def int_overflow_wraps(stage):
    f = stage(lambda x, y: (x + y, x * y, x - y, -x, x // y, x % y))
    for v in (1, 2, 100):
        yield f(ag.asarray([2**63 - v, -(2**63)]), ag.asarray([2**62, -7]))
        yield f(ag.asarray([127, -128], dtype="int8"), ag.asarray([v, -1], dtype="int8"))


@case(staged=True)
def int_division_by_zero_and_shifts(stage):
    f = stage(lambda x, y: (x // y, x % y))
    g = stage(lambda x, y: (x << y, x >> y, x & y, x | y, x ^ y, ~x))
    for v in (1, 0, -3, 2):
        yield f(ag.asarray([7, -7, 0]), ag.asarray([v, v, v]))
        yield g(ag.asarray([7, -7, 0]), ag.asarray([1, 2, abs(v)]))


@case(staged=True)
def negative_zero_nan_inf(stage):
    f = stage(
        lambda x: (
            x * 0.0,
            x + 0.0,
            -x,
            0.0 - x,
            x * -1.0,
            ag.maximum(x, 0.0),
            ag.sqrt(x),
            x / x,
            x.sign(),
            abs(x),
            ag.round(x),
            x.sum(),
            ag.minimum(x, -x),
            ag.where(x == 0, x, 1.0),
        )
    )
    for v in (-0.0, 0.0, float("nan"), float("inf"), -float("inf"), -0.3):
        yield f(T(v, v))


@case(staged=True)
def division_by_zero_and_log(stage):
    f = stage(lambda x: (1 / x, ag.log(x), x**-1, ag.atan2(x, -x), x // 0.0, x % 0.0))
    for v in (0.0, -0.0, -1.0, 1.0):
        yield f(T(v, 2))


@case(staged=True)
def complex_numbers(stage):
    f = stage(lambda x: (x * 1j, abs(x * (1 + 2j)), (x + 1j).real, (x * 1j).imag, ag.exp(x * 1j).conj()))
    for v in (1, 2, 3):
        yield f(T(v, 2))


@case(staged=True)
def bfloat16_training_dtype(stage):
    w = ag.asarray([1.0, 2.0]).astype("bfloat16")
    f = stage(
        lambda x: (
            (x.astype("bfloat16") * w).sum(),
            (x.astype("float16") @ x.astype("float16")),
            x.astype("bfloat16").softmax(),
        )
    )
    for v in (1, 2, 3):
        yield f(T(v, 2))


@case(staged=True)
def boolean_masks(stage):
    f = stage(lambda x: (x[x > 1], ag.nonzero(x > 1), (x > 1).sum()))
    for values in ((1, 2, 3), (1, 2, 3), (5, 6, 7), (0, 0, 0), (1, 2, 3)):
        yield f(T(*values))


@case(staged=True)
def unique_and_sort(stage):
    f = stage(lambda x: (ag.sort(x), ag.argsort(x), ag.unique_values(x)))
    for values in ((1, 2, 1), (3, 2, 1), (5, 5, 5), (1, 2, 1)):
        yield f(T(*values))


@case(staged=True)
def shapes_from_shapes(stage):
    @stage
    def f(x):
        n, m = x.shape
        return (
            x.reshape(m, n) * n,
            ag.zeros(n, m) + ag.ones_like(x),
            ag.arange(n),
            ag.eye(m),
            ag.full((n,), m),
            x.mean() * x.size,
        )

    for n in (1, 2, 3, 2, 1):
        yield f(ag.ones(n, 2))


@case
def escapes(stage):
    @stage
    def f(x):
        return x.tolist(), float(x.numpy().sum()), repr(x), str(x), np.asarray(x) * 2, x.detach().numpy().max()

    for v in (1, 2, 1, 3):
        yield f(T(v, 1))


@case
def numpy_computed_inside(stage):
    f = stage(lambda x: ag.asarray(np.linalg.inv(np.asarray(x))) @ x)
    for v in (1, 2, 4, 5):
        yield f(T(v, 1, 0, 1).reshape(2, 2))


@case
def numpy_functions_on_tensors(stage):
    f = stage(lambda x: (np.sin(x), np.add(x, 1), np.sum(x), np.stack([x, x])))
    for v in (1, 2, 4, 5):
        yield attempt(f, T(v, 1))


@case(staged=True)
def numpy_array_mixed_with_tensors(stage):
    w = np.array([1.0, 2.0], "f4")
    f = stage(lambda x: (x * w, w * x, x + w.shape[0]))
    for v in (1, 2, 4, 5):
        if v == 4:
            w[1] = 9
        yield f(T(v, 1))


@case
def numpy_array_arguments(stage):
    f = stage(lambda x, a: x * ag.asarray(a) + a.shape[0])
    a = np.array([1.0, 2.0], "f4")
    for v in (1, 2, 4, 5):
        if v == 4:
            a[0] = 50
        yield f(T(v, 1), a)
    big = np.zeros(5000, "f4")
    for v in (1, 2, 3):
        big[0] = v
        yield f(ag.ones(5000), big).sum()


@case
def numpy_array_argument_changed_inside(stage):
    def f(x, a):
        a[0] += 1
        return x * float(a[0])

    f = stage(f)
    a = np.array([1.0, 2.0])
    for v in (1, 2, 4, 5):
        yield f(T(v), a), a


@case
def numpy_scalar_results(stage):
    f = stage(lambda x, k: (x * k, k * 2, k))
    for k in (np.float32(1), np.float32(1), np.float64(2), np.int64(3), np.bool_(True), np.float32(1)):
        yield f(T(1), k)


@case
def shares_memory_with_numpy(stage):
    a = np.array([1.0, 2.0], "f4")
    w = ag.asarray(a, copy=False)
    f = stage(lambda x: x * w)
    for v in (1, 1, 5, 5):
        a[0] = v
        yield f(T(1, 1))


@case
def returned_arrays_are_not_reused(stage):
    f = stage(lambda x: (x * 2, x + 1))
    seen = [f(ag.full((70000,), float(i))) for i in range(6)]
    yield [(a[0], a[-1], b[0], b[-1]) for a, b in seen]


@case
def result_is_a_view_of_the_argument(stage):
    f = stage(lambda x: (x.reshape(-1), x[0], x.T, x.detach(), ag.asarray(x)))
    for v in (1, 2, 3):
        x = T(v, 1, 2, 3).reshape(2, 2)
        out = f(x)
        yield out, out[4] is x
        x[0, 0] = 99
        yield out, x
        out[1][...] = 5
        yield out, x


@case(staged=True)
def agog_random_of_all_kinds(stage):
    f = stage(
        lambda x: (
            x + ag.random.normal((2,)),
            ag.random.uniform((2,)),
            ag.random.integers(0, 10, (3,)),
            ag.random.permutation(4),
            ag.random.bernoulli(0.5, (4,)),
            ag.rand(2),
            ag.randn(2),
        )
    )
    for v in (1, 2, 3, 4):
        yield f(T(v, 1))
    ag.random.seed(3)
    yield f(T(1, 1))
    state = ag.random.get_state()
    a = f(T(1, 1))
    ag.random.set_state(state)
    yield a, f(T(1, 1))


@case(staged=True)
def own_generator_and_keys(stage):
    g = ag.random.Generator(5)
    f = stage(lambda x, k: (x + ag.random.normal((2,), generator=g), ag.random.normal((2,), key=k)))
    for v in (1, 2, 3, 4):
        yield f(T(v, 1), ag.random.key(v))
    g.seed(5)
    yield f(T(1, 1), ag.random.key(1))


@case
def seeded_inside(stage):
    @stage
    def f(x):
        ag.random.seed(7)
        return x + ag.random.normal((2,))

    for v in (1, 2, 3, 4):
        yield f(T(v, 1))


@case
def python_random(stage):
    f = stage(lambda x: (x * random.random(), x + random.choice([1, 2, 3]), x + random.Random(3).random()))
    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def numpy_random(stage):
    rng = np.random.default_rng(0)
    f = stage(lambda x: (x * float(np.random.rand()), x + float(rng.normal())))
    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def python_random_seeded_inside(stage):
    def f(x):
        random.seed(1)
        np.random.seed(1)
        return x * random.random() + float(np.random.rand())

    f = stage(f)
    for v in (1, 2, 3):
        yield f(T(v))
    random.seed(0)
    np.random.seed(0)
    yield f(T(1)), random.random(), np.random.rand()


@case
def prints_of_all_kinds(stage):
    import pprint
    import sys

    @stage
    def f(x):
        print("a", x.shape, end=";")
        print(x)
        sys.stdout.write("raw\n")
        pprint.pprint({"a": 1})
        return x

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def prints_only_on_one_branch(stage):
    @stage
    def f(x):
        if x.sum() < 0:
            print("negative", x)
        return x * 2

    for v in (1, 1, -1, 1, -2, 3):
        yield f(T(v))


@case(staged=True)
def staged_print_and_callback(stage):
    seen = []

    @stage
    def f(x):
        ag.print("first", x)
        y = x * 2
        ag.callback(lambda v: seen.append(v.tolist()), y)
        ag.print("then", y.sum(), "and", 3)
        return y

    for v in (1, 2, 3, 4):
        yield f(T(v)), seen


class Kept:
    """State that callbacks change."""

    def __init__(self):
        self.scale, self.seen, self.table = 1.0, [], {"a": 1.0}

    def rescale(self, v):
        self.scale = v.item()

    def note(self, v):
        self.seen.append(v.item())

    def enter(self, v):
        self.table["a"] = v.item()


def _calls_of(stage, kept, f):
    f = stage(f)
    for v in (2.0, 2.0, 3.0, 4.0, 4.0, 5.0):
        yield f(T(v)), kept.scale, list(kept.seen), dict(kept.table)


@case
def callback_changes_an_attribute_that_is_read(stage):
    kept = Kept()

    def f(x):
        y = x * kept.scale
        ag.callback(kept.rescale, x.sum())
        return y

    yield from _calls_of(stage, kept, f)


@case
def callback_changes_an_attribute_that_is_read_after_it(stage):
    kept = Kept()

    def f(x):
        ag.callback(kept.rescale, x.sum())
        return x * kept.scale

    yield from _calls_of(stage, kept, f)


@case
def callback_appends_to_a_list_that_is_read(stage):
    kept = Kept()

    def f(x):
        ag.callback(kept.note, x.sum())
        return x + len(kept.seen)

    yield from _calls_of(stage, kept, f)


@case
def callback_sets_an_entry_that_is_read(stage):
    kept = Kept()

    def f(x):
        ag.callback(lambda v: kept.enter(v), x.sum())
        return x + kept.table["a"]

    yield from _calls_of(stage, kept, f)


@case(staged=True)
def callback_appends_to_a_list_of_its_own(stage):
    kept = Kept()

    def f(x):
        ag.callback(lambda v: kept.note(v), x.sum())
        return x * kept.scale

    yield from _calls_of(stage, kept, f)


@case(staged=True)
def callback_that_raises(stage):
    w = T(0)

    def stop(v):
        if v.item() > 3:
            raise StopIteration("enough")

    @stage
    def f(x):
        w.assign(w + 1)
        y = x * 2
        ag.callback(stop, y)
        return y

    for v in (1, 1, 2, 1, 2, 1):
        yield attempt(f, T(v)), w


@case(staged=True)
def staged_assert(stage):
    @stage
    def f(x):
        ag.assert_(x > 0, "not positive")
        return x.log()

    for v in (1, 2, -1, 3, -2, 1):
        yield attempt(f, T(v))


@case
def stdout_redirected_inside(stage):
    @stage
    def f(x):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print("hidden", x.shape)
        return x, out.getvalue()

    for v in (1, 2, 3):
        yield f(T(v))


@case
def logging_and_warnings(stage):
    log, stream = logging.getLogger("agog-test"), io.StringIO()
    handler = logging.StreamHandler(stream)
    log.handlers[:], log.propagate = [handler], False
    log.setLevel("INFO")

    @stage
    def f(x):
        log.info("shape %s", x.shape)
        warnings.warn(f"look {x.shape}", UserWarning, stacklevel=1)
        return x * 2

    for v in (1, 2, 3):
        yield f(T(v)), stream.getvalue()


@case
def logging_that_is_switched_off_and_on(stage):
    log, stream = logging.getLogger("agog-test-2"), io.StringIO()
    log.handlers[:], log.propagate = [logging.StreamHandler(stream)], False
    log.setLevel("WARNING")

    @stage
    def f(x):
        log.info("shape %s", x.shape)
        return x * 2

    for i in range(5):
        if i == 2:
            log.setLevel("INFO")
        yield f(T(i)), stream.getvalue()


@case
def warnings_only(stage):
    @stage
    def f(x):
        warnings.warn("look", UserWarning, stacklevel=1)
        return x * 2

    for v in (1, 2, 3):
        yield f(T(v))


@case
def files(stage):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.txt")

        @stage
        def f(x):
            with open(path, "a") as file:
                file.write("x")
            return x * os.path.getsize(path)

        @stage
        def g(x):
            with open(path) as file:
                return x * len(file.read())

        for v in (1, 2, 3):
            yield f(T(v)), g(T(v))


@case
def open_file_captured(stage):
    out = io.StringIO()

    @stage
    def f(x):
        out.write("x")
        return x * len(out.getvalue())

    for v in (1, 2, 3):
        yield f(T(v)), out.getvalue()


@case
def clock(stage):
    @stage
    def f(x):
        t = time.perf_counter()
        time.sleep(0.001)
        return x, time.perf_counter() > t, time.monotonic() != t

    for v in (1, 2, 3):
        yield f(T(v))
    g = stage(lambda x: x * 0 + (time.time_ns() % 1000003))
    yield len({g(ag.asarray(0)).item() for _ in range(5)}) > 1


@case
def environment_and_folder(stage):
    f = stage(lambda x: (x * len(os.environ.get("AGOG_T", "")), x * len(os.getenv("AGOG_T", "")), os.getcwd()))
    for v in ("a", "a", "bbb", "bbb"):
        os.environ["AGOG_T"] = v
        yield f(T(1))
    del os.environ["AGOG_T"]
    yield f(T(1))


@case
def locks_threads_and_queues(stage):
    import queue

    lock, q = threading.Lock(), queue.Queue()

    @stage
    def f(x):
        with lock:
            q.put(1)
        return x * q.qsize()

    for v in (1, 2, 3):
        yield f(T(v)), q.qsize()


@case
def thread_started_inside(stage):
    @stage
    def f(x):
        out = []
        t = threading.Thread(target=lambda: out.append(x * 2))
        t.start()
        t.join()
        return out[0]

    for v in (1, 2, 3):
        yield f(T(v))


@case
def simple_queue_and_heap(stage):
    import heapq
    import queue

    q, heap = queue.SimpleQueue(), [3, 1, 2]
    for i in range(6):
        q.put(i)
    heapq.heapify(heap)
    f = stage(lambda x: x * q.get())
    g = stage(lambda x: x * heapq.heapreplace(heap, heap[0] + 2))
    for v in (1, 2, 3):
        yield f(T(v)), g(T(v)), heap


@case
def sys_state(stage):
    import sys

    f = stage(lambda x: x * sys.getrecursionlimit() + len(sys.argv))
    for v in (1, 2, 3):
        yield f(T(v))
    sys.argv.append("x")
    yield f(T(1))
    sys.argv.pop()
    yield f(T(1))


@case
def uuid_secrets_and_urandom(stage):
    import secrets
    import uuid

    f = stage(lambda x: (uuid.uuid4().hex, secrets.token_hex(4), os.urandom(4).hex()))
    yield len({f(T(1)) for _ in range(4)})


@case
def datetime_now(stage):
    import datetime

    f = stage(lambda x: (datetime.datetime.now().isoformat(), datetime.date.today().year))
    yield len({f(T(1))[0] for _ in range(4)}) > 1


@case
def gc_and_weakref_callbacks(stage):
    import weakref

    log = []

    class Thing:
        pass

    @stage
    def f(x):
        t = Thing()
        weakref.finalize(t, log.append, 1)
        del t
        return x * 2

    for v in (1, 2, 3):
        yield f(T(v)), log


@case
def del_method_side_effect(stage):
    log = []

    class Thing:
        def __del__(self):
            log.append(1)

    @stage
    def f(x):
        Thing()
        return x * 2

    for v in (1, 2, 3):
        yield f(T(v)), log


@case
def hidden_in_a_c_object(stage):
    import hashlib
    import zlib

    h, z = hashlib.md5(), zlib.compressobj()

    @stage
    def f(x):
        h.update(b"x")
        return x * int(h.hexdigest()[:2], 16)

    @stage
    def g(x):
        return x * len(z.compress(b"abc" * 100000))

    for v in (1, 2, 3):
        yield f(T(v)), g(T(v)), h.hexdigest()


@case
def array_bytearray_memoryview(stage):
    import array

    a, b = array.array("d", [1.0, 2.0]), bytearray(b"ab")
    m = memoryview(b)
    f = stage(lambda x: x * a[0] + b[0] + m[1])
    yield f(T(1))
    yield f(T(1))
    a[0] = 3.0
    yield f(T(1))
    b[0] = 99
    yield f(T(1))
    m[1] = 9
    yield f(T(1))

    def grow(x):
        b.append(1)
        return x * len(b)

    m.release()
    g = stage(grow)
    for v in (1, 2, 3):
        yield g(T(v)), bytes(b)


@case
def default_dtype_and_eager_context(stage):
    f = stage(lambda x: (x * 1.5, ag.asarray(1.0), ag.zeros(2)))
    for d in ("float32", "float32", "float64", "float64", "float32"):
        ag.set_default_float(d)
        yield f(T(1)), f(ag.asarray([1, 2]))
    ag.set_default_float("float32")
    with ag.eager():
        yield f(T(1))
    yield f(T(1))


@case(staged=True)
def many_results_and_no_results(stage):
    f = stage(lambda x: None)
    g = stage(lambda x: ())
    h = stage(lambda x: [x * i for i in range(40)])
    k = stage(lambda x: (1, "a", None, True, 2.5, 1j, b"b", x.shape, slice(1, 2), ...))
    for v in (1, 2, 3):
        yield f(T(v)), g(T(v)), h(T(v)), k(T(v))


@case(staged=True)
def no_arguments(stage):
    w = T(1)
    f = stage(lambda: w * 2)
    for v in (1, 1, 5, 5):
        w.assign(T(v))
        yield f()


@case(staged=True)
def constants_made_inside(stage):
    f = stage(lambda x: x + ag.asarray([1.0, 2.0]) + ag.asarray(3) + ag.tensor([[1, 2]]) + ag.linspace(0, 1, 2))
    for v in (1, 2, 3):
        yield f(T(v, v))


@case
def returned_constant_is_not_shared(stage):
    f = stage(lambda x: (ag.zeros(2), ag.asarray([1.0, 2.0]), x))
    for v in (1, 2, 3):
        a, b, _ = f(T(v))
        a += 5
        b[0] = 9
        yield a, b


@case(staged=True)
def unused_argument_and_dead_code(stage):
    @stage
    def f(x, unused):
        ag.exp(x) * 1000
        return x * 2

    for v in (1, 2, 3):
        yield f(T(v), T(v, v)), f(T(v), None)


@case
def subclass_of_tensor_as_argument(stage):
    p = ag.nn.Parameter(T(1, 2))
    f = stage(lambda x: x * 2)
    for _v in (1, 2, 3):
        yield f(p), f(p.detach()), type(f(p)) is ag.Tensor


@case
def tensors_as_keys_and_identity(stage):
    @stage
    def f(x, y):
        d = {x: 1.0, y: 2.0}
        return x * d[y], x is y, len({x, y})

    a, b = T(1), T(2)
    for _ in range(3):
        yield f(a, b), f(b, a), f(a, a)


_ = StagingWarning
@case(staged=True)
def old_gradient_returned(stage):
    w = T(1, requires_grad=True)

    @stage
    def f(x):
        y = x * w.grad
        return w.grad, y

    for v in range(4):
        w.grad = T(v)
        g, y = f(T(2))
        yield g, y, g is w.grad


@case(staged=True)
def captured_tensor_returned_as_it_is(stage):
    w = {"w": T(3)}
    f = stage(lambda x: (w["w"], x + 1))
    for v in range(4):
        y, _ = f(T(v))
        yield y, y is w["w"]
        if v == 1:
            w["w"] = T(7)


@case
def buffer_made_inside_and_returned(stage):
    f = stage(lambda x: ag.nn.Buffer(x * 2))
    for v in range(3):
        yield f(T(v))


test_staged_is_plain = case.test()
