"""Every error that agog raises, one class per kind of mistake.

    AgogError
    ├── ShapeError(ValueError)         shapes that do not fit together
    ├── AxisError(ValueError, IndexError)  an axis that the array does not have
    ├── DTypeError(TypeError)          a dtype that the operation does not take
    ├── ArgumentError(ValueError)      any other argument with a value that makes no sense
    ├── ArgumentTypeError(TypeError)   an argument of the wrong Python type
    ├── IndexingError(IndexError)      an index outside the array, or of a kind that cannot index
    ├── DeviceError(RuntimeError)      a device that is not there, or arrays on different devices
    ├── GradientError(RuntimeError)    a gradient that does not exist or was already freed
    ├── OutOfMemoryError(MemoryError)  an array that cannot be allocated
    ├── StagingError(RuntimeError)     a function that cannot be staged, or a staged result that differs
    ├── MissingExtraError(ImportError) an optional dependency that is not installed
    ├── CheckpointError(RuntimeError)  a checkpoint that is damaged or belongs to another model
    ├── GraphError(RuntimeError)       a graph that breaks the rules of the grammar
    └── GuardFailed(RuntimeError)      a value is not what it was when the graph was recorded

Each is also the built-in exception that NumPy users expect, so `except ValueError` keeps working.
The message says what was given and what to write instead, and ends with the user's own line.
"""

from __future__ import annotations

import linecache
import os
import sys
import warnings
from typing import Any

_INSIDE = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<agog ")  # the package, and what it compiles


def user_frame(depth: int = 1) -> Any:
    """The innermost stack frame outside agog (a frame object), or None when everything is inside."""
    frame: Any = sys._getframe(depth)
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame


def user_line(depth: int = 1) -> str:
    """`file:line: source` of the innermost caller outside agog; '' if there is none."""
    frame = user_frame(depth + 1)
    if frame is None:
        return ""
    name, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(name, line).strip()
    return f"{name}:{line}" + (f": {source}" if source else "")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level if frame is not None else 2)


class AgogError(Exception):
    """The base of all of agog's errors."""

    def __init__(self, message: str = ""):
        where = user_line(2)
        super().__init__(f"{message}\n    at {where}" if where else message)


class ShapeError(AgogError, ValueError):
    """Shapes that do not fit together."""


class AxisError(AgogError, ValueError, IndexError):
    """An axis that the array does not have."""


class DTypeError(AgogError, TypeError):
    """A dtype that the operation does not take."""


class ArgumentError(AgogError, ValueError):
    """An argument whose value makes no sense here."""


class ArgumentTypeError(AgogError, TypeError):
    """An argument of the wrong Python type."""


class IndexingError(AgogError, IndexError):
    """An index outside the array, or of a kind that cannot index."""


class DeviceError(AgogError, RuntimeError):
    """A device that is not there, or arrays that live on different devices."""


class GradientError(AgogError, RuntimeError):
    """A gradient that does not exist, or whose graph was already freed."""


class OutOfMemoryError(AgogError, MemoryError):
    """An array that cannot be allocated; the process goes on."""


class StagingError(AgogError, RuntimeError):
    """A function that cannot be staged (strict=True), or a native result that is not the eager one (check=True)."""


class StagingWarning(UserWarning):
    """A staged function runs eagerly; said once, with the reason."""


class MissingExtraError(AgogError, ImportError):
    """An optional dependency that is not installed."""


class CheckpointError(AgogError, RuntimeError):
    """A checkpoint that is damaged, or that belongs to another model."""


class GraphError(AgogError, RuntimeError):
    """A graph that breaks the rules of the grammar, or text that is no graph."""


class GuardFailed(AgogError, RuntimeError):
    """A value is not what it was when the graph was recorded: this run does not count, the call must run eagerly."""
