"""What all optimizers share: groups, state, the two ways to take a step, saving and loading.

A rule is written twice. `_update` is the formula in Tensor operations: it is what is recorded, what runs on other
devices and dtypes, and what `update` offers as a pure function. `_kernel` is the same arithmetic, in the same order,
on raw NumPy arrays in place, block by block so that the operands stay in the cache. A test holds them together.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Iterable

import numpy as np

import agog as ag
from agog import config
from agog.array import dtypes
from agog.array.large import COUNTED
from agog.autodiff.engine import enable_grad, no_grad
from agog.dispatch import is_plain, unwatched
from agog.errors import ArgumentError, ArgumentTypeError, CheckpointError, GradientError, ShapeError
from agog.optim._group import Group, State, collect, named, number
from agog.tape import Leaf
from agog.tensor import Tensor

BLOCK = 1 << 15
"""Elements of a block: 128 KiB of float32, so that a block of each operand fits into a second-level cache."""

_FAST = (dtypes.float32, dtypes.float64)
_ndarray = np.ndarray


def _references(t: Tensor) -> int:
    data = t._data
    if data.base is None and data.flags.writeable:
        return sys.getrefcount(data)
    return 0


_ALONE = _references(Tensor(np.zeros(1))) if COUNTED else 0  # it differs between versions of Python


def own(t: Tensor) -> np.ndarray:
    """The array of `t` to write to: its own when nobody else can see it, otherwise a copy, which becomes its own."""
    data = t._data
    if data.base is None and data.flags.writeable and sys.getrefcount(data) == _ALONE:
        return data
    data = t._data = data.copy()
    return data


class Optimizer:
    """The base class. An optimizer changes the parameters it was given by the gradients in their `.grad`.

    params    Tensors, (name, Tensor) pairs, a dict of Tensors, or dicts {"params": ..., settings of this group ...}
    defaults  hyper-parameters for groups that do not say otherwise

    A subclass defines `_init`, `_update`, and for speed `_moments`, `_constants` and `_kernel`.
    """

    __agog_own__ = frozenset({"_kept", "state", "param_groups", "_scratch", "_version", "_started"})
    """Attributes that it answers for itself; others, of a subclass, are watched where code names them."""

    _started = 0  # how often the state of a parameter was made

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.defaults = {k: self._check(k, v) for k, v in defaults.items()}
        self._kept = State({}, [0])
        self.param_groups: list[Group] = []
        self._scratch: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._version = 0
        for group in collect(params, type(self).__name__):
            self._add(group)

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """What is kept of each parameter between steps, by name: {parameter: {"exp_avg": Tensor, ...}}."""
        return self._kept

    @state.setter
    def state(self, value: dict[Tensor, dict[str, Tensor]]) -> None:
        self._kept = State(value, [self._kept.version[0]])
        self._version += 1

    # ------------------------------------------------------------------------------------------- for subclasses
    def _init(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """The state of a parameter before the first step."""
        return {}

    def _update(self, xp: Any, p: Any, g: Any, state: dict[str, Any], group: Any) -> tuple[Any, dict[str, Any]]:
        """(new value, new state) of a real parameter, in operations of the namespace `xp`; changes nothing."""
        raise AttributeError(f"{type(self).__name__} must define _update")

    def _moments(self, group: Group) -> tuple[str, ...] | None:
        """Names of the state that `_kernel` changes in place; None when there is no kernel for this group."""
        return None

    def _constants(self, group: Group, state: dict[str, Tensor], dtype: Any) -> tuple:
        """The numbers that `_kernel` takes, as arrays of no axes; counts the step."""
        return ()

    def _kernel(self, c: tuple, s: np.ndarray, t: np.ndarray, p: np.ndarray, g: np.ndarray,
                *moments: np.ndarray) -> None:
        """`_update` in place on arrays of one shape; `s` and `t` are scratch."""

    def _check(self, key: str, value: Any) -> Any:
        """A hyper-parameter as it is kept. Raises ArgumentError where it makes no sense."""
        if key in ("lr", "eps", "weight_decay", "lr_decay", "initial_accumulator_value", "momentum_decay"):
            return number(key, value)
        if key in ("momentum", "alpha", "dampening", "rho"):
            return number(key, value, high=1.0)
        if key == "betas":
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise ArgumentTypeError(f"betas must be two numbers, not {value!r}")
            return tuple(number("betas", b, high=1.0, open_high=True) for b in value)
        switches = ("nesterov", "amsgrad", "maximize", "centered", "decoupled_weight_decay")
        if key in switches and not isinstance(value, bool):
            raise ArgumentTypeError(f"{key} must be True or False, not {value!r}")
        return value

    # ------------------------------------------------------------------------------------------------ a step
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient. Returns what `closure`, if given, returned.

        closure  computes the loss and the gradients; called once, before the change
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise ArgumentTypeError(f"{type(self).__name__}.step(): it takes a function that computes the loss, or "
                                        f"nothing, not a {type(closure).__name__}; write loss.backward() before it")
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.complete != group._versions[0]:
                self._complete(group)
        if config.special and (config.modes.recorder is not None or config.op_hooks):
            own = type(self).__module__.startswith("agog.") and all(map(_is_plain, self.param_groups))
            with no_grad(), unwatched(own):
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            self._step_one(p, p.grad, group)
            return loss
        with np.errstate(all="ignore"):
            for group in self.param_groups:
                self._step_group(group, group["params"])
        return loss

    def _step_group(self, group: Group, params: list[Tensor]) -> None:
        names = self._moments(group)
        states = self._kept
        for p in params:
            node = p._node
            if type(node) is not Leaf:
                if node is not None:
                    raise GradientError("a parameter has become the result of a computation since the optimizer was "
                                        "made; change parameters with p.assign(...)")
                continue
            grad = node.grad
            if grad is None:
                continue
            g = grad._data
            dtype = g.dtype
            if dtype not in _FAST or p._data.dtype != dtype or names is None or type(p._data) is not _ndarray \
                    or type(g) is not _ndarray:
                with no_grad():
                    self._step_one(p, grad, group)
                continue
            state = states.get(p)
            if state is None:
                state = self._start(p, group)
            c = self._constants(group, state, dtype)
            n = g.size
            if n <= BLOCK:
                key = (g.shape, dtype)
                scratch = self._scratch.get(key)
                if scratch is None:
                    scratch = self._scratch[key] = (np.empty(g.shape, dtype), np.empty(g.shape, dtype))
                if names:
                    self._kernel(c, *scratch, own(p), g, *[own(state[k]) for k in names])
                else:
                    self._kernel(c, *scratch, own(p), g)
            else:
                arrays = [own(p), g, *[own(state[k]) for k in names]]
                if not (all(a.flags.c_contiguous for a in arrays) and self._native(c, arrays)):
                    self._blocks(c, arrays, n, dtype)

    def _native(self, c: tuple, arrays: list[np.ndarray]) -> bool:
        """`_kernel` on large arrays as one native loop; False when there is none (yet)."""
        return False

    def _blocks(self, c: tuple, arrays: list[np.ndarray], n: int, dtype: Any) -> None:
        first = arrays[0]
        if not all(a.flags.c_contiguous for a in arrays):
            if first.flags.f_contiguous and all(a.flags.f_contiguous for a in arrays):
                arrays = [a.T for a in arrays]  # the same order in memory
            elif all(a.flags.c_contiguous for i, a in enumerate(arrays) if i != 1):
                arrays[1] = np.ascontiguousarray(arrays[1])
            else:
                self._kernel(c, np.empty(first.shape, dtype), np.empty(first.shape, dtype), *arrays)
                return
        flat = [a.reshape(-1) for a in arrays]
        scratch = self._scratch.get(dtype)
        if scratch is None:
            scratch = self._scratch[dtype] = (np.empty(BLOCK, dtype), np.empty(BLOCK, dtype))
        s, t = scratch
        # Threads do not pay here: with blocks as small as this they wait for the interpreter's lock.
        for i in range(0, n, BLOCK):
            j = min(i + BLOCK, n)
            if j - i < BLOCK:
                s, t = s[:j - i], t[:j - i]
            self._kernel(c, s, t, *[a[i:j] for a in flat])

    def _start(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        state = self._kept.begin(p, self._begun(p, group))
        self._started += 1
        return state

    def _begun(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        recorder, config.modes.recorder = config.modes.recorder, None  # moments are state, no values of a recording
        try:
            return self._init(_real_form(ag, p.detach()), group)
        finally:
            config.modes.recorder = recorder

    def _complete(self, group: Group) -> None:
        """Make what settings need that were changed after the first step: momentum, amsgrad, centered."""
        for p in group["params"]:
            state = self._kept.get(p)
            if state is not None:
                for name, value in self._later(state, self._begun(p, group)).items():
                    state.begin(name, value)
                    self._started += 1
        group.complete = group._versions[0]

    def _later(self, state: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is missing of a state that has seen steps, of which `fresh` would be the beginning."""
        return {name: value for name, value in fresh.items() if name not in state}

    def _step_one(self, p: Tensor, grad: Tensor, group: Group) -> None:
        state = self.state.get(p)
        if state is None:
            state = self._start(p, group)
        value, new = self._updated(p, grad, state, group)
        p.assign(value)
        for key, tensor in new.items():
            state[key].assign(tensor)

    def _updated(self, p: Tensor, grad: Tensor, state: dict[str, Tensor], group: Any) -> tuple[Any, dict[str, Any]]:
        """`_update` for any dtype: 16-bit floats are computed in float32, complex numbers as pairs."""
        value, new = self._update(ag, _real_form(ag, p), _real_form(ag, grad), state, group)
        if dtypes.kind(p.dtype) == "c":
            value = value[..., 0] + 1j * value[..., 1]
        return ag.astype(value, p.dtype, copy=False), new

    # ---------------------------------------------------------------------------------------- as a pure function
    def init(self, param: Tensor, group: int = 0) -> dict[str, Tensor]:
        """The state that `update` takes for `param` at its first step."""
        return self._init(_real_form(ag, param.detach()), self.param_groups[group])

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Tensor],
               group: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """`(new param, new state)` without changing anything: the formula of `step` in Tensor operations.

        group  index of the group whose hyper-parameters to use
        """
        if grad.shape != param.shape:
            raise ShapeError(f"{type(self).__name__}.update: a gradient of shape {grad.shape} for a parameter of shape "
                             f"{param.shape}")
        return self._updated(param, grad, state, self.param_groups[group])

    # -------------------------------------------------------------------------------------- gradients and groups
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters (or, with set_to_none=False, fill them with zeros)."""
        recording = config.special and config.modes.recorder is not None
        for group in self.param_groups:
            for p in group["params"]:
                node = p._node
                if recording and type(node) is Leaf:
                    config.modes.recorder.on_grad(node, written=set_to_none)
                if type(node) is Leaf and node.grad is not None:
                    node.grad = None if set_to_none else ag.zeros_like(node.grad)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Optimize more parameters: {"params": ..., hyper-parameters ...}."""
        (new,) = collect([group], type(self).__name__)
        mine = {id(p) for g in self.param_groups for p in g["params"]}
        for p in new["params"]:
            if id(p) in mine:
                raise ArgumentError(f"add_param_group: a parameter of shape {p.shape} is already in another group")
        self._add(new)

    def _add(self, group: dict[str, Any]) -> None:
        unknown = group.keys() - self.defaults.keys() - {"params", "initial_lr", "name"}
        if unknown:
            raise ArgumentError(f"{type(self).__name__}: a group has {', '.join(map(repr, sorted(unknown)))}, which "
                                f"are no hyper-parameters of it; there are {', '.join(sorted(self.defaults))}")
        if not group["params"]:
            raise ArgumentError(f"{type(self).__name__}: a group without parameters")
        self.param_groups.append(Group({**self.defaults, **group}, self._check))
        self._check_group(self.param_groups[-1])
        self._version += 1

    def _check_group(self, group: Group) -> None:
        """Raise ArgumentError for hyper-parameters that do not go together."""

    @property
    def lr(self) -> float:
        """The learning rate: of the first group when reading; of all groups when setting."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.param_groups:
            group["lr"] = value

    # ------------------------------------------------------------------------------------------ saving, loading
    def state_dict(self) -> dict[str, Any]:
        """A snapshot, {"state": {index: {name: Tensor}}, "param_groups": [...]}: later steps do not change it."""
        order = {id(p): i for i, p in enumerate(self._all())}
        return {
            "state": {order[id(p)]: {k: t.detach() for k, t in s.items()} for p, s in self.state.items()},
            "param_groups": [{**{k: v for k, v in g.items() if k != "params"},
                              "params": [order[id(p)] for p in g["params"]]}
                             for g in self.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a snapshot made by `state_dict` of an optimizer of the same class and parameters.

        Raises CheckpointError when groups, parameters or shapes differ; nothing is changed then.
        """
        who = type(self).__name__
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            raise CheckpointError(f"{who}.load_state_dict: not the state of an optimizer: the keys 'state' and "
                                  "'param_groups' are missing")
        groups = state_dict["param_groups"]
        mine, theirs = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in groups]
        if mine != theirs:
            raise CheckpointError(f"{who}.load_state_dict: the saved groups have {theirs} parameters, this "
                                  f"optimizer's have {mine}")
        params, fresh = list(self._all()), {}
        group_of = {id(p): g for g in self.param_groups for p in g["params"]}
        for saved in groups:
            for key in saved.keys() - {"params", "initial_lr", "name"} - self.defaults.keys():
                raise CheckpointError(f"{who}.load_state_dict: the saved hyper-parameter {key!r} is none of {who}")
        for key, saved in state_dict["state"].items():
            p = params[int(key)]
            settings: Any = {**group_of[id(p)], **groups[self._group_index(p)]}
            shapes = self._init(_real_form(ag, p.detach()), settings)
            if shapes.keys() != saved.keys():
                raise CheckpointError(f"{who}.load_state_dict: the saved state of parameter {key} has "
                                      f"{sorted(saved)}, this optimizer keeps {sorted(shapes)}")
            for name, want in shapes.items():
                if tuple(saved[name].shape) != want.shape:
                    raise CheckpointError(f"{who}.load_state_dict: {name!r} of parameter {key} has shape "
                                          f"{tuple(saved[name].shape)}, expected {want.shape}")
            fresh[p] = {name: want.assign(saved[name]) for name, want in shapes.items()}
        for g, saved in zip(self.param_groups, groups):
            g.update({k: tuple(v) if isinstance(v, list) else v for k, v in saved.items() if k != "params"})
        for p, s in fresh.items():  # keep the Tensors that are there: somebody may have recorded them
            old = self.state.get(p)
            if old is not None and old.keys() == s.keys():
                for name, t in s.items():
                    old[name].assign(t)
            else:
                self.state[p] = s
        for p in [p for p in self.state if p not in fresh]:
            del self.state[p]
        self._version += 1

    def _group_index(self, p: Tensor) -> int:
        return next(i for i, g in enumerate(self.param_groups) if any(q is p for q in g["params"]))

    def _all(self) -> Iterable[Tensor]:
        return (p for g in self.param_groups for p in g["params"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scratch": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = State(self._kept, [0])

    def __agog_watch__(self) -> tuple[Any, Any]:
        """What staging guards: everything but values of Tensors. See `agog.staging.observe`."""
        groups = [(id(g), g._versions[0]) for g in self.param_groups]
        return (self._started, self._version, self._kept.version[0], *groups), named(self, self.__agog_own__)

    def __agog_settled__(self, before: tuple, now: tuple) -> bool:
        """Whether between these tokens only moments were made: a step that makes them does what any other does."""
        return before[1:] == now[1:]

    def __repr__(self) -> str:
        lines = []
        for i, g in enumerate(self.param_groups):
            n = sum(p.size for p in g["params"])
            facts = ", ".join(f"{k}={v}" for k, v in g.items() if k != "params")
            lines.append(f"  group {i}: {len(g['params'])} tensors, {n:,} parameters; {facts}\n")
        return f"{type(self).__name__}(\n{''.join(lines)})"


def _is_plain(group: Group) -> bool:
    return is_plain([v for k, v in dict.items(group) if k != "params"])


def _real_form(xp: Any, x: Any) -> Any:
    """`x` in the form in which it is computed: 16-bit floats as float32, complex numbers as pairs along a last axis."""
    if dtypes.is_half(x.dtype):
        return xp.astype(x, dtypes.float32)
    if dtypes.kind(x.dtype) == "c":
        return xp.stack([xp.real(x), xp.imag(x)], axis=-1)
    return x


def scalars(dtype: Any, *values: float) -> tuple:
    """Numbers as arrays of no axes: what ufuncs take fastest."""
    return tuple(np.array(v, dtype) for v in values)
