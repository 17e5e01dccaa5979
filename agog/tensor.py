"""Tensor: an array that remembers how it was made.

Results are computed when an operation is called. A Tensor that needs a gradient holds a node of the tape (`agog.tape`);
`backward()` walks from there to the leaves. Values are never changed under anybody's feet: in-place operators and
item assignment give the *name* a new value, and reuse the memory only when nobody else can see it.
"""

from __future__ import annotations

import inspect
import math
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterator

import numpy as np

import agog.ops  # noqa: F401 - declares all rows
from agog import config, dispatch, hints, tape
from agog.array import device as devices
from agog.array import dtypes, numbers
from agog.array.convert import holds_arrays, to_array
from agog.array.large import COUNTED
from agog.autodiff import engine
from agog.dispatch import apply_operator, binary, operand, tensors, unary, wrap
from agog.errors import ArgumentError, ArgumentTypeError, DTypeError, GradientError, ShapeError
from agog.ops.namespaces import finished, hide
from agog.ops.row import COMPOSITES, TABLE
from agog.tape import Leaf

if TYPE_CHECKING:  # the operations as methods, spelled out by scripts/make_stubs.py
    from agog.ops.methods import Methods
else:
    Methods = object

__all__ = ["Tensor", "asarray"]


class _Operator:
    """One of Python's operators, made when it is first used: importing agog makes none of them."""

    def __init__(self, make: Callable[[], Callable[..., Any]]):
        self.make, self.name = make, ""

    def __set_name__(self, owner: Any, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        fn = self.make()
        setattr(Tensor, self.name, fn)
        return fn if instance is None else fn.__get__(instance)


def _operator(name: str, reverse: bool = False) -> Any:
    return _Operator(lambda: binary(TABLE[name], apply_operator, reverse))


def _prefix(name: str) -> Any:
    return _Operator(lambda: unary(TABLE[name]))


def _in_place(name: str) -> Any:
    return _Operator(lambda: _changing(name))


def _changing(name: str) -> Callable[..., Any]:
    op = TABLE[name]
    compute = binary(op)
    ufunc = op.raw

    def method(self: Tensor, other: Any) -> Any:
        other = operand(other)
        if other is None:
            return NotImplemented
        node = self._node
        if node is not None and config.modes.grad and type(node) is Leaf:
            raise GradientError("a leaf Tensor that requires a gradient cannot be changed in place, its gradient would "
                                "be that of the old value; write x = x + y, or wrap an update in ag.no_grad()")
        if node is None and not config.special and op.choose is None and type(other) in (int, float) and (
                _exclusive(self, _ALONE)):
            try:
                with np.errstate(all="ignore"):
                    ufunc(self._data, numbers.weak(other, self._data.dtype), self._data)
                return self
            except (TypeError, ValueError, OverflowError):
                pass  # the general path says what is wrong
        result = compute(self, other)
        if result.dtype != self.dtype:
            raise DTypeError(f"in-place {op.name}: the result would be {result.dtype}, but the Tensor is {self.dtype}; "
                             "write x = x + y (or cast) to get a new Tensor")
        if result.shape != self.shape:
            raise ShapeError(f"in-place {op.name}: the result would have shape {result.shape}, but the Tensor has "
                             f"{self.shape}; write x = x + y to get a new Tensor")
        self._data = result._data
        if type(node) is not Leaf:
            self._node = result._node
        return self

    method.__name__ = op.name
    return method


def _exclusive(t: Tensor, alone: int) -> bool:
    """True when nothing but `t` can see its memory: no view, no node, no caller's array. alone: the references then."""
    data = t._data
    return type(data) is np.ndarray and data.base is None and data.flags.writeable and sys.getrefcount(data) == alone


_FEW = 64  # indices up to which NumPy's indexing is as quick as `take`
_BASIC = {int, slice, type(None), type(Ellipsis)}


def _written(t: Tensor, key: Any, value: Any) -> bool:
    """Write `value` into the memory of `t` where nobody can see the difference; False where somebody may, or may not be
    written as it is: then the general path decides."""
    if type(key) not in _BASIC and (type(key) is not tuple or not _BASIC.issuperset(map(type, key))):
        return False
    if not _exclusive(t, _ALONE):
        return False
    data = t._data
    if type(value) is Tensor:
        if value._node is not None or type(value._data) is not np.ndarray or value._data.dtype is not data.dtype:
            return False
        value = value._data
    else:
        value = numbers.weak(value, data.dtype) if type(value) in (int, float) else None
        if type(value) is not np.ndarray:
            return False
    try:
        data[key] = value
    except (TypeError, ValueError, IndexError):
        return False
    return True


class Tensor(Methods):
    """An n-dimensional array with automatic differentiation.

    Made by `agog.asarray`, `agog.zeros`, ... or `Tensor(data)`; every operation of the `agog` namespace that takes an
    array first is also a method.

    Parameters: data: array, nested sequence or number. dtype: as for `agog.asarray`. requires_grad: make it a leaf
    whose `.grad` is filled by `backward()`.
    """

    __slots__ = ("_data", "_node", "__weakref__")
    __array_priority__ = 1000
    __hash__ = object.__hash__

    _data: Any
    _node: Any

    def __init__(self, data: Any, dtype: Any = None, *, requires_grad: bool = False):
        if type(dtype) is int:
            raise ArgumentTypeError("Tensor(data): the first argument is data, not a size; for a shape write "
                                    f"ag.empty({data}, {dtype})")
        if isinstance(data, list | tuple):
            made = _sequence(data, dtype)
            self._data, self._node = made._data, made._node
        else:
            self._data = _array(data, dtype)
            self._node = None
        _announce(self, data)
        if requires_grad:
            self.requires_grad_()

    # ------------------------------------------------------------------------------------------------ facts
    @property
    def shape(self) -> tuple[int, ...]:
        """The size along each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """The data type of the elements."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._data.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        n = 1
        for s in self._data.shape:
            n *= s
        return n

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self._data.dtype.itemsize

    @property
    def device(self) -> Any:
        """Where the elements live: 'cpu', or 'cuda:0' and so on."""
        return devices.of(self._data)

    # ------------------------------------------------------------------------------------------- gradients
    @property
    def requires_grad(self) -> bool:
        """True for leaves that collect a gradient and for everything computed from them."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """True when the Tensor was not computed from others that require a gradient."""
        return self._node is None or type(self._node) is Leaf

    def requires_grad_(self, value: bool = True) -> Tensor:
        """Make this Tensor a leaf that collects a gradient (or, with False, an ordinary one). Returns itself.

        Raises DTypeError for integer and bool Tensors, GradientError for results of a recorded computation.
        """
        if not self.is_leaf:
            if value:
                return self
            raise GradientError("this Tensor was computed from others that require a gradient; use x.detach()")
        if not value:
            self._node = None
        elif self._node is None:
            if not dtypes.is_inexact(self._data.dtype):
                raise DTypeError(f"only floating and complex Tensors can require a gradient, not {self.dtype}; "
                                 "cast with x.astype(ag.float32) first")
            self._node = Leaf(self._data.shape, self._data.dtype)
        return self

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward()` has accumulated, or None."""
        node = self._node
        if type(node) is not Leaf:
            return None
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_grad(node)
        return node.grad

    @grad.setter
    def grad(self, value: Any) -> None:
        node = self._node
        if value is None and type(node) is Leaf and not config.special:
            node.grad = None
            return
        if type(node) is not Leaf:
            if value is None:
                return
            raise GradientError("only a leaf with requires_grad=True holds a gradient; call requires_grad_() first")
        if value is not None:
            value = asarray(value)
            if value.shape != self.shape:
                raise ShapeError(f"a gradient of shape {value.shape} for a Tensor of shape {self.shape}")
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_grad(node, written=True)
        node.grad = value

    def detach(self) -> Tensor:
        """The same value without its history: a constant to automatic differentiation. No copy."""
        data = self._data
        _read(self)
        return wrap(data if type(data) is np.ndarray or not hasattr(data, "__agog_level__") else data.__agog_detach__())

    def backward(self, gradient: Any = None, *, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add the gradient of this Tensor to `.grad` of every leaf it was computed from.

        gradient      cotangent of this Tensor's shape; may be left out for a scalar, for which it is 1
        retain_graph  keep the saved values, so that backward can run again
        create_graph  record the gradient computation itself, for higher derivatives

        Raises GradientError when nothing requires a gradient, on a non-scalar without `gradient`, and when the
        graph was already freed.
        """
        data = self._data
        if (gradient is None and not create_graph and not config.special and type(data) is np.ndarray
                and data.size == 1 and self._node is not None):
            engine.backward_scalar(self, retain_graph)
        else:
            engine.backward([self], [gradient], retain_graph=retain_graph, create_graph=create_graph)

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Callable[[], None]:
        """Call `hook(gradient)` whenever a gradient of this Tensor is computed; a returned Tensor replaces it.

        Returns a function that removes the hook.
        """
        return engine.register_hook(self, hook)

    # ------------------------------------------------------------------------------------------ conversions
    def numpy(self) -> np.ndarray:
        """The elements as a NumPy array: read-only, without copying (`np.array(x)` gives one to write to).

        Raises GradientError when the Tensor requires a gradient (write x.detach().numpy()).
        """
        if self._node is not None and config.modes.grad:
            raise GradientError("numpy() of a Tensor that requires a gradient would cut it out of the graph unnoticed; "
                                "write x.detach().numpy()")
        view = self._host("numpy()").view()
        view.flags.writeable = False
        return view

    def _host(self, what: str) -> np.ndarray:
        data = self._data
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_escape(self, what)
        if type(data) is not np.ndarray:
            data = devices.to_host(data, what)
        return data

    def item(self) -> Any:
        """The single element as a Python number. Raises ShapeError when there is not exactly one."""
        data = self._data
        if type(data) is np.ndarray and data.size == 1 and not config.special:
            return data.item()
        if self.size != 1:
            raise ShapeError(f"item(): the Tensor has shape {self.shape} and {self.size} elements, not one; "
                             "index it first, or use tolist()")
        return self._scalar("item")

    def _scalar(self, what: str) -> Any:
        if config.special and config.modes.recorder is not None:
            return config.modes.recorder.on_scalar(self, what)
        data = self._data
        return (data if type(data) is np.ndarray else devices.to_host(data, what)).item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        return self._host("tolist()").tolist()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        _handed[0] += 1
        data = self._host("np.asarray(tensor)")
        if dtype is not None and data.dtype != dtype:
            if copy is False:
                raise ArgumentError(f"a {data.dtype} Tensor cannot become a {np.dtype(dtype)} array without a copy")
            return data.astype(dtype)
        if copy:
            return data.copy()
        view = data.view()
        view.flags.writeable = False
        return view

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from agog.interop import arrays

        return arrays.ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from agog.interop import arrays

        return arrays.function(func, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        if api_version is not None and api_version not in ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
            raise ArgumentError(f"array API version {api_version!r} is not supported; the newest is '2025.12'")
        return sys.modules["agog"]

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None,
                   copy: Any = None) -> Any:
        if self._node is not None:
            raise GradientError("a Tensor that requires a gradient cannot be exported; use x.detach()")
        data = self._data
        if type(data) is np.ndarray and max_version is None and not data.flags.writeable:
            data = data.copy()  # an old consumer could not be told that it must not write
        kwargs = {"stream": stream, "dl_device": dl_device, "copy": copy}
        if max_version is not None:
            kwargs["max_version"] = max_version
        return data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def to(self, target: Any = None, *, dtype: Any = None, device: Any = None) -> Tensor:
        """This Tensor in another dtype or on another device (`x.to('float64')`, `x.to(device='cpu')`)."""
        if target is not None:
            if devices.is_device(target):
                device = target
            else:
                dtype = target
        out = self if dtype is None else tensors.astype(self, dtypes.dtype(dtype))
        return out if device is None else out.to_device(device)

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """This Tensor on `device` ('cpu', 'cuda', 'cuda:1'); itself when it is already there."""
        moved = devices.move(self._data, device)
        return self if moved is self._data else wrap(moved)

    def astype(self, dtype: Any, /, *, copy: bool = True) -> Tensor:
        """This Tensor in `dtype`; differentiable between floating dtypes."""
        dt = dtypes.dtype(dtype)
        if dt == self._data.dtype and not copy:
            return self
        return tensors.astype(self, dt)

    def clone(self) -> Tensor:
        """A copy with memory of its own; gradients flow through."""
        out = tensors.positive(self)
        if out._data is self._data:
            out._data = self._data.copy()
        return out

    # ---------------------------------------------------------------------------------------- Python protocols
    def __bool__(self) -> bool:
        data = self._data
        if type(data) is np.ndarray and data.size == 1 and not config.special:
            return bool(data.item())
        if self.size != 1:
            raise ArgumentError(f"the truth of a Tensor of shape {self.shape} is ambiguous; "
                                "use (x > 0).any() or .all()")
        return bool(self._scalar("bool"))

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        data = self._data
        if type(data) is np.ndarray and data.size == 1 and not config.special and data.dtype.kind != "c":
            return float(data.item())
        if self._data.dtype.kind == "c":
            raise ArgumentTypeError("a complex Tensor is no float; use .real or abs()")
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if dtypes.kind(self._data.dtype) not in "iu" or self.size != 1 or self.ndim:
            raise ArgumentTypeError("only an integer Tensor of no axes can be used as an index, "
                                    f"not {self.dtype}{list(self.shape)}")
        return int(self._scalar("index"))

    def __len__(self) -> int:
        if not self._data.shape:
            raise ArgumentTypeError("len() of a 0-d Tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self._data.shape:
            raise ArgumentTypeError("a 0-d Tensor cannot be iterated over; use x.item()")
        return iter(tensors.unstack(self))

    def __contains__(self, value: Any) -> bool:
        found = self == value
        return found if type(found) is bool else bool(found.any())

    def __repr__(self) -> str:
        special = getattr(self._data, "__agog_repr__", None)
        if special is not None:
            return special()
        data = self._host("repr")
        body = np.array2string(data, separator=", ", prefix="Tensor(", threshold=1000, edgeitems=3,
                               formatter={"float_kind": _short_float} if dtypes.is_half(data.dtype) else None)
        dt = "" if data.dtype in (dtypes.float32, dtypes.int64, dtypes.bool) and data.size else f", dtype={data.dtype}"
        shape = f", shape={data.shape}" if data.size == 0 or data.size > 1000 else ""
        node = self._node
        grad = "" if node is None else ", requires_grad=True" if self.is_leaf else f", grad_fn={_maker(node)}"
        return f"Tensor({body}{dt}{shape}{grad})"

    def _repr_html_(self) -> str:
        from agog.interop import display

        return display.tensor(self, self._host("repr"))

    def __format__(self, spec: str) -> str:
        return format(self._scalar("format"), spec) if spec and self.size == 1 else str(self)

    def __copy__(self) -> Tensor:
        _read(self)
        return wrap(self._data, self._node)

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise GradientError("only leaves can be deep-copied, this Tensor has a history; copy x.detach() instead")
        out = _new(type(self))
        out._data, out._node = self._data.copy(), None
        memo[id(self)] = out
        if self._node is not None:
            out.requires_grad_()
            if self.grad is not None:
                out.grad = wrap(self.grad._data)
        return out

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise GradientError("a Tensor with a history cannot be pickled; pickle x.detach()")
        return _rebuild, (type(self), devices.to_host(self._data, "pickle"), self._node is not None)

    def __getitem__(self, key: Any) -> Tensor:
        if self._node is None and not config.special and type(self._data) is np.ndarray and (
                type(key) in _BASIC or type(key) is tuple and _BASIC.issuperset(map(type, key))):
            try:
                return _view(self._data[key])
            except (TypeError, ValueError, IndexError):
                pass  # the general path says what is wrong
        if type(key) is Tensor and self._node is None and not config.special:
            data, places = self._data, key._data
            if type(data) is type(places) is np.ndarray and 0 < places.size <= _FEW and places.ndim and (
                    places.dtype.kind in "iub"):
                try:
                    return _view(data[places])
                except IndexError:
                    pass
        return tensors.index(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(self._node) is Leaf and config.modes.grad:
            raise GradientError("a leaf Tensor that requires a gradient cannot be assigned into; "
                                "clone() it first, or use ag.no_grad()")
        if self._node is None and not config.special and _written(self, key, value):
            return
        value = _as_value(value, self.dtype)
        new = tensors.index_update(self, key, value)
        self._data = new._data
        if type(self._node) is not Leaf:
            self._node = new._node

    def assign(self, value: Any) -> Tensor:
        """Give this Tensor a new value of the same shape and dtype; how parameters change. Returns itself.

        The history of other results is untouched: they were computed from the old value.
        """
        if type(value) is Tensor and not config.special:  # the common case
            new, old = value._data, self._data
            if new.dtype is old.dtype and new.shape == old.shape and (self._node is None or type(self._node) is Leaf):
                self._data = new
                return self
        if isinstance(value, list | tuple) and _holds_tensors(value):
            value = _stacked(value, self.dtype)
        data = _array(value, self.dtype)
        if data.shape != self.shape:
            raise ShapeError(f"assign: a value of shape {data.shape} for a Tensor of shape {self.shape}")
        if not self.is_leaf:
            raise GradientError("assign: only a leaf can be given a new value")
        if config.special and config.modes.recorder is not None:
            config.modes.recorder.on_assign(self, value)
        self._data = data
        return self

    # ---------------------------------------------------------------------------------------------- operators
    __add__, __radd__, __iadd__ = _operator("add"), _operator("add", True), _in_place("add")
    __sub__, __rsub__, __isub__ = _operator("subtract"), _operator("subtract", True), _in_place("subtract")
    __mul__, __rmul__, __imul__ = _operator("multiply"), _operator("multiply", True), _in_place("multiply")
    __truediv__, __rtruediv__, __itruediv__ = _operator("divide"), _operator("divide", True), _in_place("divide")
    __floordiv__, __rfloordiv__ = _operator("floor_divide"), _operator("floor_divide", True)
    __ifloordiv__ = _in_place("floor_divide")
    __mod__, __rmod__, __imod__ = _operator("remainder"), _operator("remainder", True), _in_place("remainder")
    __pow__, __rpow__, __ipow__ = _operator("pow"), _operator("pow", True), _in_place("pow")
    __matmul__, __rmatmul__, __imatmul__ = _operator("matmul"), _operator("matmul", True), _in_place("matmul")
    __and__, __rand__, __iand__ = _operator("bitwise_and"), _operator("bitwise_and", True), _in_place("bitwise_and")
    __or__, __ror__, __ior__ = _operator("bitwise_or"), _operator("bitwise_or", True), _in_place("bitwise_or")
    __xor__, __rxor__, __ixor__ = _operator("bitwise_xor"), _operator("bitwise_xor", True), _in_place("bitwise_xor")
    __lshift__, __rlshift__ = _operator("bitwise_left_shift"), _operator("bitwise_left_shift", True)
    __ilshift__ = _in_place("bitwise_left_shift")
    __rshift__, __rrshift__ = _operator("bitwise_right_shift"), _operator("bitwise_right_shift", True)
    __irshift__ = _in_place("bitwise_right_shift")
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")
    __neg__, __pos__ = _prefix("negative"), _prefix("positive")
    __abs__, __invert__ = _prefix("abs"), _prefix("bitwise_invert")

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __trunc__(self) -> int:
        return math.trunc(self.item())

    def __round__(self, digits: int | None = None) -> Tensor:
        if digits:
            scale = 10.0 ** digits
            return tensors.round(self * scale) / scale
        return tensors.round(self)

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix."""
        data = self._data
        if type(data) is np.ndarray and data.ndim == 2:
            return tensors.permute_dims(self, (1, 0)) if self._node is not None or config.special else _view(data.T)
        if self.ndim != 2:
            raise ShapeError(f".T needs 2 axes, this Tensor has shape {self.shape}; use .mT for stacks of matrices, "
                             "or permute_dims(axes)")
        return tensors.matrix_transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return tensors.matrix_transpose(self)

    @property
    def real(self) -> Tensor:
        """The real part."""
        return tensors.real(self) if dtypes.kind(self.dtype) == "c" else self

    @property
    def imag(self) -> Tensor:
        """The imaginary part."""
        return tensors.imag(self)

    @property
    def at(self) -> At:
        """Functional updates: `x.at[i].set(v)`, `x.at[i].add(v)` give a new Tensor, differentiable in both."""
        return At(self)

    def reshape(self, *shape: Any) -> Tensor:
        """This Tensor with another shape of as many elements; one size may be -1."""
        return tensors.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def permute_dims(self, *axes: Any) -> Tensor:
        """This Tensor with its axes in the order `axes`."""
        return tensors.permute_dims(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes)

    permute = permute_dims

    def transpose(self, *axes: Any) -> Tensor:
        """All axes reversed without arguments, two axes exchanged (PyTorch), or an order of all axes (NumPy).

        Raises ArgumentError for `transpose(0, 1)` of a matrix, which is its transpose in PyTorch, and itself in NumPy.
        """
        if not axes:
            return tensors.permute_dims(self, tuple(range(self.ndim))[::-1])
        if len(axes) == 2 == self.ndim and axes in ((0, 1), (-2, -1), (0, -1), (-2, 1)):
            raise ArgumentError(f"transpose{axes} of a matrix exchanges its axes in PyTorch and leaves them in NumPy; "
                                "write x.T or x.mT (or ag.permute_dims(x, axes) for an order of axes)")
        if len(axes) == 2 and self.ndim != 2:
            return tensors.swapaxes(self, *axes)
        return self.permute_dims(*axes)

    view = reshape

    def __dir__(self) -> list[str]:
        return [n for n in object.__dir__(self) if not isinstance(type(self).__dict__.get(n), _Elsewhere)]


class At:
    """`x.at[key]`: the place of a functional update."""

    __slots__ = ("x", "key")

    def __init__(self, x: Tensor, key: Any = ...):
        self.x, self.key = x, key

    def __getitem__(self, key: Any) -> At:
        return At(self.x, key)

    def set(self, value: Any) -> Tensor:
        """A copy of x with `value` at the key."""
        return tensors.index_update(self.x, self.key, _as_value(value, self.x.dtype), mode="set")

    def add(self, value: Any) -> Tensor:
        """A copy of x with `value` added at the key; repeated indices add up."""
        return tensors.index_update(self.x, self.key, _as_value(value, self.x.dtype), mode="add")


def _as_value(value: Any, dtype: np.dtype) -> Any:
    """What is assigned into a Tensor of `dtype`: a Tensor, an array, or a number, then of the dtype's precision."""
    found = operand(value)
    if found is None:
        return asarray(value)
    if isinstance(found, Tensor):
        return value
    dt = dtypes.weak(dtype, found)
    try:
        with np.errstate(all="ignore"):
            return dispatch.constant(np.array(found, dt))
    except OverflowError:
        raise DTypeError(f"x[...] = {value}: the number does not fit into {dt}") from None


_new = object.__new__


def _view(data: Any) -> Tensor:
    """A Tensor without a node around a view of an array, or around a number that was read from it."""
    t = _new(Tensor)
    t._data = data if type(data) is np.ndarray else np.asarray(data)
    t._node = None
    return t


_NO_METHODS = {"zeros", "ones", "full", "empty", "arange", "linspace", "eye", "index", "index_update", "logspace",
               "tri", "dropout", "where"}
dispatch.bind(Tensor)


class _Method:
    """An operation as a method, made when it is first asked for, so that importing agog builds none of them.

    (Not `Tensor.__getattr__`: a class that has one makes every attribute of its instances slower to reach.)
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        fn = public(self.name)
        setattr(Tensor, self.name, fn)
        return fn if instance is None else fn.__get__(instance)


for _name in (*TABLE, *COMPOSITES):
    if not (_name.startswith("_") or _name in _NO_METHODS or hasattr(Tensor, _name)):
        setattr(Tensor, _name, _Method(_name))


class _Elsewhere:
    """A method of PyTorch's or NumPy's that has another name here: asking for it says which."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        raise hints.missing("Tensor", self.name)


class _Data(_Elsewhere):
    """PyTorch's `x.data`, which is assigned to as well."""

    __slots__ = ()

    def __set__(self, instance: Any, value: Any) -> None:
        raise hints.missing("Tensor", self.name)


for _name in hints.methods():
    if _name not in vars(Tensor):
        setattr(Tensor, _name, (_Data if _name == "data" else _Elsewhere)(_name))


def _short_float(x: Any) -> str:
    return f"{float(x):.4g}"


def _maker(node: Any) -> str:
    return node.source.op.name if type(node) is tape.Pick else node.op.name


def _rebuild(cls: type, data: np.ndarray, requires_grad: bool) -> Tensor:
    out: Any = _new(cls)
    out._data, out._node = data, None
    return out.requires_grad_() if requires_grad else out


_WITH_DTYPE = {"sum", "prod", "mean", "cumulative_sum", "cumulative_prod", "trace"}


def public(name: str) -> Callable[..., Any]:
    """The public function of an operation: the one of the Tensor namespace, with `dtype=` where the standard has it."""
    fn = getattr(tensors, name)
    if name not in _WITH_DTYPE:
        return fn
    if name in TABLE and dispatch.is_reduction(TABLE[name]):
        def typed(x: Any, axis: Any, keepdims: bool, dtype: Any) -> Tensor:
            return _cast(fn(_cast(x, dtype), axis, keepdims), dtype)

        return finished(dispatch.reduction(TABLE[name], typed), TABLE[name], ())
    rest = list(inspect.signature(fn).parameters.values())[1:]
    env = {"_fn": fn, "_cast": _cast} | {f"_d_{p.name}": p.default for p in rest}
    heads, passed = ", ".join(f"{p.name}=_d_{p.name}" for p in rest), ", ".join(f"{p.name}={p.name}" for p in rest)
    axis = "axis" in inspect.signature(fn).parameters
    others = ", *, dim=None, keepdim=None, out=None" if axis else ""
    check = ("    if dim is not keepdim or out is not None: "
             f"raise _wrong({name!r}, {{'dim': dim, 'keepdim': keepdim, 'out': out}})\n"
             if axis else "")
    source = (f"def {name}(x, /, {heads}, dtype=None{others}):\n{check}"
              f"    if dtype is not None:\n        return _cast(_fn(_cast(x, dtype), {passed}), dtype)\n"
              f"    return _fn(x, {passed})\n")
    env["_wrong"] = hints.wrong_keywords
    exec(compile(source, f"<agog {name}>", "exec"), env)
    out = env[name]
    hide(out, "dim", "keepdim", "out")
    out.__doc__, out.__module__ = fn.__doc__, "agog"
    return out


def _cast(x: Any, dtype: Any) -> Tensor:
    return asarray(x).astype(dtype, copy=False)


def _array(data: Any, dtype: Any) -> Any:
    """The array of a Tensor (itself, if it has the dtype), or one made from anything else."""
    if not isinstance(data, Tensor):
        return to_array(data, dtype, None)
    dt = None if dtype is None else dtypes.dtype(dtype)
    if dt is None or dt == data.dtype:
        return data._data
    with np.errstate(all="ignore"):
        return data._data.astype(dt)


_handed = [0]
"""How often NumPy was handed the array of a Tensor, in all threads: it asks those in a list for theirs."""


def _sequence(data: Any, dtype: Any, copy: bool | None = None) -> Tensor:
    """A Tensor of nested sequences. That no Tensor is in them shows when NumPy has gone through them: it is faster."""
    if not config.special:
        before = _handed[0]
        try:
            array = to_array(data, dtype, copy)
        except Exception:
            if not _holds_tensors(data):
                raise
        else:
            if _handed[0] == before:
                return wrap(array)
    return _stacked(data, dtype) if _holds_tensors(data) else wrap(to_array(data, dtype, copy))


def _holds_tensors(data: Any) -> bool:
    """Whether a Tensor is in nested sequences."""
    if not isinstance(data, list | tuple):
        return False
    kinds = set(map(type, data))
    if any(issubclass(kind, Tensor) for kind in kinds):
        return True
    nested = any(issubclass(kind, list | tuple) for kind in kinds)
    return nested and any(map(_holds_tensors, data))


def _stacked(data: Any, dtype: Any) -> Tensor:
    """One Tensor of nested sequences of Tensors, arrays and numbers."""
    from agog.namespace import result_type

    leaves: list[Any] = []

    def collect(x: Any) -> None:
        if isinstance(x, list | tuple | range):
            for part in x:
                collect(part)
        else:
            number = isinstance(x, int | float | complex | np.generic)
            leaves.append(operand(x) if number else asarray(x))

    def build(x: Any) -> Tensor:
        if not isinstance(x, list | tuple | range):
            return tensors.astype(x, dt) if isinstance(x, Tensor) and x.dtype != dt else asarray(x, dtype=dt)
        parts = [build(part) for part in x]
        if len({part.shape for part in parts}) > 1:
            raise ShapeError("the nested sequence is ragged: its parts have the shapes "
                             f"{', '.join(dict.fromkeys(str(part.shape) for part in parts))}; pad them first")
        return tensors.stack(parts, axis=0) if parts else asarray([], dtype=dt)

    collect(data)
    dt = dtypes.dtype(dtype) if dtype is not None else result_type(*leaves)
    return build(data)


def _read(t: Tensor) -> None:
    """Tell the recorder about a Tensor whose value another one is about to have."""
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_read(t)


def _announce(t: Tensor, source: Any) -> None:
    """Tell the recorder about a Tensor made from `source`: Python numbers are constants, arrays are not."""
    if config.special and config.modes.recorder is not None:
        config.modes.recorder.on_born(t)
        plain = isinstance(source, bool | int | float | complex | list | tuple | range) and not holds_arrays(source)
        if plain or isinstance(source, np.generic):
            config.modes.recorder.on_constant(t, source)
        elif isinstance(source, np.ndarray):
            config.modes.recorder.on_array(t, source)
        elif isinstance(source, Tensor):
            config.modes.recorder.on_read(source)


# Counted, because it differs between versions of Python; 0 is never counted.
_ALONE = next((n for n in range(1, 9) if COUNTED and _exclusive(Tensor(np.zeros(1)), n)), 0)


def asarray(data: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None,
            requires_grad: bool = False) -> Tensor:
    """A Tensor of `data`: a Tensor (itself, if nothing changes), an array, a nested sequence, or a number.

    Tensors in a sequence are stacked: gradients flow to them, and Python numbers beside them take their dtype.

    dtype   default: the data's own; default float (float32) for Python floats, int64 for ints
    device  default: where the data is, 'cpu' for Python data
    copy    NumPy arrays are copied, so that later writes to them change no Tensor; False shares the memory
            (and raises ArgumentError when that is impossible), True copies a Tensor too

    Raises ShapeError for ragged sequences, ArgumentTypeError for anything that is not numbers.
    """
    if isinstance(data, Tensor):
        dt = None if dtype is None else dtypes.dtype(dtype)
        if dt is not None and dt != data.dtype:
            if copy is False:
                raise ArgumentError(f"asarray(copy=False): {data.dtype} to {dt} needs a copy")
            out = tensors.astype(data, dt)
        else:
            out = data.clone() if copy else data
    else:
        out = _sequence(data, dtype, copy) if isinstance(data, list | tuple) else wrap(to_array(data, dtype, copy))
        _announce(out, data)
    if device is not None:
        out = out.to_device(device)
    return out.requires_grad_() if requires_grad else out
