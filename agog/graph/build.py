"""Building graphs: a `Builder` collects nodes, a `Symbol` is a value that does not exist yet and can be computed with.

    b = Builder("step")
    x, w = b.input((32, 784), "float32", path="x"), b.input((784, 10), "float32", "captured", "w")
    graph = b.build([xp.softmax(x @ w)])

`xp` is the namespace of every row and composite over Symbols, so the rules of rows run here as they do on arrays. What
has no Symbol among its inputs is computed at once, with NumPy. A Symbol can be the data of a Tensor: the dispatcher
sees `__agog_level__` and hands the operation to `__agog_interpret__`.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Sequence

import numpy as np

from agog.array import dtypes
from agog.errors import DTypeError, GraphError, user_frame
from agog.graph import forms
from agog.graph.infer import infer
from agog.graph.ir import Constant, Graph, Input, Node, Role, Value, Where, describe
from agog.ops.namespaces import Namespace, call_with_signature
from agog.ops.row import TABLE, Op

_SCALARS = (bool, int, float, complex)
_KINDS = {"b": "bool", "i": "integer", "f": "floating", "c": "complex"}
_SMALL = 4096  # elements up to which an array made from nothing (zeros, arange) is computed at once


class _Active(threading.local):
    def __init__(self) -> None:
        self.stack: list[Builder] = []


_active = _Active()


def active() -> Builder | None:
    """The innermost builder that this thread is in."""
    return _active.stack[-1] if _active.stack else None


class Builder:
    """Collects the nodes of one graph.

    level   that of nested transformations (see `autodiff.forward`): the operation belongs to the highest
    where   the user's line of the next nodes; None: look at the stack
    adopt   `adopt(data)` turns foreign data (of a Tensor) into a Symbol, array or number; raises otherwise
    """

    def __init__(self, name: str = "graph", *, level: int = 0, parent: Builder | None = None,
                 adopt: Callable[[Any], Any] | None = None):
        self.name, self.level, self.parent, self.adopt = name, level, parent, adopt
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.captures: dict[Value, Input] = {}
        self.where: Where | None = None
        self._arrays: dict[int, Constant] = {}
        self._numbers: dict[Any, Constant] = {}

    @classmethod
    def like(cls, graph: Graph) -> Builder:
        """A builder that begins with the inputs of `graph`."""
        b = cls(graph.name)
        b.inputs = list(graph.inputs)
        return b

    def __enter__(self) -> Builder:
        _active.stack.append(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        _active.stack.pop()

    # ------------------------------------------------------------------------------------------ values
    def input(self, shape: Any, dtype: Any, kind: str = "argument", path: str = "", name: str = "") -> Symbol:
        """A new input."""
        value = Input(tuple(shape), dtypes.dtype(dtype), Role(kind, path), name)
        self.inputs.append(value)
        return Symbol(value, self)

    def constant(self, data: Any) -> Symbol:
        """A known array (by reference: nobody may change it) or number."""
        return Symbol(self.value(data), self)

    def symbol(self, value: Value) -> Symbol:
        """A value of this graph to compute with."""
        return Symbol(value, self)

    def value(self, x: Any, dtype: Any = None) -> Value:
        """The value that stands for `x`: a Symbol of this builder or one around it, an array, a number."""
        if type(x) is Symbol:
            return x.value if x.builder is self else self._captured(x)
        if type(x) in _SCALARS:
            dt = dtypes.of_scalar(x) if dtype is None else dtype
            key = type(x), repr(x), dt
            if key not in self._numbers:
                try:
                    self._numbers[key] = Constant(np.array(x, dt))
                except OverflowError:
                    raise DTypeError(f"{x} does not fit into {dt}; cast the other operand to a wider dtype") from None
            return self._numbers[key]
        if isinstance(x, np.ndarray | np.generic):
            found = self._arrays.get(id(x))
            if found is None:
                found = self._arrays[id(x)] = Constant(x)
                if found.data is not x:  # a copy: `x` may die, and its id serve another array
                    del self._arrays[id(x)]
            return found
        if isinstance(x, Value):
            return x
        if self.adopt is not None:
            return self.value(self.adopt(x), dtype)
        raise GraphError(f"a {type(x).__name__} cannot be a value of a graph")

    def _captured(self, x: Symbol) -> Value:
        if type(x.value) is Constant:
            return x.value
        if self.parent is None:
            raise GraphError(f"{x!r} belongs to the graph '{x.builder.name}', it means nothing in '{self.name}'")
        outer = self.parent.value(x)
        return self.capture(outer)

    def capture(self, outer: Value) -> Value:
        """The input of this inner graph that stands for a value of the graph around it."""
        if type(outer) is Constant:
            return outer
        if outer not in self.captures:
            self.captures[outer] = Input(outer.shape, outer.dtype, Role("captured"), outer.name)
        return self.captures[outer]

    # ------------------------------------------------------------------------------------------- nodes
    def add(self, op: Any, inputs: Sequence[Value | None], statics: tuple = (), specs: Any = None, graphs: tuple = (),
            where: Where | None = None) -> tuple[Value, ...]:
        """Append a node as it is. `specs` are the (shape, dtype) of its outputs where they are known already."""
        if specs is None:
            specs = infer(op, inputs, statics, graphs)
        outputs = tuple(Value(*s) for s in specs)
        self.nodes.append(Node(op, inputs, statics, outputs, graphs, where or self.where or _user_line()))
        return outputs

    def append(self, node: Node) -> tuple[Value, ...]:
        """Append a node that exists; its outputs."""
        self.nodes.append(node)
        return node.outputs

    def emit(self, op: Op, inputs: tuple, statics: tuple = ()) -> Any:
        """Append a call of a row on Symbols, arrays and numbers, promoted as eager code does.

        Returns a Symbol, or a tuple of them for several outputs.
        """
        values = self._promoted(op, inputs)
        if op.check is not None:
            statics = op.check(*[None if v is None else _look(v, self) for v in values], *statics)
        return self._symbols(op, self.add(op, values, statics))

    def _symbols(self, op: Any, outputs: tuple[Value, ...]) -> Any:
        out = tuple(Symbol(v, self) for v in outputs)
        return out if len(op.outputs) > 1 else out[0]

    def _operand(self, x: Any) -> Any:
        """None, a weak number, or a Value."""
        if x is None or type(x) in _SCALARS:
            return x
        return x.item() if isinstance(x, np.generic) and x.dtype.kind in "biufc" else self.value(x)

    def _promoted(self, op: Op, inputs: tuple) -> list[Value | None]:
        if op.variadic:
            chosen = [bool(op.promotes)] * len(inputs)
        else:
            chosen = [n in op.promotes for n in op.inputs]
        xs = [self._operand(x) for x in inputs]
        common = None
        for x, c in zip(xs, chosen):
            if c and isinstance(x, Value):
                common = x.dtype if common is None else dtypes.promote(common, x.dtype)
        for x, c in zip(xs, chosen):
            if c and x is not None and not isinstance(x, Value):
                common = dtypes.of_scalar(x) if common is None else dtypes.weak(common, x)
        if common is not None and op.to_float and not dtypes.is_inexact(common):
            common = dtypes.default_float()
        if common is not None and dtypes.kind(common).replace("u", "i") not in op.takes:
            raise DTypeError(f"{op.name} takes {' or '.join(_KINDS[k] for k in op.takes)} dtypes, not {common}; "
                             "cast with x.astype(...) first")
        out: list[Value | None] = []
        for x, c in zip(xs, chosen):
            if x is None:
                out.append(None)
            elif not isinstance(x, Value):
                out.append(self.value(x, common if c else None))
            elif c and x.dtype != common:
                out.append(self.add(TABLE["astype"], (x,), (common,))[0])
            else:
                out.append(x)
        return out

    # ------------------------------------------------------------------------------- forms with graphs inside
    def inner(self, fn: Callable[..., Any], specs: Any, name: str) -> tuple[Builder, list[Input], list[Value]]:
        """Run `fn` on fresh Symbols in a builder inside this one: (builder, its arguments, its results)."""
        sub = Builder(name, level=self.level, parent=self, adopt=self.adopt)
        sub.where = self.where
        args = [Input(s, d, Role("argument")) for s, d in specs]
        with sub:
            out = fn(*[Symbol(a, sub) for a in args])
        out = list(out) if isinstance(out, tuple | list) else [out]
        return sub, args, [sub.value(o) for o in out]

    def _closed(self, parts: list[tuple[Builder, list[Input], list[Value]]]) -> tuple[list[Value], tuple[Graph, ...]]:
        """What the inner graphs read from this one, and the graphs, which take all of it after their arguments."""
        outer = list(dict.fromkeys(v for sub, _, _ in parts for v in sub.captures))
        graphs = []
        for sub, args, outs in parts:
            graphs.append(Graph(sub.name, args + [sub.capture(v) for v in outer], sub.nodes, outs))
        return outer, tuple(graphs)

    def _form(self, form: Any, inputs: list[Value], statics: tuple, graphs: tuple[Graph, ...]) -> tuple[Symbol, ...]:
        node = Node(form, inputs, statics, (), graphs)
        for problem in forms.CHECK[form](node):
            raise GraphError(f"{form.name}: {problem}")
        return tuple(Symbol(v, self) for v in self.add(form, inputs, statics, graphs=graphs))

    def cond(self, pred: Any, then: Callable[..., Any], otherwise: Callable[..., Any],
             operands: Sequence[Any] = ()) -> tuple[Symbol, ...]:
        """The results of `then(*operands)` where the bool scalar `pred` is true, else of `otherwise(*operands)`."""
        xs = [self.value(x) for x in operands]
        specs = forms.specs(xs)
        outer, graphs = self._closed([self.inner(then, specs, "then"), self.inner(otherwise, specs, "else")])
        return self._form(forms.COND, [self.value(pred), *xs, *outer], (), graphs)

    def while_loop(self, test: Callable[..., Any], body: Callable[..., Any],
                   state: Sequence[Any]) -> tuple[Symbol, ...]:
        """`state = body(*state)` while `test(*state)`; the last state."""
        xs = [self.value(x) for x in state]
        specs = forms.specs(xs)
        outer, graphs = self._closed([self.inner(test, specs, "test"), self.inner(body, specs, "body")])
        return self._form(forms.WHILE, xs + outer, (len(xs),), graphs)

    def scan(self, body: Callable[..., Any], carry: Sequence[Any], xs: Sequence[Any] = (), length: int | None = None,
             reverse: bool = False) -> tuple[Symbol, ...]:
        """`*carry, *ys = body(*carry, *slices of xs)` along axis 0; the last carry, then the stacked ys."""
        state, seqs = [self.value(x) for x in carry], [self.value(x) for x in xs]
        if length is None:
            if not seqs:
                raise GraphError("scan: give length=, or sequences to go over")
            length = seqs[0].shape[0]
        specs = forms.specs(state) + [(x.shape[1:], x.dtype) for x in seqs]
        outer, graphs = self._closed([self.inner(body, specs, "body")])
        return self._form(forms.SCAN, state + seqs + outer, (len(state), len(seqs), length, reverse), graphs)

    def guard(self, x: Any, expected: Any, why: str = "") -> None:
        """This scalar is `expected`, or the run does not count."""
        self._form(forms.GUARD, [self.value(x)], (expected, why), ())

    def effect(self, deliver: Callable[..., Any], xs: Sequence[Any] = (), what: str = "callback") -> None:
        """Call `deliver(*arrays)` when the run commits, after the effects before it."""
        self._form(forms.EFFECT, [self.value(x) for x in xs], (deliver, what), ())

    # ------------------------------------------------------------------------------------------ the result
    def build(self, outputs: Sequence[Any], roles: Sequence[Role] | None = None) -> Graph:
        """The graph that computes `outputs`."""
        return Graph(self.name, self.inputs, self.nodes, [self.value(o) for o in outputs], roles)


def _user_line() -> Where | None:
    frame = user_frame(2)
    return None if frame is None else Where(frame.f_code.co_filename, frame.f_lineno)


def _look(value: Value, builder: Builder) -> Any:
    """What a row's check looks at: the array of a constant, else a Symbol."""
    return value.data if type(value) is Constant else Symbol(value, builder)


def number(value: Value) -> Any:
    """The Python number that every element of a constant is, or None."""
    if type(value) is not Constant or not value.size:
        return None
    data = value.data
    first = data[(0,) * data.ndim]
    if data.size > 1 and any(data.strides) and (
            data.size > _SMALL or data.tobytes() != first.tobytes() * data.size):
        return None
    return first.item()


# -------------------------------------------------------------------------------------------------- the namespace
def _home(inputs: tuple) -> Builder | None:
    """The builder that an operation on `inputs` belongs to: the innermost active one, if they mean something in it."""
    found = None
    for x in inputs:
        if type(x) is Symbol:
            found = x.builder
            break
    if found is None:
        return None
    inner = active()
    b = inner
    while b is not None:
        if b is found:
            return inner
        b = b.parent
    return found


def _invoke(op: Op, inputs: tuple, statics: tuple) -> Any:
    home = _home(inputs)
    if home is not None:
        return home.emit(op, inputs, statics)
    inner = active()
    if not inputs and inner is not None:
        if op.check is not None:
            statics = op.check(*statics)
        (shape, dtype), *_ = infer(op, (), statics)
        if np.prod(shape) > _SMALL:
            return inner._symbols(op, inner.add(op, (), statics, ((shape, dtype),)))
    with np.errstate(all="ignore"):
        return op.raw(*inputs, *statics)


xp = Namespace("graph", lambda op: call_with_signature(op, _invoke))
"""Every row and composite over Symbols."""


def _operator(name: str, reverse: bool = False) -> Callable[..., Any]:
    op = TABLE[name]

    def method(self: Symbol, other: Any) -> Any:
        if not isinstance(other, Symbol | np.ndarray | np.generic | int | float | complex):
            return NotImplemented
        return _invoke(op, (other, self) if reverse else (self, other), ())

    return method


def _unary(name: str) -> Callable[..., Any]:
    op = TABLE[name]
    return lambda self: _invoke(op, (self,), ())


class Symbol:
    """A value of a graph that is being built: shape and dtype, operators and indexing, but no elements."""

    __slots__ = ("value", "builder")
    __array_ufunc__ = None  # NumPy must not touch it
    __hash__ = object.__hash__

    def __init__(self, value: Value, builder: Builder):
        self.value, self.builder = value, builder

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    @property
    def size(self) -> int:
        return self.value.size

    @property
    def itemsize(self) -> int:
        return self.value.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.value.size * self.value.dtype.itemsize

    @property
    def number(self) -> Any:
        """The Python number that every element is, where the value is a constant of one number; else None."""
        return number(self.value)

    # ------------------------------------------------------------------- as the data of a Tensor
    @property
    def __agog_level__(self) -> int:
        return self.builder.level

    @staticmethod
    def __agog_interpret__(op: Op, operands: Any, statics: tuple) -> Any:
        """Append a call that the dispatcher has promoted and checked; `operands` have `_data`, or are None."""
        datas = tuple(None if t is None else t._data for t in operands)
        home = _home(datas)
        assert home is not None
        values = [None if d is None else home.value(d) for d in datas]
        return home._symbols(op, home.add(op, values, statics))

    def __agog_detach__(self) -> Any:
        return self

    def __agog_host__(self, what: str) -> Any:
        self._none(what)

    def _none(self, what: str) -> Any:
        raise GraphError(f"{what}: a graph is being built, {self!r} has no value yet that Python could look at; "
                         "choose between values with ag.where or ag.cond, or let @ag.function record real values")

    def item(self) -> Any:
        return self._none("item()")

    def __bool__(self) -> bool:
        return self._none("bool()")

    def __int__(self) -> int:
        return self._none("int()")

    def __float__(self) -> float:
        return self._none("float()")

    def __complex__(self) -> complex:
        return self._none("complex()")

    def __index__(self) -> int:
        return self._none("an index")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self._none("np.asarray()")

    # -------------------------------------------------------------------------------- computing
    def __getitem__(self, key: Any) -> Any:
        return xp.index(self, key)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a scalar")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    @property
    def T(self) -> Symbol:
        return xp.permute_dims(self, tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Symbol:
        return xp.matrix_transpose(self)

    @property
    def real(self) -> Symbol:
        return xp.real(self) if self.dtype.kind == "c" else self

    @property
    def imag(self) -> Symbol:
        return xp.imag(self)

    def astype(self, dtype: Any) -> Symbol:
        return xp.astype(self, dtype)

    def reshape(self, *shape: Any) -> Symbol:
        return xp.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def any(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return xp.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Symbol:
        return xp.all(self, axis=axis, keepdims=keepdims)

    __add__, __radd__ = _operator("add"), _operator("add", True)
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", True)
    __mul__, __rmul__ = _operator("multiply"), _operator("multiply", True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", True)
    __floordiv__, __rfloordiv__ = _operator("floor_divide"), _operator("floor_divide", True)
    __mod__, __rmod__ = _operator("remainder"), _operator("remainder", True)
    __pow__, __rpow__ = _operator("pow"), _operator("pow", True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", True)
    __and__, __rand__ = _operator("bitwise_and"), _operator("bitwise_and", True)
    __or__, __ror__ = _operator("bitwise_or"), _operator("bitwise_or", True)
    __xor__, __rxor__ = _operator("bitwise_xor"), _operator("bitwise_xor", True)
    __lshift__, __rlshift__ = _operator("bitwise_left_shift"), _operator("bitwise_left_shift", True)
    __rshift__, __rrshift__ = _operator("bitwise_right_shift"), _operator("bitwise_right_shift", True)
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")
    __neg__, __pos__ = _unary("negative"), _unary("positive")
    __abs__, __invert__ = _unary("abs"), _unary("bitwise_invert")

    def __repr__(self) -> str:
        return f"<symbol {self.value.name}: {describe(*self.value.spec)}>"


def build(fn: Callable[..., Any], *specs: Any, name: str = "graph") -> Graph:
    """The graph of `fn(*symbols)`, one Symbol for each (shape, dtype); `fn` computes with operators and `xp`."""
    b = Builder(name)
    names = getattr(getattr(fn, "__code__", None), "co_varnames", ())
    args = [b.input(s, d, path=names[i] if i < len(names) else str(i)) for i, (s, d) in enumerate(specs)]
    with b:
        out = fn(*args)
    return b.build(list(out) if isinstance(out, tuple | list) else [out])
