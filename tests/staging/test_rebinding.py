"""Names that a staged function gives new Tensors: attributes, globals, closure variables, entries; who reads them."""

import collections
import gc
import threading
import typing
import weakref

import numpy as np
import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog import nn
from agog.errors import StagingWarning

case = Cases()

M = None


class Running:
    def __init__(self):
        self.mean, self.var, self.count = T(0, 0), T(1, 1), 0

    def __call__(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x
        return x - self.mean


@case(staged=True)
def attribute(stage):
    r = Running()
    f = stage(r)
    for v in range(6):
        yield f(T(v, 1)), r.mean


@case(staged=True)
def attribute_in_a_staged_method_of_two_objects(stage):
    class Net(Running):
        step = stage(lambda self, x: Running.__call__(self, x))

    a, b = Net(), Net()
    for v in range(5):
        yield a.step(T(v, 1)), b.step(T(1, v)), a.mean, b.mean


@case(staged=True)
def module_global(stage):
    global M
    M = T(1)

    def step(x):
        global M
        M = M * 2 + x
        return M + 1

    f = stage(step)
    for v in range(5):
        yield f(T(v)), M
    M = T(100)
    for v in range(3):
        yield f(T(v)), M


@case(staged=True)
def nonlocal_cell(stage):
    w = T(1)

    @stage
    def f(x):
        nonlocal w
        w = w * 2 + x
        return w + 0

    for v in range(5):
        yield f(T(v)), w


@case(staged=True)
def entries_of_a_dict(stage):
    state = {"m": T(0), "other": 3}

    @stage
    def f(x):
        state["m"] = state["m"] * 0.5 + x * state["other"]
        return state["m"].sum()

    for v in range(5):
        yield f(T(v)), state["m"], list(state)
    state["other"] = 4
    for v in range(3):
        yield f(T(v)), state["m"], list(state)


@case(staged=True)
def entries_of_a_list_deep_in_an_attribute(stage):
    class Net:
        def __init__(self):
            self.cache = {"layers": [T(1), T(2)], "n": 2}

        @stage
        def step(self, x):
            for i in range(self.cache["n"]):
                self.cache["layers"][i] = self.cache["layers"][i] + x * i
            return self.cache["layers"][0] * self.cache["layers"][1]

    net = Net()
    for v in range(5):
        yield net.step(T(v)), net.cache["layers"]


@case(staged=True)
def a_window_of_the_last_values(stage):
    window = collections.deque([T(0), T(0), T(0)], maxlen=3)

    @stage
    def f(x):
        window.append(x * 2)
        return window[0] + window[1] + window[2]

    for v in range(7):
        yield f(T(v)), list(window)


@case(staged=True)
def tuple_of_states(stage):
    class Cell:
        def __init__(self):
            self.state = T(0), (T(1), None)

        def __call__(self, x):
            h, (c, nothing) = self.state
            c = c * 0.5 + x
            h = ag.tanh(c) + h
            self.state = h, (c, nothing)
            return h

    cell = Cell()
    f = stage(cell)
    for v in range(5):
        yield f(T(v)), cell.state
    cell.state = T(5), (T(6), None)
    yield f(T(1)), cell.state


class Pair(typing.NamedTuple):
    h: typing.Any
    c: typing.Any


@case(staged=True)
def named_tuple(stage):
    class Cell:
        state = None

        def __init__(self):
            self.state = Pair(T(0), T(1))

        def __call__(self, x):
            self.state = Pair(self.state.c, self.state.h + x)
            return self.state.h * 1

    cell = Cell()
    f = stage(cell)
    for v in range(6):
        yield f(T(v)), cell.state.h, cell.state.c, isinstance(cell.state, Pair)


@case(staged=True)
def states_of_modules_in_tuples(stage):
    class Memory(nn.Module):
        def __init__(self, state):
            self.lstm, self.state = nn.LSTM(2, 3), state

        def forward(self, x):
            y, (h, c) = self.lstm(x, self.state)
            self.state = Pair(h.detach(), c.detach()) if isinstance(self.state, Pair) else (h.detach(), c.detach())
            return y

    zeros = ag.zeros(1, 1, 3)
    for first in (None, (zeros, zeros), (zeros, zeros + 1), Pair(zeros, zeros + 1)):
        memory = Memory(first)
        f, inside = stage(memory), stage(nn.Sequential(memory, nn.Tanh()))
        for v in range(5):
            yield f(ag.ones(2, 1, 2) * v), memory.state, type(memory.state).__name__
            yield inside(ag.ones(2, 1, 2) * v), memory.state
        f(ag.ones(2, 1, 2)).sum().backward()
        yield memory.lstm.weight_hh_l0.grad, memory.state
        memory.state = (zeros + 2, zeros - 1)  # another sequence begins
        yield f(ag.ones(2, 1, 2)), memory.state
        memory.state = None
        yield f(ag.ones(3, 1, 2)), f(ag.ones(3, 1, 2)), memory.state


@case(staged=True)
def slots(stage):
    class Net:
        __slots__ = ("h",)

        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h + x
            return self.h * 2

    net = Net()
    for v in range(5):
        yield net.step(T(v)), net.h


class Recurrent(nn.Module):
    def __init__(self):
        self.cell = nn.Linear(2, 2)
        self.h = ag.zeros(1, 2)

    def forward(self, x):
        self.h = ag.tanh(self.cell(x) + self.h).detach()
        return self.h * 2


@case(staged=True)
def attribute_of_a_module(stage):
    ag.random.seed(0)
    net = Recurrent()
    f = stage(lambda x: net(x))
    for v in range(5):
        yield f(T(v, 1).reshape(1, 2)), net.h
    net.h = ag.ones(1, 2)
    yield f(T(1, 1).reshape(1, 2)), net.h
    net.eval()
    yield f(T(1, 1).reshape(1, 2)), net.h
    net.cell = nn.Linear(2, 2, bias=False)
    for v in range(3):
        yield f(T(v, 1).reshape(1, 2)), net.h


@case(staged=True)
def buffer_of_a_module_read_by_another_staged_function(stage):
    class Norm(nn.Module):
        def __init__(self):
            self.mean = nn.Buffer(ag.zeros(2))
            self.inner = nn.Sequential(nn.Identity())

        def forward(self, x):
            if self.training:
                self.mean = self.mean * 0.5 + x * 0.5
            return x - self.mean

    net = Norm()
    predict = stage(lambda x: net.eval()(x) * 1 if False else x - net.mean)
    train = stage(lambda x: net(x))
    for v in range(6):
        yield predict(T(v, 1)), train(T(v, 1)), net.mean, list(net.state_dict())


@case(staged=True)
def read_by_another_staged_function(stage):
    state = {"m": T(1)}

    @stage
    def write(x):
        state["m"] = state["m"] + x
        return x * 2

    read = stage(lambda x: x * state["m"])
    for v in range(6):
        yield read(T(v)), write(T(v)), read(T(v))


@case(staged=True)
def set_from_outside_before_each_call(stage):
    class Holder:
        batch = None

    holder = Holder()

    @stage
    def f(x):
        return x + holder.batch

    for v in range(20):
        holder.batch = T(v)
        yield f(T(1))
    holder.batch = T(1, 2)
    yield f(T(1))


@case(staged=True)
def two_names_for_one_tensor(stage):
    class Net:
        def __init__(self):
            self.a = self.b = T(1)

        @stage
        def step(self, x):
            self.a = self.b = self.a + self.b * x
            return self.a * 1

    net = Net()
    for v in range(4):
        yield net.step(T(v)), net.a, net.a is net.b
    net.b = T(7)
    for v in range(4):
        yield net.step(T(v)), net.a, net.a is net.b


@case(staged=True)
def two_names_that_are_one_tensor_only_sometimes(stage):
    class Net:
        def __init__(self):
            self.a, self.b = T(1), T(2)

        @stage
        def step(self, x):
            if self.a is self.b:
                self.a = self.a * 100
            else:
                self.a = self.a + x
            return self.a + self.b

    net = Net()
    for v in range(12):
        yield net.step(T(v)), net.a, net.b
        if v % 3 == 2:
            net.a = net.b


@case(staged=True)
def assigned_through_one_name_and_read_through_the_other(stage):
    class Net:
        def __init__(self):
            self.a, self.b = T(1), T(2)

        @stage
        def step(self, x):
            self.a.assign(self.a + x)
            self.b = self.b + self.a
            return self.b * 1

    net = Net()
    for v in range(4):
        yield net.step(T(v)), net.a, net.b
    net.b = net.a
    for v in range(4):
        yield net.step(T(v)), net.a, net.b


@case(staged=True)
def swapped(stage):
    class Net:
        def __init__(self):
            self.a, self.b = T(1), T(2)

        @stage
        def step(self, x):
            self.a, self.b = self.b, self.a
            return self.a * x

    net = Net()
    first = net.a, net.b
    for v in range(5):
        yield net.step(T(v)), net.a, net.b, net.a is first[(v + 1) % 2]


@case(staged=True)
def bound_to_an_argument(stage):
    class Net:
        def __init__(self):
            self.last = T(0)

        @stage
        def step(self, x):
            before, self.last = self.last, x
            return x - before

    net = Net()
    for v in range(5):
        x = T(v)
        yield net.step(x), net.last is x
    yield net.step(net.last), net.step(net.last)


@case(staged=True)
def bound_to_itself(stage):
    class Net:
        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h
            return self.h + x

    net = Net()
    h = net.h
    for v in range(4):
        yield net.step(T(v)), net.h is h


@case(staged=True)
def bound_twice_and_assigned(stage):
    class Net:
        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h + x
            y = self.h * 2
            self.h = y + self.h
            self.h += 1
            return y, self.h

    net = Net()
    for v in range(4):
        y, h = net.step(T(v))
        yield y, h, net.h, h is net.h


@case(staged=True)
def bound_to_a_captured_tensor(stage):
    w, best = T(3), {"w": T(0)}

    @stage
    def f(x):
        best["w"] = w
        return x * w

    for v in range(4):
        yield f(T(v)), best["w"] is w
        best["w"] = T(0)
    w.assign(T(5))
    yield f(T(1)), best["w"] is w


@case
def an_exception_after_it(stage):
    class Net:
        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h + x
            if self.h.sum() > 5:
                raise ValueError("too much")
            return self.h * 1

    net = Net()
    for v in (1, 1, 1, 1, 9, 1, -9, 1):
        yield attempt(net.step, T(v)), net.h


@case(staged=True)
def deoptimised_after_it(stage):
    class Net:
        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h + x
            if self.h.sum() > 0:
                self.h = self.h - 10
            return self.h * 2

    net = Net()
    for v in (1, 3, 3, 3, -1, 8, 8, 8, 1):
        yield net.step(T(v)), net.h


@case(staged=True)
def set_to_none_and_made_again(stage):
    class Net:
        def __init__(self):
            self.h = None

        @stage
        def step(self, x):
            if self.h is None:
                self.h = x * 0
            self.h = self.h + x
            return self.h * 1

    net = Net()
    for v in range(12):
        if v % 4 == 0:
            net.h = None
        yield net.step(T(v)), net.h


@case(staged=True)
def set_to_none_on_a_module_and_made_again(stage):
    class Net(nn.Module):
        def __init__(self):
            self.lin, self.h = nn.Identity(), None

        def forward(self, x):
            self.h = x * 0 if self.h is None else self.h + x
            return self.h * 1

    net = Net()
    f = stage(lambda x: net(x))
    for v in range(12):
        if v % 4 == 0:
            net.h = None
        yield f(T(v)), net.h


@case(staged=True)
def left_as_none(stage):
    class Net:
        def __init__(self):
            self.h = T(0)

        @stage
        def step(self, x):
            y = x if self.h is None else self.h + x
            self.h = None if self.h is not None else x * 2
            return y + 0

    net = Net()
    for v in range(8):
        yield net.step(T(v)), net.h


@case(staged=True)
def shape_and_dtype_change(stage):
    class Net:
        def __init__(self):
            self.h = ag.zeros(1)

        @stage
        def step(self, x):
            self.h = ag.concat([self.h, x])
            return self.h.sum()

    net = Net()
    for v in range(5):
        yield net.step(T(v)), net.h
    for _ in range(2):
        net.h = ag.asarray([1, 2])
        yield net.step(T(1)), net.h


@case(staged=True)
def keeps_its_history(stage):
    w = T(2, requires_grad=True)

    class Net:
        def __init__(self):
            self.loss = T(0)

        @stage
        def step(self, x):
            self.loss = (w * x).sum()
            return self.loss

    net = Net()
    for v in range(1, 5):
        loss = net.step(T(v))
        yield loss, loss is net.loss
        net.loss.backward()
        yield w.grad
        w.grad = None


@case(staged=True)
def history_goes_on_through_calls(stage):
    w = T(2, requires_grad=True)

    class Net:
        def __init__(self):
            self.h = T(1)

        @stage
        def step(self, x):
            self.h = self.h * w + x
            return self.h.sum()

    net = Net()
    for _ in range(3):
        net.h = T(1)
        for v in range(3):
            y = net.step(T(v))
        y.backward()
        yield y, w.grad
        w.grad = None


@case(staged=True)
def training_step_with_a_running_mean(stage):
    ag.random.seed(0)

    class Net(nn.Module):
        def __init__(self):
            self.lin = nn.Linear(2, 2)
            self.mean = ag.zeros(2)

        def forward(self, x):
            y = self.lin(x)
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(axis=0)
            return y - self.mean

    net = Net()
    opt = ag.optim.Adam(net.parameters(), lr=0.1)

    @stage
    def step(x):
        loss = (net(x) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    for v in range(6):
        yield step(T(v, 1, 2, 3).reshape(2, 2)), net.mean, net.lin.weight


@case(staged=True)
def nested_staged_functions(stage):
    state = {"n": T(0)}

    @stage
    def inner(x):
        state["n"] = state["n"] + 1
        return x * state["n"]

    @stage
    def outer(x):
        return inner(x) + inner(x)

    for v in range(4):
        yield outer(T(v)), state["n"], inner(T(v)), state["n"]


@case(staged=True)
def property_and_setter_in_python(stage):
    class Net:
        def __init__(self):
            self._h = T(1)

        @property
        def h(self):
            return self._h * 2

        @h.setter
        def h(self, value):
            self._h = value / 2

        @stage
        def step(self, x):
            self.h = self.h + x
            return self.h * 1

    net = Net()
    for v in range(4):
        yield net.step(T(v)), net._h


@case
def setattr_that_counts(stage):
    class Net:
        def __init__(self):
            self.h, self.sets = T(1), 0

        def __setattr__(self, name, value):
            object.__setattr__(self, name, value)
            if name == "h":
                self.__dict__["sets"] = self.__dict__.get("sets", 0) + 1

        @stage
        def step(self, x):
            self.h = self.h + x
            return self.h * 1

    net = Net()
    for v in range(4):
        yield net.step(T(v)), net.h, net.sets


@case
def together_with_a_counter(stage):
    r = Running()

    @stage
    def f(x):
        r.count += 1
        return r(x)

    for v in range(4):
        yield f(T(v, 1)), r.mean, r.count


@case
def class_attribute(stage):
    class Net:
        h = T(1)

    @stage
    def f(x):
        Net.h = Net.h + x
        return Net.h * 1

    for v in range(4):
        yield f(T(v)), Net.h


@case
def parameter_replaced(stage):
    net = nn.Linear(1, 1)

    @stage
    def f(x):
        net.weight = nn.Parameter(net.weight.detach() * 0 + x)
        return net(x)

    net.bias.assign(ag.zeros(1))
    for v in range(4):
        yield f(T(v).reshape(1, 1)), net.weight


@case(staged=True)
def random_state_and_rebinding(stage):
    class Net:
        def __init__(self):
            self.h = T(0, 0)

        @stage
        def step(self, x):
            self.h = self.h + ag.random.normal((2,)) * x
            return self.h * 1

    net = Net()
    for v in range(5):
        yield net.step(T(1, v)), net.h


test_staged_is_plain = case.test()


def test_no_warning_and_native():
    r = Running()
    f = ag.function(r)
    for v in range(10):
        f(T(v, 1))
    assert f.calls_staged >= 8 and "rebinds: Running.mean" in f.explain(T(1, 1))


def test_what_was_rebound_is_freed():
    r = Running()
    f = ag.function(r)
    for v in range(4):
        f(T(v, 1))
    old = weakref.ref(r.mean)
    f(T(1, 1))
    gc.collect()
    assert old() is None


def test_threads_lose_no_structure():
    """Two threads that rebind one name: as eagerly, one of two updates may be lost, none is half done."""
    state = {"a": T(0), "b": T(0)}

    @ag.function
    def f(x):
        state["a"] = state["a"] + x
        state["b"] = state["b"] - x
        return x * 1

    for _ in range(3):
        f(T(1))
    errors = []

    def work():
        try:
            for _ in range(200):
                np.testing.assert_array_equal(np.asarray(f(T(1))), [1])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert 200 <= state["a"].item() <= 803 and -803 <= state["b"].item() <= -200


def test_a_counter_still_says_why():
    r = Running()

    @ag.function
    def f(x):
        r.count += 1
        return r(x)

    with pytest.warns(StagingWarning, match="count"):
        for v in range(4):
            f(T(v, 1))
