"""Errors: the right class, the user's line, the given shapes and names, and what to write instead."""

import inspect

import numpy as np
import pytest

import agog as ag
from agog import errors


def line_of(fn):
    """The number of the line that raises: the first of a one-line function."""
    return inspect.getsourcelines(fn)[1]


CASES = [
    (lambda: ag.ones(3, 4) + ag.ones(5), errors.ShapeError, ["add", "float32[3, 4]", "float32[5]", "broadcast"]),
    (lambda: ag.ones(3, 4) @ ag.ones(3, 4), errors.ShapeError, ["matmul", "3, 4"]),
    (lambda: ag.ones(2, 3).sum(axis=2), errors.AxisError, ["axis=2", "float32[2, 3]"]),
    (lambda: ag.ones(2, 3).reshape(7), errors.ShapeError, ["reshape", "7"]),
    (lambda: ag.concat([ag.ones(2, 3), ag.ones(2, 4)], axis=0), errors.ShapeError, ["concat"]),
    (lambda: ag.ones(3)[5], errors.IndexingError, ["5", "3"]),
    (lambda: ag.ones(3)["a"], IndexError, []),
    (lambda: ag.take(ag.ones(3), ag.asarray([7])), errors.IndexingError, ["7"]),
    (lambda: ag.bitwise_and(ag.ones(2), ag.ones(2)), errors.DTypeError, ["bitwise_and", "float32"]),
    (lambda: ag.exp("a"), errors.ArgumentTypeError, ["exp", "str", "asarray"]),
    (lambda: ag.zeros(-1), errors.ShapeError, ["-1"]),
    (lambda: ag.zeros(2, dtype="int33"), errors.ArgumentTypeError, ["int33", "float32"]),
    (lambda: ag.linalg.cholesky(-ag.eye(3)), ValueError, []),
    (lambda: ag.linalg.inv(ag.ones(2, 3)), errors.ShapeError, ["2, 3"]),
    (lambda: ag.cross_entropy(ag.ones(2, 3), ag.asarray([0, 5])), errors.IndexingError, ["5", "3"]),
    (lambda: ag.conv2d(ag.ones(1, 2, 5, 5), ag.ones(4, 3, 3, 3)), errors.ShapeError, ["conv"]),
    (lambda: ag.ones(2).backward(), errors.GradientError, ["requires_grad"]),
    (lambda: ag.grad(lambda x: x * 2)(ag.ones(3)), errors.GradientError, ["scalar", "(3,)"]),
    (lambda: ag.grad(lambda x: None)(ag.ones(3)), errors.GradientError, ["nothing"]),
    (lambda: ag.grad(lambda x: x.sum(), argnums=3)(ag.ones(3)), errors.ArgumentError, ["argnums=3"]),
    (lambda: ag.grad(lambda x: x.sum())(ag.asarray([1, 2])), TypeError, ["int64"]),
    (lambda: ag.vmap(lambda x, y: x)(ag.ones(2), ag.ones(3)), errors.ShapeError, ["2", "3"]),
    (lambda: ag.vmap(lambda x: x)(ag.asarray(1.0)), errors.AxisError, ["in_axes"]),
    (lambda: ag.jvp(lambda x: x, (ag.ones(2),), (ag.ones(3),)), errors.ShapeError, ["tangent"]),
    (lambda: ag.random.seed(-1), errors.ArgumentError, ["seed"]),
    (lambda: ag.set_num_threads(0), errors.ArgumentError, ["0"]),
    (lambda: ag.set_default_float("int32"), errors.DTypeError, ["int32"]),
    (lambda: ag.finfo("int32"), errors.DTypeError, ["iinfo"]),
]


@pytest.mark.parametrize(("call", "error", "words"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_errors_teach(call, error, words):
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text, text
    if isinstance(caught.value, errors.AgogError):
        assert __file__ in text, text
        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, Exception)


def test_the_users_line_is_named():
    def wrong():
        return ag.ones(2) + ag.ones(3)

    with pytest.raises(errors.ShapeError) as caught:
        wrong()
    assert f"{__file__}:{line_of(wrong) + 1}: return ag.ones(2) + ag.ones(3)" in str(caught.value)


def test_errors_are_the_builtin_ones_too():
    for cls, builtin in ((errors.ShapeError, ValueError), (errors.AxisError, IndexError),
                         (errors.DTypeError, TypeError), (errors.IndexingError, IndexError),
                         (errors.GradientError, RuntimeError),
                         (errors.OutOfMemoryError, MemoryError), (errors.MissingExtraError, ImportError)):
        assert issubclass(cls, builtin) and issubclass(cls, errors.AgogError)


def test_the_tree_at_the_top_of_the_file_is_complete():
    for name, cls in vars(errors).items():
        if isinstance(cls, type) and issubclass(cls, errors.AgogError) and cls is not errors.AgogError:
            assert name in errors.__doc__, f"{name} is missing from the drawing in errors.py"


def test_numpy_sees_no_warnings_from_us():
    with np.errstate(all="warn"):
        ag.asarray([0.0]).log()
        ag.asarray([1.0]) / 0.0
        ag.asarray([1e38]) * 1e38
