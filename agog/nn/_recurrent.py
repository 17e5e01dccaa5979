"""Recurrent networks, with PyTorch's layout of parameters."""

from __future__ import annotations

import math
from typing import Any

import agog as ag
from agog.errors import ArgumentError
from agog.nn import init
from agog.nn._check import bad_input, whole
from agog.nn._module import Module
from agog.nn._packed import PackedSequence
from agog.nn._parameter import Parameter


def _tanh_step(xi: Any, state: tuple, w: Any, b: Any) -> tuple:
    return (ag.tanh(xi + ag.linear(state[0], w, b)),)


def _relu_step(xi: Any, state: tuple, w: Any, b: Any) -> tuple:
    return (ag.relu(xi + ag.linear(state[0], w, b)),)


def _lstm_step(xi: Any, state: tuple, w: Any, b: Any) -> tuple:
    h, c = state
    i, f, g, o = ag.split(xi + ag.linear(h, w, b), 4, axis=-1)
    c = ag.sigmoid(f) * c + ag.sigmoid(i) * ag.tanh(g)
    return ag.sigmoid(o) * ag.tanh(c), c


def _gru_step(xi: Any, state: tuple, w: Any, b: Any) -> tuple:
    h = state[0]
    xr, xz, xn = ag.split(xi, 3, axis=-1)
    hr, hz, hn = ag.split(ag.linear(h, w, b), 3, axis=-1)
    r, z = ag.sigmoid(xr + hr), ag.sigmoid(xz + hz)
    n = ag.tanh(xn + r * hn)
    return (n + z * (h - n),)


class _Recurrent(Module):
    _gates = 1
    _states = 1
    _step: Any = staticmethod(_tanh_step)

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, *, dtype: Any = None, device: Any = None):
        who = type(self).__name__
        self.input_size, self.hidden_size = whole(who, "input_size", input_size), whole(who, "hidden_size", hidden_size)
        self.num_layers, self.bias, self.batch_first = whole(who, "num_layers", num_layers), bias, batch_first
        if not 0.0 <= dropout <= 1.0:
            raise ArgumentError(f"{who}(dropout={dropout}): a probability lies between 0 and 1")
        self.dropout, self.bidirectional = dropout, bidirectional
        n = self._gates * hidden_size
        for layer in range(num_layers):
            size = input_size if layer == 0 else hidden_size * (2 if bidirectional else 1)
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (n, size), "weight_hh": (n, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (n,), "bias_hh": (n,)}
                for name, shape in shapes.items():
                    setattr(self, name + suffix, Parameter(ag.empty(shape, dtype=dtype, device=device)))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"] if self.bidirectional else [f"_l{layer}"]

    def reset_parameters(self) -> None:
        """New random values, uniform in +-1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, x: Any, hx: Any = None) -> tuple[Any, Any]:
        """(outputs, last state): outputs (L, N, D * hidden_size), state (D * layers, N, hidden_size), D the directions.

        x   (L, N, input_size), (N, L, input_size) with batch_first, or (L, input_size)
        hx  the first state, zeros by default; for an LSTM a pair (h, c)

        With a PackedSequence for x the outputs are one too, and the last state of a sequence is that at its own end.
        """
        if isinstance(x, PackedSequence):
            return self._packed(x, hx)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            lead = "N, L" if self.batch_first else "L, N"
            raise bad_input(self, x, f"({lead}, {self.input_size}) or (L, {self.input_size})")
        batched = x.ndim == 3
        if not batched:
            x = ag.expand_dims(x, axis=1)
        elif self.batch_first:
            x = ag.swapaxes(x, 0, 1)
        if x.shape[0] == 0:
            raise bad_input(self, x, "at least one step in time")
        x, final = self._layers(x, self._first(x, hx, batched))
        if not batched:
            x, final = x[:, 0], tuple(s[:, 0] for s in final)
        elif self.batch_first:
            x = ag.swapaxes(x, 0, 1)
        return x, (final if self._states > 1 else final[0])

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[Any, Any]:
        x = packed.padded
        if x.ndim != 3 or x.shape[-1] != self.input_size:
            raise bad_input(self, x, f"a PackedSequence of (L, N, {self.input_size})")
        mask = ag.expand_dims(packed.mask(), axis=-1)
        y, final = self._layers(x, self._first(x, hx, True), mask)
        y = ag.where(mask, y, ag.zeros((), dtype=y.dtype))
        return PackedSequence(y, packed.lengths), (final if self._states > 1 else final[0])

    def _layers(self, x: Any, states: tuple, mask: Any = None) -> tuple[Any, tuple]:
        """(outputs, last states) of x (L, N, input_size); mask (L, N, 1): where a sequence goes on."""
        going = None if mask is None else ag.unstack(mask)
        last: list[tuple] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = ag.dropout(x, self.dropout, training=True)
            parts = []
            for suffix in self._suffixes(layer):
                ys, state = self._run(x, tuple(s[len(last)] for s in states), suffix, going)
                parts.append(ys)
                last.append(state)
            x = parts[0] if len(parts) == 1 else ag.concat(parts, axis=-1)
        return x, tuple(ag.stack([s[i] for s in last]) for i in range(self._states))

    def _run(self, x: Any, state: tuple, suffix: str, going: Any = None) -> tuple[Any, tuple]:
        b = getattr(self, "bias_hh" + suffix, None)
        xs = ag.unstack(ag.linear(x, getattr(self, "weight_ih" + suffix), getattr(self, "bias_ih" + suffix, None)))
        w = getattr(self, "weight_hh" + suffix)
        step, ys = self._step, []
        if going is None:
            for xi in reversed(xs) if suffix.endswith("reverse") else xs:
                state = step(xi, state, w, b)
                ys.append(state[0])
        else:  # what is over keeps its state
            for i in range(len(xs))[::-1 if suffix.endswith("reverse") else 1]:
                state = tuple(ag.where(going[i], new, old) for new, old in zip(step(xs[i], state, w, b), state))
                ys.append(state[0])
        return ag.stack(ys[::-1] if suffix.endswith("reverse") else ys), state

    def _first(self, x: Any, hx: Any, batched: bool) -> tuple:
        shape = (self.num_layers * (2 if self.bidirectional else 1), x.shape[1], self.hidden_size)
        if hx is None:
            return (ag.zeros(shape, dtype=x.dtype, device=x.device),) * self._states
        if self._states > 1 and not isinstance(hx, tuple | list):
            raise bad_input(self, hx, "a pair of Tensors (h, c) as the first state")
        given = tuple(hx) if self._states > 1 else (hx,)
        want = shape if batched else (shape[0], shape[2])
        if len(given) != self._states or any(s.shape != want for s in given):
            raise bad_input(self, given[0], f"{want} for {'each of (h, c)' if self._states > 1 else 'the first state'}")
        return given if batched else tuple(ag.expand_dims(s, axis=1) for s in given)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, usual in (("num_layers", 1), ("bias", True), ("batch_first", False), ("dropout", 0.0),
                            ("bidirectional", False)):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


class RNN(_Recurrent):
    """h = tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh), over time (Elman, 1990).

    nonlinearity   "tanh" or "relu"
    dropout        between the layers, in training
    bidirectional  a second network reads backwards; outputs are joined along the last axis
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, dtype: Any = None,
                 device: Any = None):
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"RNN(nonlinearity={nonlinearity!r}): use 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype,
                         device=device)

    def _step(self, *args: Any) -> tuple:
        return (_tanh_step if self.nonlinearity == "tanh" else _relu_step)(*args)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); gates in the order input, forget, cell, output.

    The state is a pair (h, c). See RNN for the other arguments.
    """

    _gates, _states, _step = 4, 2, staticmethod(_lstm_step)


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al., 2014); gates in the order reset, update, new. See RNN for the arguments."""

    _gates, _step = 3, staticmethod(_gru_step)


class _Cell(Module):
    _gates = 1
    _states = 1
    _step: Any = staticmethod(_tanh_step)

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None, device: Any = None):
        who = type(self).__name__
        self.input_size, self.hidden_size = whole(who, "input_size", input_size), whole(who, "hidden_size", hidden_size)
        n, kw = self._gates * hidden_size, {"dtype": dtype, "device": device}
        self.weight_ih = Parameter(ag.empty(n, input_size, **kw))
        self.weight_hh = Parameter(ag.empty(n, hidden_size, **kw))
        self.bias_ih = Parameter(ag.empty(n, **kw)) if bias else None
        self.bias_hh = Parameter(ag.empty(n, **kw)) if bias else None
        bound = 1 / math.sqrt(hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, x: Any, hx: Any = None) -> Any:
        """The next state, from x (N, input_size) or (input_size,) and a state of N rows (zeros by default)."""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise bad_input(self, x, f"(N, {self.input_size}) or ({self.input_size},)")
        shape = (*x.shape[:-1], self.hidden_size)
        if hx is None:
            hx = ag.zeros(shape, dtype=x.dtype, device=x.device)
            state = (hx,) * self._states
        else:
            state = tuple(hx) if self._states > 1 else (hx,)
        if any(s.shape != shape for s in state):
            raise bad_input(self, state[0], f"{shape} for the state")
        out = self._step(ag.linear(x, self.weight_ih, self.bias_ih), state, self.weight_hh, self.bias_hh)
        return out if self._states > 1 else out[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step of an RNN."""


class LSTMCell(_Cell):
    """One step of an LSTM; the state is a pair (h, c)."""

    _gates, _states, _step = 4, 2, staticmethod(_lstm_step)


class GRUCell(_Cell):
    """One step of a GRU."""

    _gates, _step = 3, staticmethod(_gru_step)
