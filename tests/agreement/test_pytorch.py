"""Every operation that PyTorch has too agrees with it: values, dtypes, first and second derivatives.

The table (`elementwise`, `arrays`, `algebra`, `models` in this folder) says what each row and composite is called in
PyTorch, or why it is not compared; the tests are generated from it. Where agog means to differ, the table says where
and why, and everything around that is compared.

The comparisons need PyTorch and run with `make test-all`; that no operation is forgotten is tested everywhere.
"""

import itertools

import agreement.algebra
import agreement.arrays
import agreement.elementwise
import agreement.further
import agreement.models  # noqa: F401
import numpy as np
import pytest
from agreement.compare import Call, Missing, different
from agreement.inputs import dtypes_of, emptied, grid, kinds, layouts, planted, samples, scalars
from agreement.peer import EQUIVALENTS, EXCUSED, Equivalent, torch
from sampling import is_array, is_inexact

from agog.errors import AgogError
from agog.ops.row import COMPOSITES, TABLE

compares = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(torch is None, reason="PyTorch is not installed here"),
    pytest.mark.filterwarnings("ignore"),
]
KNOWN = set(TABLE) | set(COMPOSITES)  # before other tests add rows of their own
NAMES = sorted(EQUIVALENTS)
WITH_DTYPES = [pytest.param(n, d, id=f"{n}-{d}") for n in NAMES for d in dtypes_of(n)]
DIFFERENTIABLE = [
    p
    for p in WITH_DTYPES
    if np.dtype(p.values[1] if p.values[1] != "bfloat16" else "f2").kind in "fc" and EQUIVALENTS[p.values[0]].order
]
ELEMENTWISE = [
    p for p in WITH_DTYPES if EQUIVALENTS[p.values[0]].local or p.values[0] in TABLE and TABLE[p.values[0]].elementwise
]
OTHERS = [
    p
    for p in WITH_DTYPES
    if p not in ELEMENTWISE and not EQUIVALENTS[p.values[0]].fixed and not EQUIVALENTS[p.values[0]].plain
]


def marked(fn):
    for mark in compares:
        fn = mark(fn)
    return fn


def moderate(x):
    """Zero, infinite, nan, or of a size whose powers neither overflow nor vanish."""
    size = np.abs(x.astype(np.float64))
    return (size == 0) | ~np.isfinite(size) | (size > 1e-10) & (size < 1e10)


class Report:
    """Collects what differs over many calls, and says it in one failure."""

    def __init__(self, entry):
        self.entry, self.wrong, self.compared = entry, [], 0

    def excused(self, what, inputs, shape):
        """Which elements of a result of this shape may differ."""
        out = False
        for d in self.entry.differs:
            mask = np.asarray(d.mask(what, inputs))
            if mask.shape in ((), shape):
                out = out | mask
        return out

    def asked(self, what, lenient):
        """What PyTorch answers; Nones where it has no answer, or refuses what need not be taken."""
        try:
            return what()
        except Missing:
            pass
        except Exception:
            if not lenient:
                raise
        return None, None, None

    def add(self, call, note, derivatives=0, lenient=False, local=False, special=False):
        """Compare one call.

        lenient  agog may refuse what PyTorch makes something of, and the other way round
        special  there are infinities, nans and extremes among the inputs. Where PyTorch's derivative is nan, agog's may
                 be a number; a second derivative counts only where the first is no nan, and may be nan where PyTorch's
                 is infinite
        local    the results belong to the inputs element by element, and errors are measured so. A derivative counts
                 only where the value is no nan, a second one not where products of extreme numbers come into it
        """
        theirs, ours, *_ = self.asked(call.values, lenient)
        if theirs is None:
            return
        try:
            ours = ours()
        except AgogError as e:
            if not lenient:
                self.wrong.append(f"{note} {call.describe()}: agog raises {e!r}")
            return
        self.compared += 1
        error = self.entry.error
        found = [f"{len(ours)} results, PyTorch has {len(theirs)}"] if len(ours) != len(theirs) else []
        for k, (a, b) in enumerate(zip(ours, theirs)):
            if a.dtype != b.dtype and not (self.entry.promotes and all(not is_inexact(x) for x in call.arrays)):
                found.append(f"values: {a.dtype}, PyTorch has {b.dtype}")
                continue
            excused = self.excused("values", call.inputs, a.shape)
            if local:
                excused = excused | (a == 0) & (b == 0) & self.excused("sign of zero", call.inputs, a.shape)
            size = (
                0
                if local or special
                else max([np.abs(x).max(initial=0) for x in call.arrays if is_inexact(x)], default=0)
            )
            found.append(different(a, b, error, f"values {k or ''}", excused, local=local, zeros=local, floor=size))
        pulled, mine, active = (
            self.asked(lambda: call.derivatives(derivatives), lenient)
            if derivatives and not any(found)
            else (None, None, ())
        )
        if pulled is not None:
            unclear = np.isnan(theirs[0]) if local or special and not theirs[0].shape else False
            for order, (gradients, other) in enumerate(zip(mine(), pulled)):
                what = ("first", "second")[order]
                for i, (a, b) in enumerate(zip(gradients, other)):
                    excused = self.excused(what, call.inputs, a.shape)
                    if special:
                        excused = excused | unclear | np.isnan(b)
                        if order or not local:
                            excused = excused | ~np.isfinite(a) & ~np.isfinite(b)
                    found.append(
                        different(
                            a, b, error, f"{what} derivative by array {i}", excused, (4, 32)[order], local, floor=1.0
                        )
                    )
                for x, b in zip(active, other):
                    if local:
                        unclear = unclear | np.isnan(b) | ~moderate(x)
                    elif special:
                        unclear = unclear or bool(np.isnan(b).any())
        self.wrong += [f"{note} {call.describe()}: {f}" for f in found if f]

    def done(self, required=False):
        """Fail if anything differs; or if nothing was compared, though it had to be."""
        if self.wrong:
            pytest.fail(
                f"{self.entry.name}: {len(self.wrong)} differences\n" + "\n".join(self.wrong[:12]), pytrace=False
            )
        if not self.compared:
            assert not required, "nothing was compared"
            pytest.skip("PyTorch does not have it for this dtype")


REQUIRED = ("float32", "float64")  # PyTorch has everything for these


@marked
@pytest.mark.parametrize("name, dtype", WITH_DTYPES)
def test_values(name, dtype):
    """Values, shapes and dtypes of the samples; of samples that are empty or 0-d where PyTorch takes them."""
    compare_samples(name, dtype, 0)


@marked
@pytest.mark.parametrize("name, dtype", DIFFERENTIABLE)
def test_derivatives(name, dtype):
    compare_samples(name, dtype, EQUIVALENTS[name].order)


def compare_samples(name, dtype, derivatives):
    entry = EQUIVALENTS[name]
    report = Report(entry)
    for inputs, statics in samples(name, dtype):
        # what a composite does not take is only known by asking
        report.add(Call(entry, inputs, statics), "", derivatives, lenient=name not in TABLE and dtype not in REQUIRED)
        for note, derived in itertools.chain(() if entry.sized else emptied(inputs), scalars(inputs)):
            report.add(Call(entry, derived, statics), note, derivatives, lenient=True)
    report.done(dtype in REQUIRED)


@marked
@pytest.mark.parametrize("name", NAMES)
def test_layouts(name):
    """Strided, reversed, transposed and broadcast inputs: values and both derivatives."""
    entry = EQUIVALENTS[name]
    dtype = next(d for d in ("float64", "complex128", "int64", "bool") if d in dtypes_of(name))
    report = Report(entry)
    for inputs, statics in samples(name, dtype):
        for note, moved in layouts(inputs, entry.fixed):
            report.add(Call(entry, moved, statics), note, entry.order)
    report.done(True)


@marked
@pytest.mark.parametrize("name, dtype", ELEMENTWISE)
def test_special_values(name, dtype):
    """Every combination of infinities, nans, zeros of both signs, subnormals and extremes, and ties."""
    entry = EQUIVALENTS[name]
    report = Report(entry)
    inputs, statics = samples(name, dtype)[0]
    places = [i for i, x in enumerate(inputs) if is_array(x)]
    values = dict(zip(places, grid(len(places), dtype)))
    for i, x in values.items():
        if inputs[i].dtype == bool:
            values[i] = x != 0
    given = [values.get(i, x) for i, x in enumerate(inputs)]
    shape = values[places[0]].shape
    refused = np.broadcast_to(report.excused("inputs", given, shape), shape)
    given = [x[~refused] if is_array(x) else x for x in given]
    derivatives = entry.order if dtype in REQUIRED else 0
    report.add(Call(entry, given, statics), "", derivatives, local=True, special=True)
    report.done(dtype in REQUIRED)


@marked
@pytest.mark.parametrize("name, dtype", [p for p in OTHERS if p.values[1] in (*REQUIRED, "bfloat16")])
def test_planted_values(name, dtype):
    """The samples with nans, infinities, zeros or ties among their elements."""
    entry = EQUIVALENTS[name]
    report = Report(entry)
    derivatives = entry.order if dtype in REQUIRED else 0
    for seed, (inputs, statics) in enumerate(samples(name, dtype)):
        for note, changed in planted(inputs, seed, entry.plant):
            report.add(Call(entry, changed, statics), note, derivatives, special=True)
    report.done(dtype in REQUIRED)


MIXED = [
    ("bool", "int32"),
    ("int8", "int64"),
    ("uint8", "int8"),
    ("uint8", "int16"),
    ("int64", "float32"),
    ("int32", "float16"),
    ("uint8", "bfloat16"),
    ("bool", "float64"),
    ("float16", "bfloat16"),
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("float32", "float64"),
    ("float32", "complex64"),
    ("float64", "complex64"),
    ("int32", "complex64"),
    ("complex64", "complex128"),
]
BINARY = [
    p for p in NAMES if p in TABLE and TABLE[p].elementwise and len(TABLE[p].promotes) == len(TABLE[p].inputs) == 2
]


@marked
@pytest.mark.parametrize("name", BINARY)
def test_mixed_dtypes(name):
    """Two inputs of different dtypes, either way round: the dtype of the result and its values."""
    entry = EQUIVALENTS[name]
    report = Report(entry)
    for pair in MIXED:
        if all(np.dtype(d if d != "bfloat16" else "f2").kind.replace("u", "i") in kinds(name) for d in pair):
            for one, two in (pair, pair[::-1]):
                (x, _), statics = samples(name, one)[0]
                report.add(Call(entry, (x, samples(name, two)[0][0][1]), statics), "")
    report.done()


@marked
def test_the_comparison_sees_what_differs():
    """Wrong values, dtypes, shapes, first and second derivatives are found."""
    x = np.linspace(0.2, 2, 7)
    for wrong, what in {
        lambda x: torch.sin(x) + 1e-9: "values",
        lambda x: torch.sin(x).float(): "values: float64",
        lambda x: torch.sin(x)[None]: "shape",
        lambda x: torch.sin(x).detach() + 0.0 * x: "first derivative",
        lambda x: x * torch.cos(x).detach() + (torch.sin(x) - x * torch.cos(x)).detach(): "second derivative",
        lambda x: (torch.sin(x), x): "results",
    }.items():
        report = Report(Equivalent("sin", wrong))
        report.add(Call(report.entry, (x,), {}), "", 2)
        assert report.wrong and what in report.wrong[0], report.wrong


# ------------------------------------------------------------------------------------------------------- completeness
def test_every_operation_is_compared_or_excused():
    """A new row or composite must be mapped to PyTorch's or excused, with a reason."""
    assert KNOWN - set(EQUIVALENTS) - set(EXCUSED) == set(), "say in tests/agreement what these are in PyTorch"
    assert (set(EQUIVALENTS) | set(EXCUSED)) - KNOWN == set(), "the table names operations that agog does not have"
    for name, entry in EQUIVALENTS.items():
        assert all([*entry.skip.values(), *(d.reason for d in entry.differs)]), f"{name}: a difference without a reason"
        assert entry.order == 2 or entry.why, f"{name}: says no reason for order={entry.order}"
