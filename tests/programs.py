"""Random programs, as Python text, and the worlds that they run in: eagerly, staged, staged without native code.

A program is a function: operations on arguments of random shapes and dtypes, Python's control flow on values, mutation
of whatever it can reach, gradients, random numbers. It is called several times; between the calls values, shapes,
globals, attributes and modes change. Afterwards everything that can be seen is compared: results, arguments, the state
around, which Tensors are one and the same, what was delivered, what was raised, and results of earlier calls.

It is written statement by statement, and a statement that raises, or whose values grow large, is left out. Values are
halves of small whole numbers at first; statements that jump (comparisons, rounding, sorting) read only values without
rounding error, so that no difference of an ulp is blown up, and the allowed error is one of rounding.
"""

import contextlib
import copy
import functools
import itertools
import linecache
import random
import warnings

import numpy as np
from program_words import EXACT, PRELUDE, ROUNDED, STATE, events, statement

import agog as ag
from agog import config

SHAPES = [(), (1,), (3,), (3,), (2, 3), (2, 3), (1, 3), (2, 1), (0, 3), (2, 2, 3), (4, 17)]
DTYPES = ["float32"] * 8 + ["float64", "int64", "int32", "bool", "bfloat16", "uint8", "float16", "int8", "complex64",
                            "complex128", "uint32", "int16"]
LARGEST = 64.0
OPERATIONS = 5_000  # that one call of a program may take
CALLS = 6
INEXACT = ("bfloat16", "float16", "complex64", "complex128")


class Program:
    """Statements (lists of lines), what they return, and the calls: (statements before, seed, how)."""

    def __init__(self, seed):
        self.seed = seed
        self.shapes, self.dtypes, self.statements, self.returns = [], [], [], "None"
        self.extra = {}  # parameters that are no Tensors: name -> values to choose from
        self.grad, self.back, self.calls = None, "sum", []

    @property
    def parameters(self):
        return [*[f"x{i}" for i in range(len(self.shapes))], *self.extra]

    def text(self, last=None):
        lines = [line for s in self.statements for line in s]
        lines.sort(key=lambda line: not line.startswith("global "))  # (nothing may use the name before)
        lines = [line for i, line in enumerate(lines) if not line.startswith("global ") or line not in lines[:i]]
        return "\n".join([f"def f({', '.join(self.parameters)}):", *["    " + line for line in lines],
                          f"    return {self.returns if last is None else last}", ""])

    def arguments(self, seed):
        """Tensors and other values of one call."""
        rng = np.random.default_rng(seed)
        out = []
        for shape, dtype in zip(self.shapes, self.dtypes):
            low = 0 if dtype == "bool" or dtype.startswith("uint") else -6
            x = rng.integers(low, 2 if dtype == "bool" else 7, shape)
            if dtype.startswith("complex"):
                x = x + 1j * rng.integers(-6, 7, shape)
            x = x / 2 if "float" in dtype or "complex" in dtype else x
            out.append(ag.asarray(np.asarray(x)).astype(dtype))
        for name, values in self.extra.items():
            x = values[rng.integers(len(values))]
            if name == "q":
                u, v = (ag.asarray(rng.integers(-4, 5, n).astype("f4")) for n in (3, (2, 3)))
                x = {"u": u, "v": [v, [0.5, 2.0][rng.integers(2)]]}
            out.append(x.copy() if isinstance(x, np.ndarray) else x)
        return out

    def __str__(self):
        calls = "\n".join(f"#   {'; '.join(before) or '-'} | arguments {s} {how}" for before, s, how in self.calls)
        given = list(zip(self.dtypes, self.shapes))
        return (f"# seed {self.seed}: {given}, gradients {self.grad} {self.back}\n{calls}\n"
                + self.text())


# --------------------------------------------------------------------------------------------------------- writing
@contextlib.contextmanager
def _bounded():
    """A program that goes on and on is none: a loop may not end for what was written into it."""
    left = itertools.count(OPERATIONS, -1)

    def count(op, inputs, outputs):
        if next(left) < 0:
            raise ValueError("no end")

    remove = config.add_op_hook(count)
    try:
        yield
    finally:
        remove()


class Writer:
    """Writes one program while it runs it."""

    def __init__(self, seed):
        self.r = r = random.Random(seed)
        self.p = p = Program(seed)
        self.names, self.exact, self.numbers = [], {}, ["k", "2", "0.5", "-1", "3", "s.scale"]
        for _ in range(r.randint(1, 3)):
            p.shapes.append(r.choice(SHAPES))
            p.dtypes.append(r.choice(DTYPES))
        if r.random() < 0.3:
            p.extra["r"] = [0.5, 1.5, -2.0, 0.25]
            self.numbers += ["r", "(1 - r)"]
        if r.random() < 0.2:
            p.extra["n"] = [0, 1, 2]
            self.numbers += ["n"]
        if r.random() < 0.1:
            p.extra["z"] = [np.array([1.0, 2.0, -0.5], "f4"), np.array([0.5, -3.0, 2.0], "f4")]
        if r.random() < 0.15:
            p.extra["q"] = [None]
            self.numbers += ["q['v'][1]"]
        p.grad = r.choice([None] * 6 + ["clones", "leaves", "leaves"])
        p.back = r.choice(["sum", "sum", "first", "each"])
        self.seeds = [r.randrange(1 << 30) for _ in range(3)]
        touched = r.random() < 0.5  # whether the state outside changes: then it does not stay without rounding error
        for i, _x in enumerate(p.arguments(self.seeds[0])[: len(p.shapes)]):
            self.add(f"x{i}", p.dtypes[i] not in INEXACT)
        for name in r.sample(STATE, r.randint(1, 4)):
            self.add(name, not touched)
        self.touched = touched
        for _ in range(r.randint(3, 13)):
            statement(self)
        self.finish()

    def add(self, name, exact):
        if name not in self.names:
            self.names.append(name)
        self.exact[name] = exact

    def fresh(self):
        return f"v{sum(n.startswith('v') for n in self.names) + len(self.p.statements)}"

    def pick(self, exact=False):
        names = [n for n in self.names if self.exact[n]] if exact else self.names
        if not names:
            return None
        return self.r.choice(names[-5:] if self.r.random() < 0.6 else names)

    def number(self):
        return self.r.choice(self.numbers)

    def expression(self, exact=None):
        """(text, exact) of a random operation; `exact`: it must be without rounding error."""
        r = self.r
        chosen = r.random() < 0.6 if exact is None else exact
        table = EXACT if chosen else ROUNDED
        template = r.choices(list(table), list(table.values()))[0]
        a, b = self.pick(chosen), self.pick(chosen)
        if a is None:
            return "x0", False
        return template.format(a=a, b=b, k=self.number()), chosen

    def try_(self, lines, target=None, exact=False):
        """Keep the lines when they run in two calls, and leave small finite values."""
        p = self.p
        p.statements.append(lines)
        ran = False
        try:
            env = world_of(p, "locals()")
            for seed in self.seeds[:2]:
                with np.errstate(all="ignore"), _bounded():
                    found = env["f"](*p.arguments(seed))
                values = [found[target]] if target in found else []
                values += [found[n] for n in p.parameters if n in found]
                for value in [*values, *[eval(n, env) for n in STATE]]:
                    if isinstance(value, ag.Tensor):
                        data = np.asarray(value.detach())
                        data = np.abs(data.astype(np.complex128))
                        if data.size > 300 or not np.isfinite(data).all() or (data > LARGEST).any():
                            raise ValueError
                if target is not None and target in found:
                    ran = isinstance(found[target], ag.Tensor)
                    exact = exact and ran and _dyadic(found[target])
            if target is not None and not ran:
                raise ValueError
        except Exception:
            p.statements.pop()
            return False
        if target is not None:
            self.add(target, exact)
        return True

    def finish(self):
        """What the program returns, an early return perhaps, and the calls."""
        r, p = self.r, self.p
        names = [n for n in self.names[-5:] if n[0] in "vx"] or ["x0"]
        p.returns = self.form(names)
        if r.random() < 0.2 and p.statements:
            at = r.randrange(len(p.statements))
            c = [n for n in self.names if n[0] in "x" and self.exact[n]]
            if c:
                known = [n for n in names if n[0] == "x"] or ["x0"]
                what = f"return {self.form(known)}" if r.random() < 0.7 else "raise ValueError('no')"
                p.statements.insert(at, [f"if {r.choice(c)}.sum() > {r.randint(-2, 4)}:", f"    {what}"])
        seeds = iter([0, 0, 1, 2, 1, 2, 0])
        for i in range(CALLS):
            before = events(self) if i > 1 and r.random() < 0.45 else []
            ways = [*[""] * 7, "alias", "shape", "no_grad", "eager", "w", "dtype", "grad", "jvp"]
            how = "" if i < 2 else r.choice(ways)
            p.calls.append((before, self.seeds[next(seeds)], how))

    def form(self, names):
        r = self.r
        pick = lambda: r.choice(names)
        if r.random() < 0.3:
            names = [*names, r.choice(names) + " * k", "s.h", "w"]
        every = lambda: "(" + "".join(f"{n}, " for n in names[-5:]) + ")"
        return r.choice([
            every, every, every,
            lambda: pick(),
            lambda: f"[{pick()}, {pick()}]",
            lambda: f"{{'a': {pick()}, 'b': ({pick()}, 3, None)}}",
            lambda: f"({pick()}, [{pick()}], {{'c': 'text', 'd': {pick()}}})",
            lambda: f"{pick()}, k, s.scale",
        ])()


def _dyadic(x):
    """Whether a value leaves room for sums and products without rounding error."""
    data = np.asarray(x.detach())
    if data.dtype.kind in "biu":
        return True
    if data.dtype.name in INEXACT:
        return False
    data = data.astype(np.float64) * 64
    return bool((data == np.round(data)).all())


def written(seed):
    """The program with this number."""
    return Writer(seed).p


# --------------------------------------------------------------------------------------------------------- worlds
def world_of(p, last=None):
    """The globals of a fresh world in which the program is defined."""
    env = {"ag": ag, "np": np, "__name__": f"program_{p.seed}"}
    exec(_PRELUDE, env)
    ag.random.seed(7)
    text = p.text(last)
    name = f"<program {p.seed}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)  # so that staging finds the source
    exec(compile(text, name, "exec"), env)
    return env


_PRELUDE = compile(PRELUDE, "<world of a program>", "exec")
linecache.cache["<world of a program>"] = (len(PRELUDE), None, PRELUDE.splitlines(True), "<world of a program>")


def run(p, stage):
    """One world: what can be seen after each call, and the staged function."""
    env = world_of(p)
    env["stage"](stage)
    f = stage(env["f"])
    seen, results = [], []
    for before, seed, how in p.calls:
        for line in before:
            try:
                exec(line, env)
            except Exception as error:  # (a Tensor with a history cannot be assigned)
                env["log"].append(type(error).__name__)
        args = arguments(p, env, seed, how, seen)
        given = args
        if p.grad is not None:
            args = [x.requires_grad_() if _inexact(x) and x is not env["w"] else x for x in args]
            given = [x.clone() if _inexact(x) else x for x in args] if p.grad == "clones" else args
        given, by_name = _split(p, env["f"], given)
        context = {"no_grad": ag.no_grad, "eager": ag.eager}.get(how)
        try:
            if how in ("grad", "jvp"):
                out = transformed(how, f, given, by_name)
            elif context is None:
                out = f(*given, **by_name)
            else:
                with context():
                    out = f(*given, **by_name)
            results.append(out)
            if p.grad is not None and how != "no_grad":
                roots = [y for y in ag.tree.leaves(out) if isinstance(y, ag.Tensor) and y.requires_grad]
                roots = list({id(y): y for y in roots}.values())
                sums = [(y.abs() if "complex" in str(y.dtype) else y).astype("float64").sum() for y in roots]
                for total in {"sum": [sum(sums)] if sums else [], "first": sums[:1], "each": sums}[p.back]:
                    total.backward()
        except Exception as error:
            out = type(error).__name__
        draw = _Picture()
        state = {n: env[n] for n in ("k", "w", "p", "m", "bn", "log", "s", "g")}
        seen.append(draw([out, args, given, by_name, state]))
        env["log"].clear()
    seen.append(_Picture()([results, ag.random.normal((2,))]))  # what earlier calls gave, now
    return seen, f


def _split(p, f, args):
    """Some of the arguments by position, and the rest by name."""
    names = f.__code__.co_varnames[: f.__code__.co_argcount]
    count = max(1, len(args) - p.seed % 4)
    return args[:count], dict(zip(names[count:], args[count:]))


def transformed(how, f, args, by_name):
    """The gradient, or the derivative along ones, of the sum of what a call returns, by the first argument."""

    def total(x):
        found = [y for y in ag.tree.leaves(f(x, *args[1:], **by_name)) if _inexact(y)]
        return sum([(y.abs() if "complex" in str(y.dtype) else y).astype("float64").sum() for y in found])

    if how == "grad":
        return ag.value_and_grad(total)(args[0])
    return ag.jvp(total, (args[0],), (args[0] * 0 + 1,))


def arguments(p, env, seed, how, seen):
    args = p.arguments(seed)
    count = len(p.shapes)
    if how == "alias" and count > 1:
        args[1] = args[0]
    elif how == "w":
        args[0] = env["w"]
    elif how == "shape":
        other = copy.copy(p)
        other.shapes = [p.shapes[0], *[s[::-1] if s != (3,) else (5,) for s in p.shapes[1:]]]
        if count == 1 or seed % 2:
            other.shapes[0] = p.shapes[0][::-1] if p.shapes[0] != (3,) else (5,)
        args = other.arguments(seed)
    elif how == "dtype":
        args[0] = args[0].astype("float64" if p.dtypes[0] != "float64" else "float32")
    return args


def _inexact(x):
    return isinstance(x, ag.Tensor) and ("float" in str(x.dtype) or "complex" in str(x.dtype))


class _Picture:
    """What can be seen of values: their structure, dtypes, shapes and elements, and which Tensors are the same."""

    def __init__(self):
        self.known, self.keep = {}, []

    def __call__(self, x):
        if isinstance(x, ag.Tensor):
            if id(x) in self.known:
                return ("again", self.known[id(x)])
            self.known[id(x)] = len(self.known)
            self.keep.append(x)
            grad = None if x.grad is None else self(x.grad)
            return {"type": type(x).__name__, "dtype": str(x.dtype), "requires_grad": x.requires_grad, "grad": grad,
                    "data": np.array(x.detach())}
        if isinstance(x, list | tuple):
            return [type(x).__name__, *map(self, x)]
        if isinstance(x, dict):
            return ["dict", *[[k, self(v)] for k, v in x.items()]]
        if isinstance(x, np.ndarray):
            return x.copy()
        if type(x).__name__ in ("Box", "Pair"):
            return [type(x).__name__, self(vars(x))]
        if isinstance(x, ag.nn.Module):
            return ["module", self(dict(x.named_parameters())), self(dict(x.named_buffers())), self(x.training)]
        return [type(x).__name__, repr(x)]


ROUNDING = {"bfloat16": 5e-2, "float16": 5e-2, "complex128": 1e-4}  # (float64 may hold what was computed in float32)


def same(a, b, where):
    """Raise AssertionError where two pictures differ by more than rounding."""
    assert type(a) is type(b), f"{where}: {a} and {b}"
    if isinstance(a, list) and a and a[0] in ("float", "complex") and b and b[0] == a[0]:
        _close(np.array(complex(a[1])), np.array(complex(b[1])), where, "float32")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), f"{where}: {a} and {b}"
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{where}.{x[0] if isinstance(x, list) and x and isinstance(x[0], str) else i}")
    elif isinstance(a, dict):
        for key in a:
            if key != "data":
                same(a[key], b[key], f"{where}.{key}")
        _close(a["data"], b["data"], where, a["dtype"])
    elif isinstance(a, np.ndarray):
        _close(a, b, where, str(a.dtype))
    else:
        assert a == b, f"{where}: {a} and {b}"


def _close(a, b, where, dtype):
    assert a.shape == b.shape and a.dtype == b.dtype, f"{where}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    if a.dtype.kind in "biu":
        np.testing.assert_array_equal(b, a, err_msg=where)
        return
    rounding = ROUNDING.get(dtype, 1e-4)
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        size = max([1.0, *np.abs(a[np.isfinite(a)]).ravel().tolist()])
    np.testing.assert_allclose(b, a, rtol=rounding, atol=rounding * 4 * size, err_msg=where)


# ------------------------------------------------------------------------------------------------------- comparing
WORLDS = ("native", "interpreted")  # and every fifth program with check=True


def check(program, worlds=None):
    """Raise AssertionError where a program does not do the same staged; the staged function of the last world."""
    f = None
    if worlds is None:
        worlds = ("checked", *WORLDS) if program.seed % 5 == 0 else WORLDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, _ = run(program, lambda f: f)
        before = config.native
        for what in worlds:
            config.native = what != "interpreted"
            try:
                staged, f = run(program, functools.partial(ag.function, check=what == "checked"))
            except AssertionError as error:
                raise AssertionError(f"{what}: {error}\n{program}") from None
            finally:
                config.native = before
            for i, (a, b) in enumerate(zip(plain, staged)):
                try:
                    same(a, b, f"call {i}")
                except AssertionError as error:
                    raise AssertionError(f"{what}: {error}\n{program}") from None
    linecache.cache.pop(f"<program {program.seed}>", None)
    return f


def minimised(program):
    """The program without whatever does not matter for its being wrong."""
    def wrong(candidate):
        try:
            check(candidate)
        except AssertionError:
            return True
        except Exception:
            return False
        return False

    def attempts(p):
        for i in reversed(range(len(p.statements))):
            q = copy.deepcopy(p)
            del q.statements[i]
            yield q
        for i in reversed(range(len(p.calls))):
            q = copy.deepcopy(p)
            del q.calls[i]
            yield q
            if p.calls[i][0]:
                q = copy.deepcopy(p)
                q.calls[i] = ([], *p.calls[i][1:])
                yield q
            if p.calls[i][2]:
                q = copy.deepcopy(p)
                q.calls[i] = (*p.calls[i][:2], "")
                yield q
        for i, s in enumerate(p.statements):
            for j in reversed(range(len(s))) if len(s) > 1 else ():
                q = copy.deepcopy(p)
                del q.statements[i][j]
                yield q
        if p.grad:
            q = copy.deepcopy(p)
            q.grad = None
            yield q

    while True:
        found = next((q for q in attempts(program) if wrong(q)), None)
        if found is None:
            return program
        program = found
