"""Powers that are products: programs have no others for them."""

import numpy as np
import pytest

from agog.compiler.patterns import decomposed
from agog.compiler.program import compile
from agog.graph.build import build
from agog.ops.row import TABLE


def powers_left(graph):
    return [n for n in decomposed(graph)[0].nodes if n.op is TABLE["pow"]]


@pytest.mark.parametrize("power", [2, 3, 4, 1, -1, 2.0, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_power_is_no_power(power, dtype):
    graph = build(lambda x: [x ** power], ((6,), dtype))
    assert not powers_left(graph)
    x = np.array([-0.0, 0.0, -np.inf, np.nan, -1.7, 2.3], dtype)
    with np.errstate(all="ignore"):
        want = np.power(x, np.array(power, dtype))
    (got,) = compile(graph)([x])
    np.testing.assert_allclose(got, want, rtol=3 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(got[[0, 1, 2, 4, 5]]), np.signbit(want[[0, 1, 2, 4, 5]]))


@pytest.mark.parametrize("power, dtype", [(2, "int32"), (2, "float16"), (2, "bfloat16")])
def test_squares_of_other_dtypes(power, dtype):
    from agog.array import dtypes

    graph = build(lambda x: [x ** power], ((4,), dtypes.dtype(dtype)))
    assert not powers_left(graph)
    x = np.array([-3, 0, 2, 7]).astype(dtypes.dtype(dtype))
    (got,) = compile(graph)([x])
    assert got.dtype == x.dtype and got.astype(np.float64).tolist() == [9, 0, 4, 49]


@pytest.mark.parametrize("power", [0.5, 1.5, 5, -2])
def test_other_powers_stay(power):
    assert len(powers_left(build(lambda x: [x ** power], ((6,), "float32")))) == 1
