"""agog: eager-first machine learning in pure Python.

    import agog as ag

    x = ag.asarray([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = (x @ x).sum()
    y.backward()
    print(x.grad)

Operations come from one table (`agog.ops`); a name of this package is made when it is first used, so that importing
costs little more than importing NumPy.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from agog import config, errors, hints, tree
from agog._version import __version__
from agog.array import dtypes
from agog.array.dtypes import (  # noqa: F401
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from agog.config import set_num_threads, set_reproducible
from agog.errors import AgogError
from agog.interop import einops as _einops
from agog.ops.row import COMPOSITES, TABLE
from agog.tensor import Tensor, asarray, public

# NumPy reports log(0) and the like as warnings at the line that called it, which is ours. Infinity and NaN are what the
# standard says, not news; the filter is for warnings from agog's own modules alone.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"agog(\.|$)")

_SUBMODULES = ("autodiff", "compiler", "data", "fft", "graph", "io", "linalg", "nn", "optim", "random",
               "staging", "testing")
_FROM = {  # names that live in a room of their own, imported when first used
    "agog.autodiff.engine": ("no_grad", "enable_grad", "is_grad_enabled", "gradients"),
    "agog.autodiff.functional": ("grad", "value_and_grad", "vjp", "checkpoint", "stop_gradient"),
    "agog.autodiff.custom": ("custom_gradient", "custom_jvp"),
    "agog.autodiff.forward": ("jvp", "linearize"),
    "agog.autodiff.batching": ("vmap",),
    "agog.autodiff.jacobians": ("jacobian", "jacrev", "jacfwd", "hessian", "hvp"),
    "agog.control": ("cond", "while_loop", "scan", "print", "assert_", "callback"),
    "agog.random": ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "gumbel_softmax", "rand",
                    "randn", "randint", "randperm", "rand_like", "randn_like", "scaled_dot_product_attention"),
    "agog.staging.function": ("function", "eager", "Function"),
    "agog.staging.tracing": ("trace", "Spec"),
    "agog.namespace": ("broadcast_shapes", "can_cast", "result_type", "finfo", "iinfo", "isdtype", "from_dlpack",
                       "astype", "is_tensor", "set_default_float", "default_float", "tensor", "from_numpy",
                       "manual_seed", "arange", "zeros", "ones", "full", "empty", "linspace", "eye", "zeros_like",
                       "ones_like", "full_like", "empty_like", "__array_namespace_info__", "logspace", "tri",
                       "permute_dims", "reshape"),
}
_WHERE = {name: module for module, names in _FROM.items() for name in names}
_CONSTANTS = {"pi": 3.141592653589793, "e": 2.718281828459045, "inf": float("inf"), "nan": float("nan"),
              "newaxis": None}
__array_api_version__ = "2025.12"


_einops.watch()
globals().pop("tensor")  # the submodule; agog.tensor is the function of that name
globals().pop("array")  # the package, which has no public name: to a user of NumPy it is a function


def _load_compiler() -> None:
    eager = importlib.import_module("agog.compiler.eager")
    eager.enable()
    if config.reproducible:
        eager.settle()


config.load_compiler = _load_compiler
if config.reproducible and config.native:
    _load_compiler()


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:  # first: `fft` is a room, and a row in it
        return importlib.import_module(f"agog.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif not name.startswith("_") and (name in TABLE or name in COMPOSITES):
        value = public(name)
    elif name in _CONSTANTS:
        value = _CONSTANTS[name]
    elif name in ("bool", "bfloat16"):
        value = getattr(dtypes, name)
    else:
        raise hints.missing("agog", name, __dir__())
    globals()[name] = value
    return value


def _names() -> list[str]:
    rows = [n for n in (*TABLE, *COMPOSITES) if not n.startswith("_") and n not in ("index", "index_update")]
    own = ("annotations", "importlib", "warnings", "Any", "interop", "TABLE", "COMPOSITES", "public", "dtypes", "hints")
    fixed = [n for n in globals() if not n.startswith("_") and n not in own]
    names = {*rows, *fixed, *_WHERE, *_CONSTANTS, *_SUBMODULES, "bool", "bfloat16"}
    return sorted(names - {"__array_namespace_info__"})


def __dir__() -> list[str]:
    return [*_names(), "__version__", "__array_api_version__", "__array_namespace_info__"]


__all__ = [n for n in _names() if n not in ("annotations",)]
_ = (AgogError, Tensor, asarray, config, errors, set_num_threads, set_reproducible, tree, __version__)
