"""Python state that a staged function reads: globals, closures, defaults, containers, objects, classes, modules."""

import abc
import array
import collections
import copy
import dataclasses
import decimal
import enum
import functools
import sys
import types
import typing

import numpy as np
from staging.worlds import Cases, T, attempt

import agog as ag

case = Cases()

G = 1.0
TABLE = {}
FLAG = True


def set_global(name, value):
    globals()[name] = value


@case(staged=True)
def global_number(stage):
    set_global("G", 1.0)
    f = stage(lambda x: x * G)
    for v in (1.0, 1.0, 5.0, 5.0, 1.0, 1):
        set_global("G", v)
        yield f(T(1, 2))


@case(staged=True)
def global_int_to_float_of_the_same_value(stage):
    set_global("G", 2)
    f = stage(lambda x: x * G)
    x = ag.asarray([1, 2])
    for v in (2, 2, 2.0, 2.0, True, True, 2):
        set_global("G", v)
        yield f(x)


@case
def closure_variable_that_a_class_body_reads_and_a_callback_changes(stage):
    n = 1.0

    def change(value):
        nonlocal n
        n = value.item()

    @stage
    def f(x):
        class Read:
            before = n

        ag.callback(change, x.sum())

        class ReadAgain:
            after = n

        return x * Read.before + ReadAgain.after

    for v in (2.0, 2.0, 3.0, 4.0, 4.0):
        yield f(T(v))


@case
def attribute_of_a_module_looked_up_by_its_name(stage):
    f = stage(lambda x: x * getattr(sys.modules[__name__], "G"))  # noqa: B009
    for v in (1.0, 1.0, 5.0, 5.0):
        set_global("G", v)
        yield f(T(1))


@case
def decimal_context(stage):
    f = stage(lambda x: x * float(decimal.Decimal(1) / decimal.Decimal(3)))
    with decimal.localcontext():
        for precision in (28, 28, 3, 3, 2):
            decimal.getcontext().prec = precision
            yield f(T(1))


@case(staged=True)
def virtual_subclass_registered(stage):
    class Base(abc.ABC):  # noqa: B024
        pass

    class Other:
        pass

    other = Other()
    f = stage(lambda x: x * (2 if isinstance(other, Base) else 3))
    yield f(T(1))
    yield f(T(1))
    Base.register(Other)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def keywords_of_a_partial_and_keyword_defaults(stage):
    def scaled(x, *, k=2.0):
        return x * k

    bound = functools.partial(scaled, k=3.0)
    f = stage(lambda x: bound(x) + scaled(x))
    yield f(T(1))
    yield f(T(1))
    bound.keywords["k"] = 5.0
    yield f(T(1))
    scaled.__kwdefaults__["k"] = 7.0
    yield f(T(1))
    scaled.__kwdefaults__ = {"k": 8.0}
    yield f(T(1))


@case(staged=True)
def class_of_an_object_and_its_bases_changed(stage):
    class One:
        def value(self):
            return 1.0

    class Two:
        def value(self):
            return 2.0

    class Sub(One):
        pass

    a, b = One(), Sub()
    f = stage(lambda x: x * a.value() + b.value())
    yield f(T(1))
    yield f(T(1))
    a.__class__ = Two
    yield f(T(1))
    Two.value = lambda self: 7.0
    yield f(T(1))
    Sub.__bases__ = (Two,)
    yield f(T(1))


@case
def buffers_of_bytes_and_numbers(stage):
    raw, numbers = bytearray(b"\x01\x02"), array.array("d", [1.0, 2.0])
    view = memoryview(raw)
    f = stage(lambda x: x * view[1] + numbers[0])
    for i in (1, 1, 5, 5, 2):
        raw[1], numbers[0] = i, -i
        yield f(T(1))


@case
def global_deleted(stage):
    set_global("G", 2.0)
    f = stage(lambda x: x * G)
    yield f(T(1))
    yield f(T(1))
    del globals()["G"]
    yield attempt(f, T(1))
    set_global("G", 3.0)
    yield f(T(1))


@case(staged=True)
def global_dict_changed_deep_inside(stage):
    TABLE.clear()
    TABLE["a"] = {"b": [1.0, 2.0]}
    f = stage(lambda x: x * TABLE["a"]["b"][1])
    yield f(T(1))
    yield f(T(1))
    TABLE["a"]["b"][1] = 7.0
    yield f(T(1))
    TABLE["a"] = {"b": [0.0, 3.0]}
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def global_flag_read_by_helper(stage):
    set_global("FLAG", True)

    def helper(x):
        return x + 1 if FLAG else x - 1

    f = stage(lambda x: helper(x))
    for v in (True, True, False, False, True):
        set_global("FLAG", v)
        yield f(T(1))


@case
def global_written_inside(stage):
    set_global("G", 0.0)

    def step(x):
        global G
        G += 1
        return x * G

    f = stage(step)
    for _ in range(5):
        yield f(T(1)), G


@case
def nonlocal_written_inside(stage):
    n = 0

    @stage
    def f(x):
        nonlocal n
        n += 1
        return x * n

    for _ in range(5):
        yield f(T(1)), n


@case
def nonlocal_of_a_helper(stage):
    def make():
        n = 0

        def count():
            nonlocal n
            n += 1
            return n

        return count

    count = make()
    f = stage(lambda x: x * count())
    for _ in range(5):
        yield f(T(1))


@case(staged=True)
def closure_over_loop_variable(stage):
    fs = [stage(lambda x: x * k) for k in (1.0, 2.0, 3.0)]  # noqa: B023 - the trap itself
    for _ in range(3):
        yield [f(T(1)) for f in fs]


@case(staged=True)
def closure_of_helper_rebound(stage):
    k = 1.0

    def helper(x):
        return x * k

    f = stage(lambda x: helper(x))
    for v in (1.0, 1.0, 3.0, 3.0, 1.0):
        k = v
        yield f(T(2))


@case(staged=True)
def comprehension_closure(stage):
    ks = [1.0, 2.0]
    f = stage(lambda x: [x * k for k in ks])
    yield f(T(1))
    yield f(T(1))
    ks.append(5.0)
    yield f(T(1))
    ks[0] = -1.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def inner_function_made_inside(stage):
    k = [2.0]

    @stage
    def f(x):
        def g(y):
            return y * k[0]

        return g(x) + g(x + 1)

    for v in (2.0, 2.0, 3.0, 3.0):
        k[0] = v
        yield f(T(1))


@case(staged=True)
def set_contents(stage):
    s = {"a"}
    f = stage(lambda x: x * 2 if "b" in s else x)
    for change in (None, None, "b", None):
        if change:
            s.add(change)
        yield f(T(1))
    s.discard("b")
    yield f(T(1))


@case(staged=True)
def dict_order(stage):
    d = {"a": 1.0, "b": 2.0}
    f = stage(lambda x: [x * v for v in d.values()])
    yield f(T(1))
    yield f(T(1))
    d["a"] = d.pop("a")
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def set_order_is_not_promised_but_contents_are(stage):
    d = collections.OrderedDict(a=1.0, b=2.0)
    f = stage(lambda x: x * next(iter(d.values())))
    yield f(T(1))
    yield f(T(1))
    d.move_to_end("a")
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def deque_defaultdict_counter(stage):
    q, d, c = collections.deque([1.0], maxlen=2), collections.defaultdict(float, a=1.0), collections.Counter("aab")
    f = stage(lambda x: x * q[-1] * d["a"] * c["a"])
    yield f(T(1))
    yield f(T(1))
    q.append(3.0)
    yield f(T(1))
    d["a"] = 2.0
    yield f(T(1))
    c["a"] += 1
    yield f(T(1))
    yield f(T(1))


@case
def defaultdict_grows_inside(stage):
    d = collections.defaultdict(list)

    @stage
    def f(x):
        d["k"].append(1)
        return x * len(d["k"])

    for _ in range(4):
        yield f(T(1)), dict(d)


@case(staged=True)
def chainmap_userdict_mappingproxy(stage):
    base = {"k": 1.0}
    chain, user, proxy = collections.ChainMap({}, base), collections.UserDict(k=1.0), types.MappingProxyType(base)
    f = stage(lambda x: x * chain["k"] * user["k"] * proxy["k"])
    yield f(T(1))
    yield f(T(1))
    base["k"] = 2.0
    yield f(T(1))
    user["k"] = 3.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def namedtuple_global(stage):
    P = collections.namedtuple("P", "a b")
    box = [P(1.0, 2.0)]
    f = stage(lambda x: x * box[0].a + box[0].b)
    yield f(T(1))
    yield f(T(1))
    box[0] = P(5.0, 2.0)
    yield f(T(1))
    yield f(T(1))


class Config:
    def __init__(self, k=1.0):
        self.k = k


class Holder:
    config = Config(1.0)
    table = {"k": 1.0}

    def __init__(self):
        self.inner = Config(2.0)


@case(staged=True)
def attribute_of_attribute(stage):
    h = Holder()
    f = stage(lambda x: x * h.inner.k)
    yield f(T(1))
    yield f(T(1))
    h.inner.k = 3.0
    yield f(T(1))
    h.inner = Config(4.0)
    yield f(T(1))
    h.inner.k = 5.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def attribute_of_class_attribute(stage):
    Holder.config = Config(1.0)
    Holder.table = {"k": 1.0}
    h = Holder()
    f = stage(lambda x: x * h.config.k * h.table["k"])
    yield f(T(1))
    yield f(T(1))
    Holder.config.k = 3.0
    yield f(T(1))
    Holder.table["k"] = 2.0
    yield f(T(1))
    Holder.config = Config(7.0)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def class_read_directly(stage):
    class Knobs:
        k = 1.0
        deep = Config(1.0)

    f = stage(lambda x: x * Knobs.k * Knobs.deep.k)
    yield f(T(1))
    yield f(T(1))
    Knobs.k = 2.0
    yield f(T(1))
    Knobs.deep.k = 2.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def inherited_attribute_then_shadowed(stage):
    class A:
        k = 1.0

    class B(A):
        pass

    b = B()
    f = stage(lambda x: x * b.k)
    yield f(T(1))
    yield f(T(1))
    A.k = 2.0
    yield f(T(1))
    B.k = 3.0
    yield f(T(1))
    b.k = 4.0
    yield f(T(1))
    del b.k
    yield f(T(1))
    del B.k
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def slots(stage):
    class S:
        __slots__ = ("k", "_private")

        def __init__(self):
            self.k, self._private = 1.0, 1.0

        def get(self):
            return self._private

    s = S()
    f = stage(lambda x: x * s.k * s.get())
    yield f(T(1))
    yield f(T(1))
    s.k = 2.0
    yield f(T(1))
    s._private = 3.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def private_mangled_names(stage):
    class S:
        def __init__(self):
            self.__k = 1.0
            self.__slot = [1.0]

        def set(self, k):
            self.__k = k

        def run(self, x):
            return x * self.__k * self.__slot[0]

    s = S()
    f = stage(s.run)
    yield f(T(1))
    yield f(T(1))
    s.set(4.0)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def property_reads_state(stage):
    class P:
        def __init__(self):
            self._k = 1.0

        @property
        def k(self):
            return self._k * 2

    p = P()
    f = stage(lambda x: x * p.k)
    yield f(T(1))
    yield f(T(1))
    p._k = 3.0
    yield f(T(1))
    P.k = property(lambda self: -1.0)
    yield f(T(1))
    yield f(T(1))


@case
def property_that_counts(stage):
    class P:
        n = 0

        @property
        def k(self):
            self.n += 1
            return self.n

    p = P()
    f = stage(lambda x: x * p.k)
    for _ in range(4):
        yield f(T(1)), p.n


@case(staged=True)
def descriptor(stage):
    class Field:
        def __init__(self):
            self.values = {}

        def __get__(self, obj, owner=None):
            return self if obj is None else self.values[id(obj)]

        def __set__(self, obj, value):
            self.values[id(obj)] = value

    class P:
        k = Field()

    p = P()
    p.k = 1.0
    f = stage(lambda x: x * p.k)
    yield f(T(1))
    yield f(T(1))
    p.k = 3.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def metaclass_attribute(stage):
    class Meta(type):
        k = 1.0

        @property
        def twice(cls):
            return cls._half * 4

    class A(metaclass=Meta):
        _half = 0.5

    f = stage(lambda x: x * A.k * A.twice)
    yield f(T(1))
    yield f(T(1))
    Meta.k = 2.0
    yield f(T(1))
    A._half = 1.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def getattr_hook(stage):
    class Lazy:
        def __init__(self):
            self.store = {"k": 1.0}

        def __getattr__(self, name):
            return self.__dict__["store"][name]

    z = Lazy()
    f = stage(lambda x: x * z.k)
    yield f(T(1))
    yield f(T(1))
    z.store["k"] = 2.0
    yield f(T(1))
    z.k = 5.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def getattribute_hook(stage):
    class Odd:
        def __init__(self):
            self.gain = 1.0

        def __getattribute__(self, name):
            if name == "k":
                return object.__getattribute__(self, "gain") * 2
            return object.__getattribute__(self, name)

    z = Odd()
    f = stage(lambda x: x * z.k)
    yield f(T(1))
    yield f(T(1))
    z.gain = 2.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def super_and_mro(stage):
    class A:
        def gain(self):
            return 1.0

    class B(A):
        def gain(self):
            return super().gain() * 2

    b = B()
    f = stage(lambda x: x * b.gain())
    yield f(T(1))
    yield f(T(1))
    A.gain = lambda self: 5.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def class_of_object_changed(stage):
    class A:
        def gain(self):
            return 1.0

    class B:
        def gain(self):
            return 2.0

    b = A()
    f = stage(lambda x: x * b.gain())
    yield f(T(1))
    yield f(T(1))
    b.__class__ = B
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def bases_changed(stage):
    class A:
        k = 1.0

    class A2:
        k = 2.0

    class B(A):
        pass

    b = B()
    f = stage(lambda x: x * b.k)
    yield f(T(1))
    yield f(T(1))
    B.__bases__ = (A2,)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def isinstance_and_type_checks(stage):
    class A:
        k = 1.0

    class B(A):
        k = 2.0

    f = stage(lambda x, o: x * o.k if isinstance(o, B) else x)
    for o in (A(), B(), A(), B()):
        yield f(T(3), o), f(T(3), o)


@case(staged=True)
def enum_members(stage):
    class Mode(enum.Enum):
        ADD = 1
        MUL = 2

    f = stage(lambda x, m: x + 2 if m is Mode.ADD else x * 3)
    for m in (Mode.ADD, Mode.MUL, Mode.ADD, Mode.MUL):
        yield f(T(3), m)


@case(staged=True)
def dataclass_state(stage):
    @dataclasses.dataclass
    class C:
        k: float = 1.0
        ks: list = dataclasses.field(default_factory=lambda: [1.0])

    c = C()
    f = stage(lambda x: x * c.k * c.ks[0])
    yield f(T(1))
    yield f(T(1))
    c.k = 2.0
    yield f(T(1))
    c.ks[0] = 3.0
    yield f(T(1))
    c = dataclasses.replace(c, k=9.0)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def frozen_dataclass_argument(stage):
    @dataclasses.dataclass(frozen=True)
    class C:
        k: float

    f = stage(lambda x, c: x * c.k)
    for k in (1.0, 1.0, 2.0, 2.0, 1.0):
        yield f(T(2), C(k))


@case(staged=True)
def typed_dict_and_namedtuple_arguments(stage):
    class P(typing.NamedTuple):
        x: ag.Tensor
        k: float

    f = stage(lambda p: P(p.x * p.k, p.k + 1))
    for v, k in ((1, 1.0), (2, 1.0), (2, 2.0), (3, 2.0)):
        out = f(P(T(v), k))
        yield out, type(out) is P, out.k


@case(staged=True)
def module_attribute(stage):
    m = types.ModuleType("knobs_of_a_test")
    m.k = 1.0
    m.sub = types.SimpleNamespace(k=1.0)
    f = stage(lambda x: x * m.k * m.sub.k)
    yield f(T(1))
    yield f(T(1))
    m.k = 2.0
    yield f(T(1))
    m.sub.k = 3.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def imported_inside(stage):
    m = sys.modules["knobs2_of_a_test"] = types.ModuleType("knobs2_of_a_test")
    m.k = 1.0

    @stage
    def f(x):
        import knobs2_of_a_test

        return x * knobs2_of_a_test.k

    yield f(T(1))
    yield f(T(1))
    m.k = 2.0
    yield f(T(1))
    yield f(T(1))
    del sys.modules["knobs2_of_a_test"]


@case(staged=True)
def from_import_inside(stage):
    m = sys.modules["knobs3_of_a_test"] = types.ModuleType("knobs3_of_a_test")
    m.k = 1.0

    @stage
    def f(x):
        from knobs3_of_a_test import k

        return x * k

    yield f(T(1))
    yield f(T(1))
    m.k = 2.0
    yield f(T(1))
    yield f(T(1))
    del sys.modules["knobs3_of_a_test"]


@case(staged=True)
def function_attributes(stage):
    def f(x):
        return x * f.k

    f.k = 1.0
    g = stage(f)
    yield g(T(1))
    yield g(T(1))
    f.k = 3.0
    yield g(T(1))
    yield g(T(1))


@case
def attribute_on_the_staged_function(stage):
    @stage
    def f(x):
        return x * f.k

    f.k = 1.0
    yield f(T(1))
    yield f(T(1))
    f.k = 3.0
    yield f(T(1))
    yield f(T(1))


@case
def counter_on_the_staged_function(stage):
    @stage
    def f(x):
        f.n += 1
        return x * f.n

    f.n = 0
    for _ in range(4):
        yield f(T(1)), f.n


@case(staged=True)
def code_replaced(stage):
    def helper(x):
        return x + 1

    def other(x):
        return x - 1

    f = stage(lambda x: helper(x))
    yield f(T(1))
    yield f(T(1))
    helper.__code__ = other.__code__
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def defaults_of_helper_replaced(stage):
    def helper(x, k=1.0, *, j=1.0):
        return x * k * j

    f = stage(lambda x: helper(x))
    yield f(T(1))
    yield f(T(1))
    helper.__defaults__ = (2.0,)
    yield f(T(1))
    helper.__kwdefaults__ = {"j": 3.0}
    yield f(T(1))
    yield f(T(1))


@case
def default_list_of_helper_grows(stage):
    def helper(x, log=[]):  # noqa: B006 - the trap itself
        log.append(1)
        return x * len(log)

    f = stage(lambda x: helper(x))
    for _ in range(4):
        yield f(T(1))


@case(staged=True)
def method_replaced_on_class_and_instance(stage):
    class A:
        def g(self, x):
            return x + 1

    a = A()
    f = stage(lambda x: a.g(x))
    yield f(T(1))
    yield f(T(1))
    A.g = lambda self, x: x + 2
    yield f(T(1))
    a.g = lambda x: x + 3
    yield f(T(1))
    del a.g
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def staticmethod_and_classmethod_state(stage):
    class A:
        k = 1.0

        @staticmethod
        def s(x):
            return x * A.k

        @classmethod
        def c(cls, x):
            return x * cls.k

    f = stage(lambda x: A.s(x) + A.c(x))
    yield f(T(1))
    yield f(T(1))
    A.k = 2.0
    yield f(T(1))
    A.c = staticmethod(lambda x: x * 100)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def object_in_tuple_in_dict(stage):
    c = Config(1.0)
    d = {"a": (c, 2)}
    f = stage(lambda x: x * d["a"][0].k)
    yield f(T(1))
    yield f(T(1))
    c.k = 5.0
    yield f(T(1))
    d["a"] = (Config(6.0), 2)
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def object_returned_by_helper(stage):
    current = Config(1.0)

    def get():
        return current

    f = stage(lambda x: x * get().k)
    yield f(T(1))
    yield f(T(1))
    current.k = 2.0
    yield f(T(1))
    current = Config(3.0)
    yield f(T(1))
    current.k = 4.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def singleton_through_classmethod(stage):
    class Registry:
        _instance = None

        @classmethod
        def get(cls):
            if cls._instance is None:
                cls._instance = Config(1.0)
            return cls._instance

    Registry.get()
    f = stage(lambda x: x * Registry.get().k)
    yield f(T(1))
    yield f(T(1))
    Registry._instance.k = 2.0
    yield f(T(1))
    Registry._instance = None
    yield f(T(1))
    yield f(T(1))


@case
def singleton_made_inside(stage):
    class Registry:
        _instance = None

        @classmethod
        def get(cls):
            if cls._instance is None:
                cls._instance = Config(1.0)
            return cls._instance

    f = stage(lambda x: x * Registry.get().k)
    yield f(T(1))
    yield f(T(1))
    Registry._instance.k = 2.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def object_made_inside(stage):
    @stage
    def f(x):
        c = Config(2.0)
        c.k += 1
        c.extra = x
        return c.extra * c.k

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def object_returned(stage):
    @stage
    def f(x):
        c = Config(2.0)
        c.y = x * 2
        return c

    for v in (1, 2, 3, 4):
        out = f(T(v))
        yield out.y, out.k


@case(staged=True)
def list_built_and_sorted_inside(stage):
    @stage
    def f(x):
        ks = [3.0, 1.0, 2.0]
        ks.sort()
        d = {}
        for i, k in enumerate(ks):
            d[i] = x * k
        d.pop(0)
        return d, ks

    for v in (1, 2, 3, 4):
        yield f(T(v))


@case
def plain_list_returned_must_be_fresh(stage):
    @stage
    def f(x):
        return x, [1, 2], {"a": [3]}

    for v in (1, 2, 3, 4):
        _, a, b = f(T(v))
        a.append(9)
        b["a"].append(9)
        yield a, b


@case
def outer_list_returned_is_the_same_list(stage):
    log = [1]
    f = stage(lambda x: (x * 2, log))
    for v in (1, 2, 3, 4):
        _, got = f(T(v))
        yield got is log, got
        log.append(v)


@case
def argument_list_returned_is_the_same_list(stage):
    f = stage(lambda xs: xs)
    for v in (1, 2, 3, 4):
        xs = [T(v), T(v)]
        yield f(xs) is xs


@case
def dict_argument_returned_changed(stage):
    def f(d):
        d = dict(d)
        d["z"] = d["x"] + 1
        return d

    f = stage(f)
    for v in (1, 2, 3, 4):
        d = {"x": T(v)}
        out = f(d)
        yield out, d


@case
def list_argument_cleared(stage):
    def f(xs):
        y = sum(xs[1:], xs[0])
        xs.clear()
        return y

    f = stage(f)
    for v in (1, 2, 3, 4):
        xs = [T(v), T(v)]
        yield f(xs), xs


@case
def nested_list_argument_appended(stage):
    def f(d):
        d["log"].append(d["x"] * 2)
        return d["x"]

    f = stage(f)
    d = {"x": T(1), "log": []}
    for v in (1, 2, 3, 4):
        d["x"] = T(v)
        yield f(d), d


@case
def attribute_set_on_argument_object(stage):
    def f(o, x):
        o.last = x * 2
        o.n = getattr(o, "n", 0) + 1
        return x

    f = stage(f)
    o = Config()
    for v in (1, 2, 3, 4):
        yield f(o, T(v)), o.last, o.n


@case
def attribute_deleted(stage):
    def f(o, x):
        if hasattr(o, "extra"):
            del o.extra
            return x + 1
        return x

    f = stage(f)
    o = Config()
    for v in (1, 2, 3, 4):
        if v % 2:
            o.extra = 1
        yield f(o, T(v)), hasattr(o, "extra")


@case
def tensor_kept_in_dict_of_self(stage):
    class Net:
        def __init__(self):
            self.cache = {}

        def __call__(self, x):
            self.cache["h"] = x * 2
            return self.cache["h"] + 1

    net = Net()
    f = stage(net)
    for v in (1, 2, 3, 4):
        yield f(T(v)), net.cache["h"]


@case
def running_value_rebound_on_self(stage):
    class Net:
        def __init__(self):
            self.mean = T(0)

        def __call__(self, x):
            self.mean = self.mean * 0.9 + x * 0.1
            return x - self.mean

    net = Net()
    f = stage(net)
    for v in (1, 2, 3, 4):
        yield f(T(v)), net.mean


@case(staged=True)
def copy_of_state(stage):
    c = {"a": [1.0]}

    @stage
    def f(x):
        d = copy.deepcopy(c)
        d["a"].append(2.0)
        return x * sum(d["a"])

    yield f(T(1))
    yield f(T(1))
    c["a"][0] = 5.0
    yield f(T(1))
    yield f(T(1)), c


@case(staged=True)
def dunder_dict_and_vars(stage):
    c = Config(1.0)
    f = stage(lambda x: x * c.__dict__["k"] * vars(c)["k"])
    yield f(T(1))
    yield f(T(1))
    c.k = 3.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def operator_attrgetter_itemgetter(stage):
    import operator

    c, d = Config(1.0), {"k": 1.0}
    a, i, m = operator.attrgetter("k"), operator.itemgetter("k"), operator.methodcaller("get", "k")
    f = stage(lambda x: x * a(c) * i(d) * m(d))
    yield f(T(1))
    yield f(T(1))
    c.k = 3.0
    yield f(T(1))
    d["k"] = 2.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def dunder_methods_of_user_objects(stage):
    class V:
        def __init__(self, k):
            self.k = k

        def __len__(self):
            return int(self.k)

        def __getitem__(self, i):
            return self.k + i

        def __iter__(self):
            return iter([self.k, self.k + 1])

        def __contains__(self, y):
            return y == self.k

        def __bool__(self):
            return self.k > 2

        def __add__(self, other):
            return other + self.k

        __radd__ = __add__

    v = V(1.0)
    f = stage(lambda x: (v + x) * len(v) + v[1] + sum(v) + (1 if 3.0 in v else 0) + (10 if v else 0))
    for k in (1.0, 1.0, 3.0, 3.0, 1.0):
        v.k = k
        yield f(T(1))


@case(staged=True)
def walrus_match_and_starred(stage):
    ops = ["scale", 2.0]

    @stage
    def f(x):
        match ops:
            case ["scale", k]:
                y = x * k
            case ["shift", k]:
                y = x + k
            case _:
                y = x
        first, *rest = [y, y + 1, y + 2]
        return (z := first * 2) + sum(rest) + z

    yield f(T(1))
    yield f(T(1))
    ops[0] = "shift"
    yield f(T(1))
    ops[:] = []
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def numpy_array_global(stage):
    import numpy as np

    w = np.array([1.0, 2.0], "f4")
    f = stage(lambda x: x * ag.asarray(w))
    yield f(T(1, 1))
    yield f(T(1, 1))
    w[0] = 7
    yield f(T(1, 1))
    yield f(T(1, 1))


@case(staged=True)
def numpy_scalar_global(stage):
    import numpy as np

    box = [np.float64(1.0)]
    f = stage(lambda x: x * box[0])
    yield f(T(1, 1))
    yield f(T(1, 1))
    box[0] = np.float32(3.0)
    yield f(T(1, 1))
    yield f(T(1, 1))


@case(staged=True)
def string_formatting_of_python_values(stage):
    name = ["a"]

    @stage
    def f(x):
        d = {"a1": 2.0, "b1": 3.0}
        return x * d[f"{name[0]}{1:d}"], "%s-%s" % (name[0], x.shape), str(x.dtype)  # noqa: UP031

    for n in ("a", "a", "b", "b"):
        name[0] = n
        yield f(T(1))


@case
def weakref_dict_and_proxy(stage):
    import weakref

    c = Config(1.0)
    r, d = weakref.ref(c), weakref.WeakKeyDictionary()
    d[c] = 1.0
    f = stage(lambda x: x * r().k * d[c])
    yield f(T(1))
    yield f(T(1))
    c.k = 3.0
    yield f(T(1))
    d[c] = 5.0
    yield f(T(1))
    yield f(T(1))


@case
def del_local_and_unbound(stage):
    def f(x, flag):
        y = x + 1
        if flag:
            del y
        return y

    f = stage(f)
    for flag in (False, False, True, False, True):
        yield attempt(f, T(1), flag)


@case
def id_and_hash_based_logic(stage):
    class K:
        def __init__(self, v):
            self.v = v

        def __hash__(self):
            return hash(self.v)

        def __eq__(self, other):
            return self.v == other.v

    d = {K(1): 2.0}
    f = stage(lambda x: x * d[K(1)])
    yield f(T(1))
    yield f(T(1))
    d[K(1)] = 5.0
    yield f(T(1))
    yield f(T(1))


@case(staged=True)
def one_name_of_a_class_deleted_and_another_added(stage):
    class Base:
        gain = 2.0

    class Net(Base):
        unread = 1

        def __call__(self, x):
            return x * self.gain

    f = stage(Net())
    yield f(T(1))
    yield f(T(1))
    del Net.unread
    Net.gain = 5.0
    yield f(T(1))
    yield f(T(1))
    del Net.gain
    Net.unread = 2
    yield f(T(1))


@case(staged=True)
def a_method_hides_another_after_one_was_deleted(stage):
    class Base:
        def scale(self, x):
            return x * 2

    class Net(Base):
        def unused(self):
            pass

        def __call__(self, x):
            return self.scale(x) + 1

    f = stage(Net())
    for _ in range(2):
        yield f(T(1))
    del Net.unused
    Net.scale = lambda self, x: x * 7
    for _ in range(2):
        yield f(T(1))


@case(staged=True)
def arguments_that_are_dicts_of_other_classes_and_change(stage):
    class Own(dict):
        pass

    @stage(limit=100)
    def f(d, x):
        return {k: v * x for k, v in d.items()}, len(d), type(d).__name__

    for d in (collections.OrderedDict(a=T(1), b=2.0), collections.defaultdict(list, a=T(1), b=2.0),
              collections.Counter(a=3, b=1), Own(a=T(1), b=2.0)):
        yield f(d, T(1)), f(d, T(2))
        d["c"] = 5
        yield f(d, T(1)), f(d, T(2))
        d["b"] = 7
        yield f(d, T(1)), f(d, T(2))
        del d["b"]
        yield f(d, T(1)), f(d, T(2))


@case(staged=True)
def arguments_that_are_lists_of_other_classes_and_change(stage):
    class Own(list):
        pass

    f = stage(lambda xs, x: sum(xs) * x)
    xs = Own([1.0, 2.0])
    yield f(xs, T(1)), f(xs, T(2))
    xs.append(3.0)
    yield f(xs, T(1)), f(xs, T(2))
    xs[0] = 9.0
    yield f(xs, T(1)), f(xs, T(2))


@case
def dicts_that_make_what_is_missing(stage):
    @stage(limit=100)
    def f(d, x):
        return d["a"] * x + (d["b"] if "b" in d else 0)

    for _ in range(2):
        yield f(collections.defaultdict(int, a=T(2)), T(3)), f(collections.OrderedDict(a=T(4), b=T(1)), T(3))
        yield f(collections.OrderedDict(b=T(1), a=T(4)), T(3)), f({"b": T(1), "a": T(4)}, T(3))

    @stage
    def g(d, x):
        return d["missing"] + x

    for make in (lambda: 1.0, lambda: 2.0, lambda: 2.0):
        d = collections.defaultdict(make)
        yield g(d, T(1)), dict(d)
        yield g(d, T(1)), dict(d)


@case
def values_of_classes_of_their_own_with_attributes(stage):
    class Shape(tuple):
        pass

    class Name(str):
        pass

    class Number(float):
        pass

    f = stage(lambda v, x: x * v.k, limit=100)
    for cls, value in ((Shape, (1, 2)), (Name, "a"), (Number, 2.0)):
        one, other = cls(value), cls(value)
        one.k, other.k = 1.0, 5.0
        yield f(one, T(1)), f(one, T(2)), f(other, T(1)), f(other, T(2))
        one.k = 3.0
        yield f(one, T(1)), f(one, T(2)), f(other, T(1)), f(other, T(2))
    kind = Number(1.0)
    kind.k = 2.0
    g = stage(lambda x: x * kind.k)
    yield g(T(1)), g(T(2))
    kind.k = 7.0
    yield g(T(1)), g(T(2))


@case(staged=True)
def the_mask_of_a_masked_array(stage):
    a = np.ma.array([1.0, 2.0], mask=[0, 1])
    f = stage(lambda a, x: x * float(a.sum()))
    yield f(a, T(1)), f(a, T(2))
    a.mask = [0, 0]
    yield f(a, T(1)), f(a, T(2))
    g = stage(lambda x: x * float(a.sum()))
    yield g(T(1)), g(T(2))
    a.mask = [1, 0]
    yield g(T(1)), g(T(2))


@case
def the_subclasses_of_a_class(stage):
    class Base:
        pass

    f = stage(lambda x: x * len(Base.__subclasses__()))
    kept = []
    for _ in range(3):
        yield f(T(1)), f(T(2))
        kept.append(type("Sub", (Base,), {}))


test_staged_is_plain = case.test()
