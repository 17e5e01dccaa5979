"""Staging: `@agog.function` records a function while it runs, and calls native code from then on."""

from agog.staging.function import Function, eager, function

__all__ = ["Function", "eager", "function"]
