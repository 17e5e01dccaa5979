"""Module: parameters, buffers and other modules under one roof."""

from __future__ import annotations

import sys
import warnings
from itertools import count
from typing import Any, Callable, Iterator, NamedTuple

from agog.array import device as devices
from agog.array import dtypes
from agog.errors import AgogError, ArgumentError, ArgumentTypeError, CheckpointError, user_frame
from agog.nn._hooks import Pulled
from agog.nn._parameter import Buffer, Parameter
from agog.tape import Leaf
from agog.tensor import Tensor

__all__ = ["Module"]

PARAMETER, BUFFER, TRANSIENT, MODULE = "parameter", "buffer", "transient buffer", "module"


class _Clock:
    """Stamps for changes: each is larger than all before. `now` is the stamp of the newest change of any module."""

    def __init__(self) -> None:
        self._next = count(1).__next__
        self.now = 0

    def tick(self) -> int:
        self.now = self._next()
        return self.now


clock = _Clock()


_OWN = ("_kinds", "_hooks", "_watched", "_chain", "_rebound", "training", "_version")
# Other values of these types come only by setting an attribute, which is a new version.
_UNWATCHED: tuple[type, ...] = (type(None), bool, int, float, complex, str, bytes, type, Tensor)


# Except for these in modules of the user's: `object.__setattr__` and `__dict__` go around that.
_PLAIN = frozenset((bool, int, float, complex, str, bytes))


class Loaded(NamedTuple):
    """What `load_state_dict` found: names that were missing, and names that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _instead(x: Any) -> str:
    """What to say to somebody who gives a module something that is no Tensor."""
    if x is None:
        return ", not None: does the function that made it return its result?"
    if isinstance(x, tuple) and any(isinstance(v, Tensor) for v in x):
        return (", not a tuple: nn.LSTM, nn.GRU and nn.RNN return (output, state), nn.MultiheadAttention "
                "(output, weights)")
    write = ": write ag.asarray(...) around the " if isinstance(x, list | tuple | int | float) else ", not a "
    return write + type(x).__name__


class Module:
    """The base of all layers and models: write `forward`, and assign parameters and modules to attributes.

        class Net(nn.Module):
            def __init__(self):
                self.hidden = nn.Linear(4, 8)
                self.out = nn.Linear(8, 2)

            def forward(self, x):
                return self.out(ag.relu(self.hidden(x)))

    Attributes that are Parameters, Buffers or Modules are found by `parameters()`, `state_dict()`, `train()` and so on;
    all others are ordinary. `training` tells whether the module is in training mode.

    Every change of an attribute, of the structure or of the mode gives the module a new, larger `_version` (new values
    of parameters do not count: those are the state of Tensors).
    """

    training: bool
    _kinds: dict[str, str]
    _version: int
    _hooks: Any
    _rebound: frozenset[str] = frozenset()  # attributes that staged calls give new Tensors, without a new version

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = object.__new__(cls)
        self.__dict__.update(training=True, _kinds={}, _version=clock.tick(), _hooks=None)
        return self

    def __init__(self) -> None:
        pass  # everything that must be there is there since __new__: a subclass may forget super().__init__()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes. Every module defines it."""
        raise AttributeError(f"{type(self).__name__} has no forward method; define forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._hooks is None:
                return self.forward(*args, **kwargs)
            return self._call_hooked(args, kwargs)
        except AgogError as error:
            self._locate(error)
            raise
        except AttributeError as error:
            alien = error.obj
            if error.name in ("shape", "ndim", "dtype") and not isinstance(alien, Tensor | Module) and (
                    any(alien is x for x in (*args, *kwargs.values()))):
                error.add_note(f"    {type(self).__name__} takes Tensors" + _instead(alien))
            raise

    def _locate(self, error: Any) -> None:
        """Note on an error that passes through which module it comes from: `encoder.0 (Linear)`."""
        inner, path, kind, note = getattr(error, "_module", (None, "", type(self).__name__, ""))
        if inner is not None:
            name = next((n for n, m in self.named_children() if m is inner), None)
            if name is None:
                return
            path = f"{name}.{path}" if path else name
            if note in error.__notes__:
                error.__notes__.remove(note)
        note = f"    in {path or 'module'} ({kind})" + (f" of {type(self).__name__}" if path else "")
        error._module = (self, path, kind, note)
        error.add_note(note)

    # ---------------------------------------------------------------------------------------------- attributes
    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(getattr(type(self), name, None), "__set__"):  # a property: what it sets, it sets under another name
            object.__setattr__(self, name, value)
            self._changed()
            return
        kinds, old = self._kinds, self.__dict__.get(name, self)
        if isinstance(value, Parameter):
            kind = PARAMETER
        elif isinstance(value, Module):
            kind = MODULE
        elif isinstance(value, Buffer):
            kind = BUFFER if getattr(value, "persistent", True) else TRANSIENT
        else:
            kind = kinds.get(name, "")
            if kind == PARAMETER and value is not None:
                raise ArgumentTypeError(f"{type(self).__name__}.{name} is a parameter, it cannot become a "
                                        f"{type(value).__name__}; write .{name}.assign(value) to change its value, or "
                                        f"wrap the value in nn.Parameter(...)")
            if kind in (BUFFER, TRANSIENT) and value is not None and not isinstance(value, Tensor):
                raise ArgumentTypeError(f"{type(self).__name__}.{name} is a buffer, it cannot become a "
                                        f"{type(value).__name__}; give a Tensor")
            if kind == MODULE and value is not None:
                kind = ""
            if isinstance(value, list | tuple | dict):
                _warn_hidden(type(self).__name__, name, value)
        object.__setattr__(self, name, value)
        if kind:
            if kinds.get(name) != kind:
                kinds.pop(name, None)
                kinds[name] = kind
        else:
            kinds.pop(name, None)
        if old is not value:
            self._changed()

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._kinds.pop(name, None)
        self._changed()

    def _changed(self) -> None:
        self.__dict__["_version"] = clock.tick()

    def __agog_watch__(self) -> tuple[Any, list[tuple[dict, str]]]:
        """What staging guards: versions of this module and all below, and where they keep mutable plain attributes."""
        watched = self.__dict__.get("_watched")
        if watched is None or watched[0] != clock.now:
            modules = list(self.modules())
            plain = [(m.__dict__, k) for m in modules for k, v in m.__dict__.items() if k not in _OWN and (
                k in m._rebound or not isinstance(v, (*_UNWATCHED, Module))
                or type(v) in _PLAIN and not type(m).__module__.startswith("agog."))]
            watched = self.__dict__["_watched"] = (clock.now, tuple((id(m), m._version) for m in modules), plain)
        return watched[1], watched[2]

    def __agog_rebind__(self, names: set[str]) -> bool:
        """Staged calls are going to give these attributes new Tensors: watch them one by one from now on.

        False when one of them is a parameter or a module, or when setting it runs code of a subclass.
        """
        cls = type(self)
        if cls.__setattr__ is not Module.__setattr__ or any(
                self._kinds.get(n) in (PARAMETER, MODULE) or hasattr(getattr(cls, n, None), "__set__") for n in names):
            return False
        if not names <= self._rebound:
            self.__dict__["_rebound"] = self._rebound | names
            self._changed()
        return True

    def _tree_version(self) -> int:
        """The newest stamp of this module and all below; changes whenever any of them does."""
        return max(m._version for m in self.modules())

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Make `tensor` (or None) the buffer `name`; see `Buffer`."""
        self._check_name(name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ArgumentTypeError(f"register_buffer({name!r}): a buffer must be a Tensor, "
                                    f"not a {type(tensor).__name__}")
        self._kinds[name] = BUFFER if persistent else TRANSIENT
        object.__setattr__(self, name, tensor)
        self._changed()

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make `param` (or None) the parameter `name`."""
        self._check_name(name)
        if param is not None and not isinstance(param, Parameter):
            raise ArgumentTypeError(f"register_parameter({name!r}): give an nn.Parameter, not a {type(param).__name__}")
        self._kinds[name] = PARAMETER
        object.__setattr__(self, name, param)
        self._changed()

    def add_module(self, name: str, module: Module | None) -> None:
        """Make `module` (or None) the child `name`."""
        self._check_name(name)
        if module is not None and not isinstance(module, Module):
            raise ArgumentTypeError(f"add_module({name!r}): give an nn.Module, not a {type(module).__name__}")
        self._kinds[name] = MODULE
        object.__setattr__(self, name, module)
        self._changed()

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"{name!r} cannot be the name of a part of a module: it must be a string without dots")
        if hasattr(self, name) and name not in self._kinds:
            raise ArgumentError(f"{type(self).__name__} already has an attribute {name!r}")

    # ------------------------------------------------------------------------------------------- what is inside
    def _own(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        d = self.__dict__
        return ((n, d[n]) for n, k in list(self._kinds.items()) if k in kinds and d[n] is not None)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below."""
        return self._own(MODULE)

    def children(self) -> Iterator[Module]:
        """The modules directly below."""
        return (m for _, m in self.named_children())

    def named_modules(self, prefix: str = "", _seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below, each module once."""
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        return (m for _, m in self.named_modules())

    def _named(self, kinds: tuple[str, ...], recurse: bool, prefix: str) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name, t in module._own(*kinds):
                if id(t) not in seen:
                    seen.add(id(t))
                    yield f"{path}.{name}" if path else name, t

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once."""
        return self._named((PARAMETER,), recurse, prefix)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once: what an optimizer is given."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), each buffer once."""
        return self._named((BUFFER, TRANSIENT), recurse, prefix)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, path: str) -> Module:
        """The module of the dotted name `path`. Raises ArgumentError when there is none."""
        module = self
        for name in path.split(".") if path else ():
            found = module.__dict__.get(name) if module._kinds.get(name) == MODULE else None
            if found is None:
                raise ArgumentError(f"{type(self).__name__} has no submodule {path!r}: {type(module).__name__} has "
                                    f"{', '.join(n for n, _ in module.named_children()) or 'no modules'}")
            module = found
        return module

    def get_parameter(self, path: str) -> Parameter:
        """The parameter of the dotted name `path`. Raises ArgumentError when there is none."""
        return self._get("parameter", path, PARAMETER)

    def get_buffer(self, path: str) -> Tensor:
        """The buffer of the dotted name `path`. Raises ArgumentError when there is none."""
        return self._get("buffer", path, BUFFER, TRANSIENT)

    def _get(self, what: str, path: str, *kinds: str) -> Any:
        owner, _, name = path.rpartition(".")
        found = dict(self.get_submodule(owner)._own(*kinds)).get(name)
        if found is None:
            raise ArgumentError(f"{type(self).__name__} has no {what} {path!r}")
        return found

    def num_parameters(self, trainable: bool = False) -> int:
        """How many numbers the parameters hold (with trainable=True, of those that require a gradient)."""
        return sum(p.size for p in self.parameters() if p.requires_grad or not trainable)

    # ------------------------------------------------------------------------------------------- modes and dtypes
    def train(self, mode: bool = True) -> Any:
        """Training mode (or, with False, evaluation mode) for this module and all below. Returns itself."""
        if not isinstance(mode, bool):
            raise ArgumentTypeError(f"train(mode): True or False, not {mode!r}")
        for m in self.modules():
            m.training = mode
        return self

    def eval(self) -> Any:
        """Evaluation mode: no dropout, running statistics. Returns itself."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Let all parameters collect gradients, or none (frozen). Returns itself."""
        for m in self.modules():
            for _, p in m._own(PARAMETER):
                p.requires_grad_(requires_grad)
            m._changed()
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters (or, with set_to_none=False, fill them with zeros)."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad = p.grad * 0

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Call `fn` with every module below and then this one, for example to initialise. Returns itself."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self, target: Any = None, *, dtype: Any = None, device: Any = None) -> Any:
        """Parameters and buffers in another floating dtype, or on another device. Returns itself.

        The Tensors stay the same objects, so an optimizer keeps them. Integer buffers keep their dtype.
        """
        if target is not None:
            if devices.is_device(target):
                device = target
            else:
                dtype = target
        dt = None if dtype is None else dtypes.dtype(dtype)
        if dt is not None and not dtypes.is_inexact(dt):
            raise ArgumentError(f"to({dt}): modules can only have floating and complex dtypes")
        for m in self.modules():
            for _, t in m._own(PARAMETER, BUFFER, TRANSIENT):
                _convert(t, dt, device)
            m._changed()
        return self

    def float(self) -> Any:
        """`to("float32")`."""
        return self.to("float32")

    def double(self) -> Any:
        """`to("float64")`."""
        return self.to("float64")

    def half(self) -> Any:
        """`to("float16")`."""
        return self.to("float16")

    def bfloat16(self) -> Any:
        """`to("bfloat16")`."""
        return self.to("bfloat16")

    def cpu(self) -> Any:
        """`to("cpu")`."""
        return self.to("cpu")

    def cuda(self, index: int = 0) -> Any:
        """`to("cuda:index")`."""
        return self.to(f"cuda:{index}")

    # ------------------------------------------------------------------------------------------------ the state
    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """{dotted name: value} of all parameters and persistent buffers: a snapshot, which training does not change."""
        return {name: t.detach() for name, t in self._state(prefix)}

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(prefix.rstrip(".")):
            for name, t in module._own(PARAMETER, BUFFER):
                yield f"{path}.{name}" if path else name, t

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Loaded:
        """Take over the values of a `state_dict` (Tensors or arrays).

        strict  raise when names are missing or unknown; False ignores both

        Returns the missing and the unexpected names. Raises CheckpointError that lists them, and every shape that
        does not fit; nothing is changed then.
        """
        if not hasattr(state_dict, "keys"):
            raise ArgumentTypeError(f"load_state_dict: a state dict is a mapping from names to Tensors, not a "
                                    f"{type(state_dict).__name__}")
        mine = dict(self._state())
        missing = [n for n in mine if n not in state_dict]
        unexpected = [n for n in state_dict if n not in mine]
        problems = []
        if strict and missing:
            problems.append("missing: " + ", ".join(missing))
        if strict and unexpected:
            problems.append("unexpected: " + ", ".join(unexpected))
        values = {n: state_dict[n] for n in mine if n in state_dict}
        for n, v in values.items():
            if not hasattr(v, "shape"):
                problems.append(f"{n}: a {type(v).__name__}, not a Tensor")
            elif tuple(v.shape) != mine[n].shape:
                problems.append(f"{n}: shape {tuple(v.shape)}, expected {mine[n].shape}")
        if problems:
            raise CheckpointError(f"load_state_dict: this state is not of this {type(self).__name__}:\n    "
                                  + "\n    ".join(problems))
        for n, v in values.items():
            mine[n].assign(v)
        return Loaded(missing, unexpected)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_watched", "_chain", "_rebound")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._changed()

    # ---------------------------------------------------------------------------------------------------- hooks
    def register_forward_pre_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                                  with_kwargs: bool = False) -> Callable[[], None]:
        """Call `hook(module, args)` before forward; what it returns, if not None, replaces the arguments.

        prepend      before the hooks that there are
        with_kwargs  call `hook(module, args, kwargs)`, which returns None or (args, kwargs)

        Returns a function that removes the hook.
        """
        return self._hook(0, hook, prepend, with_kwargs)

    def register_forward_hook(self, hook: Callable[..., Any], *, prepend: bool = False,
                              with_kwargs: bool = False) -> Callable[[], None]:
        """Call `hook(module, args, output)` after forward; what it returns, if not None, replaces the output.

        prepend      before the hooks that there are
        with_kwargs  call `hook(module, args, kwargs, output)`

        Returns a function that removes the hook.
        """
        return self._hook(1, hook, prepend, with_kwargs)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], *,
                                        prepend: bool = False) -> Callable[[], None]:
        """Call `hook(module, grad_output)` when the gradients of the outputs are there; see the hook below.

        What it returns, if not None, replaces them: a tuple of as many. Returns a function that removes the hook.
        """
        return self._hook(2, hook, prepend, False)

    def register_full_backward_hook(self, hook: Callable[..., Any], *, prepend: bool = False) -> Callable[[], None]:
        """Call `hook(module, grad_input, grad_output)` when the gradients of the inputs have been computed.

        grad_input   one for each positional argument, None for those that are no Tensors with a gradient; what the hook
                     returns, if not None, replaces it
        grad_output  one for each output: forward returns a Tensor, or a tuple or list of Tensors and other values

        Where no input has a gradient, the hook is called when those of the outputs are there. Returns a function that
        removes the hook.
        """
        return self._hook(3, hook, prepend, False)

    def _hook(self, when: int, hook: Callable[..., Any], first: bool, named: bool) -> Callable[[], None]:
        if not callable(hook):
            raise ArgumentTypeError(f"a hook is a function, not a {type(hook).__name__}")
        hooks = self._hooks or ((),) * 4
        entry = (hook, named)  # one function may be there twice: what is removed is what was added here

        def changed(of: tuple[Any, ...]) -> None:
            every = [*(self._hooks or ((),) * 4)]
            every[when] = of
            self._hooks = tuple(every) if any(every) else None  # (another object, so that it is a new version)

        def remove() -> None:
            if self._hooks:
                changed(tuple(e for e in self._hooks[when] if e is not entry))

        changed((entry, *hooks[when]) if first else (*hooks[when], entry))
        remove.remove = remove  # type: ignore[attr-defined]  # PyTorch's handles have it as a method
        return remove

    def _call_hooked(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        before, after, *backward = self._hooks
        for hook, named in before:
            new = hook(self, args, kwargs) if named else hook(self, args)
            if new is not None and named:
                if not (isinstance(new, tuple) and len(new) == 2 and isinstance(new[1], dict)):
                    raise ArgumentTypeError("a forward pre-hook with with_kwargs=True returns None or (args, kwargs)")
                args, kwargs = new
            elif new is not None:
                args = new if isinstance(new, tuple) else (new,)
        pulled = Pulled(self, *backward) if any(backward) else None
        if pulled is not None:
            args = pulled.inputs(args)
        out = self.forward(*args, **kwargs)
        for hook, named in after:
            new = hook(self, args, kwargs, out) if named else hook(self, args, out)
            if new is not None:
                out = new
        return out if pulled is None else pulled.outputs(out)

    # ------------------------------------------------------------------------------------------------ in words
    def extra_repr(self) -> str:
        """What stands between the parentheses of the module's line in `repr`."""
        return ""

    def __repr__(self) -> str:
        text = self._lines()
        n = self.num_parameters()
        return text + f"  # {n:,} parameters" if any(True for _ in self.children()) and n else text

    def _repr_html_(self) -> str:
        from agog.interop import display

        return display.module(self)

    def _lines(self) -> str:
        parts = [f"({name}): {child._lines()}".replace("\n", "\n  ") for name, child in self.named_children()]
        extra = self.extra_repr()
        if not parts:
            return f"{type(self).__name__}({extra})"
        return f"{type(self).__name__}({extra}\n  " + "\n  ".join(parts) + "\n)"

    def __dir__(self) -> list[str]:
        return sorted(n for n in object.__dir__(self) if not n[0].isdigit())


def _convert(t: Tensor, dt: Any, device: Any) -> None:
    """`t` itself in another dtype and on another device."""
    if dt is not None and dtypes.is_inexact(t.dtype) and t.dtype != dt:
        if dtypes.kind(t.dtype) == "c" and dtypes.kind(dt) != "c":
            raise ArgumentError(f"to({dt}) would drop the imaginary part of a {t.dtype} parameter")
        data = t.detach().astype(dt)._data
    else:
        data = t._data
    if device is not None:
        data = devices.move(data, device)
    if data is t._data:
        return
    grad = t.grad
    t._data = data
    if t._node is not None:
        t._node = Leaf(data.shape, data.dtype)
        if grad is not None:
            t.grad = grad.to(dtype=data.dtype, device=device)


def _warn_hidden(who: str, name: str, value: Any) -> None:
    """A list of modules is not found: say so, at the user's line."""
    items = value.values() if isinstance(value, dict) else value
    if any(isinstance(v, Module | Parameter) for v in items):
        user, level = user_frame(2), 1
        frame: Any = sys._getframe(0)
        while frame is not None and frame is not user:
            frame, level = frame.f_back, level + 1
        warnings.warn(f"{who}.{name} is a {type(value).__name__} with modules or parameters in it, which parameters() "
                      "and state_dict() do not see; use nn.ModuleList, nn.ModuleDict or nn.ParameterList",
                      stacklevel=level)
