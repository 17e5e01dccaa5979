"""One native function for a run of units: nests, products, guards.

It is given the addresses of its arrays (inputs, then results), and an arena for the values that live inside only.
"""

import ctypes
import functools
import math

from agog.compiler import contractions, control, entry, epilogues, gemm, jit, natives, pool, products, targets
from agog.compiler.gemm_kernels import FIELDS
from agog.compiler.ir import FLOATS, Module
from agog.compiler.kernel import Kernel
from agog.compiler.lowering import Call, Matmul, ScatterAdd
from agog.compiler.memory import plan
from agog.compiler.nestplan import LINE
from agog.compiler.nests import NestCode
from agog.compiler.parts import PartedNest
from agog.compiler.schedule import Group, nest_of
from agog.compiler.targets import HALVES, ITEMSIZE
from agog.compiler.values import Buffer, contiguous, count, merged, resolve

__all__ = ["Segment"]

_PARALLEL = 1 << 21  # instructions times elements from which threads pay
_CHUNK = 1 << 19
_BUSY = 1 << 24  # work of all steps from which the threads are taken to be awake already: then less pays
_PIECES = 4  # at least so many chunks
_STREAM_BYTES = 32 << 20  # bytes from which a nest stores around the caches where the last one's size is not known
_STREAM_CHUNK = 1 << 17  # bytes of a chunk of such a nest
_AWAKE = 1 << 13  # instructions, of vectors, from which threads that are awake pay in a long program
_ALONE = 1 << 15  # the same for one of its own
_INLINE = 1 << 19  # multiplications up to which a product is written out for its sizes


class Segment:
    """Emits the function of `units`. `arrays` are the roots that are NumPy arrays, in the order of the arguments."""

    def __init__(self, target, functions, needed, links, threads=True, profile=False):
        self.target, self.functions, self.needed, self.links = target, functions, needed, links
        self.module = Module(target)
        self.threads, self.profile = threads, profile
        self.names, self.work, self.texts, self.notes = {}, 0, [], []
        self.recipes = {}  # of the imports: see `natives.function`
        self.nests, self.planned = {}, {}
        self.units, self.at = [], 0  # what is being prepared, and where in it
        self.taken = set()  # groups that run with the product before them

    # ------------------------------------------------------------------------------------------------ building
    def build(self, units, arrays, constants):
        """Emit everything. `arrays`: roots that Python gives; `constants`: roots known beforehand."""
        self.arrays, self.constants = list(arrays), list(constants)
        self.place = {root: ("array", i) for i, root in enumerate(self.arrays)}
        self.place |= {root: ("constant", i) for i, root in enumerate(self.constants)}
        self.busy = sum(map(self._estimate, units)) >= _BUSY
        prepared = self.sequence(units)
        self._plan(prepared)
        k = self.k = Kernel(
            self.module, "run", [("slots", "ptr"), ("arena", "ptr"), ("constants", "ptr")], "int64"
        )
        slots, arena, constants = k.arguments
        self.status = None
        if any(p[2] for p in prepared):
            self.status = k.alloca(8, 8)
            k.store(k.const(0, "int64"), self.status)
        self.pointers = {}

        def pointer(root):
            if root not in self.pointers:
                kind, at = self.place[root]
                if kind == "arena":
                    self.pointers[root] = k.offset(arena, at)
                else:
                    self.pointers[root] = k.load(k.at(slots if kind == "array" else constants, at, "ptr"), "ptr")
            return self.pointers[root]

        roots = {r: None for p in prepared for r in p[1]}
        for root in roots:
            pointer(root)
        if self.profile:
            self.module.globals["cycles"] = f"@cycles = global [{max(1, len(prepared))} x i64] zeroinitializer"
        for number, (emit, roots, fails) in enumerate(prepared):
            before = self._clock() if self.profile else None
            emit([self.pointers[r] for r in roots])
            if self.profile:
                place = k.at(k.symbol("@cycles"), number, "int64")
                k.store(k.add(k.load(place, "int64"), k.sub(self._clock(), before)), place)
            if fails:
                seen = k.load(self.status, "int64")
                self._leave_if(k.ne(seen, 0), seen)
        k.ret(k.const(0, "int64"))
        k.finish()

    def _clock(self):
        return self.k.call("llvm.readcyclecounter", "int64")

    def _leave_if(self, bad, code):
        k = self.k
        stop, further = k.label(), k.label()
        k.emit(f"br i1 {bad.text}, label %{stop}, label %{further}")
        k.begin(stop)
        k.ret(code)
        k.begin(further)

    def _plan(self, prepared):
        life = {}
        for i, (_, roots, _) in enumerate(prepared):
            for r in roots:
                if r not in self.place:
                    first = life[r][1] if r in life else i
                    life[r] = (r.size * ITEMSIZE[r.dtype], first, i)
        offsets, self.arena = plan(life)
        self.place |= {r: ("arena", at) for r, at in offsets.items()}
        self.unshared = sum(n for n, _, _ in life.values())

    def sequence(self, units):
        """Units that run one after the other, prepared: all of the segment's, or those of a loop's body."""
        outside, prepared = (self.units, self.at), []
        self.units = units
        for self.at, u in enumerate(units):
            if u not in self.taken:
                prepared.append(self._prepare(u))
        self.units, self.at = outside
        return prepared

    # -- each returns (emit(pointers), roots, whether it can fail)
    def _prepare(self, u):
        if isinstance(u, Group):
            return self._group(u)
        if isinstance(u, Matmul):
            return self._matmul(u)
        if isinstance(u, ScatterAdd):
            return self._scatter(u)
        if isinstance(u, Call):
            return self._call(u)
        if isinstance(u, control.Control):
            return control.prepare(self, u)
        return self._guard(u)

    def _planned(self, g):
        """(nest, its arguments, (plan, text, exact text)) of a group."""
        if g not in self.planned:
            nest, places = nest_of(g, self.needed, self.links)
            if nest not in self.nests:
                code = NestCode(self.target, nest, self.functions)
                if code.parts > 1:
                    code = PartedNest(self.target, nest, self.functions)
                self.nests[nest] = code, str(nest), repr(nest)
            self.planned[g] = nest, places, self.nests[nest]
        return self.planned[g]

    def _estimate(self, u):
        """About how many instructions a unit takes, on single elements."""
        if isinstance(u, Group):
            return self._planned(u)[2][0].work
        if isinstance(u, Matmul):
            return 2 * u.outputs[0].size * u.inputs[0].shape[-1]
        return u.native.work if isinstance(u, Call) else 0

    def _shared_out(self, code):
        """What the pool should do a nest with, or None."""
        if not self.threads or code.split == 1 and code.parts == 1:
            return None
        if code.work >= _PARALLEL or self.busy and code.work >= _AWAKE * code.lanes:
            return pool.SYMBOL
        return pool.AWAKE if code.parts > 1 or code.work >= _ALONE * code.lanes else None

    def _nest(self, g, parallel, streams=(), text=None):
        """The function of a group's nest, or a list of them: what the pool runs, and what runs when it has."""
        _, _, (code, shown, exact) = self._planned(g)
        if code.parts == 1:
            make = lambda name: code.emit(self.module, name, parallel, streams)
            return self._function(("nest", exact, parallel, streams), "nest", make, text or shown)
        found = []
        for p in range(code.passes):
            make = lambda name, p=p: code.emit_pass(self.module, name, p, streams)
            says = text or (shown if not p else f"  pass {p + 1} of {found[0][0]}")
            name = self._function(("nest", exact, p, streams), "nest", make, says)
            make = lambda name, p=p: code.emit_rest(self.module, name, p)
            says = f"  the sum of {name}'s {code.parts} parts, and the rest"
            found.append((name, self._function(("rest", exact, p), "nest", make, says) if code.followed(p) else None))
        return found

    @staticmethod
    def _streams(code):
        """What a nest stores around the caches."""
        return code.streams if code.moved >= (targets.last_cache() or _STREAM_BYTES) else ()

    def _nest_arguments(self, places, roots, pointers):
        at = dict(zip(roots, pointers))
        pointers = [self.k.at(at[root], offset, root.dtype) for root, offset in places]
        return [*pointers, self.k.const(0, "ptr") if self.status is None else self.status]

    def _group(self, g):
        nest, places, (code, _, _) = self._planned(g)
        if not nest.stores:
            self.notes.append(("nothing", g, None, False))
            return (lambda pointers: None), [], False
        symbol = self._shared_out(code)
        parallel = symbol is not None
        self.work += code.work
        name, past = self._nest(g, parallel), None
        if streams := self._streams(code):
            which = name if code.parts == 1 else name[0][0]
            past = self._nest(g, parallel, streams, f"  {which}, whose results are stored around the caches")
        self.notes.append((name if code.parts == 1 else name[0][0], g, code, parallel))

        roots = list(dict.fromkeys(root for root, _ in places))
        notes = [Buffer((code.noted // 8,), "int64", name="parts")] if code.parts > 1 else []

        def emit(pointers):
            arguments = [*self._nest_arguments(places, roots, pointers), *pointers[len(roots) :]]
            if not streams:
                run(name, arguments)
                return
            k = self.k
            starts = [k.op(f"ptrtoint ptr {arguments[i].text} to i64", "int64") for i in streams]
            within = k.bitwise_and(functools.reduce(k.bitwise_or, starts), LINE - 1)
            k.if_(k.eq(within, 0), lambda: run(past, arguments), lambda: run(name, arguments))

        def run(name, arguments):
            if code.parts > 1:
                for part, rest in name:
                    self._share(part, arguments, code.rows * code.parts, 1, symbol)
                    if rest:
                        self.k.call_known(rest, None, *arguments)
                return
            if not parallel:
                self.k.call_known(name, None, *arguments)
                return
            n = nest.sizes[code.shared]
            grain = max(1, min(_CHUNK * n // code.work, -(-n // _PIECES)))
            if streams:  # the end of a chunk waits for what is on its way to memory
                grain = max(grain, min(_STREAM_CHUNK * n // code.moved, -(-n // _PIECES)))
            if code.v_kept and code.k_depth == 1 or code.along:
                step = math.lcm(code.lanes * code.unroll, LINE if streams else 1)  # of single bytes, too
                grain = -(-grain // step) * step
            elif (code.tile or code.crossed) and code.k_depth == 2:  # what is across a line stays with one thread
                grain = -(-grain // LINE) * LINE
            self._share(name, arguments, n, grain, symbol)

        return emit, [*roots, *notes], code.gathers

    def _block(self, arguments):
        """The arguments of a chunk function in memory."""
        k = self.k
        block = k.alloca(8 * len(arguments), 8)
        for i, a in enumerate(arguments):
            k.store(a, k.at(block, i, "ptr"))
        return block

    def _share(self, name, arguments, n, grain, symbol):
        """Run a chunk function on the pool, or all of it here where `symbol` is None."""
        k = self.k
        block = self._block(arguments)
        n, grain, zero = (k.const(i, "int64") for i in (n, grain, 0))
        if symbol is None:
            k.call_known(name, None, block, zero, n, k.const(0, "int32"))
        else:
            k.call(symbol, None, k.symbol(f"@{name}"), block, n, grain)

    def _import(self, symbol, recipe):
        """The function of that name is called: see `natives.function`."""
        self.recipes[symbol] = recipe
        natives.begin(recipe, self.target)

    def _function(self, key, prefix, emit, text):
        if key not in self.names:
            self.names[key] = f"{prefix}{len(self.names)}"
            emit(self.names[key])
            self.texts.append(f"{self.names[key]}:\n{text}")
        return self.names[key]

    def _matmul(self, step):
        x, y = step.inputs
        out = step.outputs[0]
        if not out.size:
            self.notes.append(("nothing", step, None, False))
            return (lambda pointers: None), [], False
        *lead, m, n = out.shape
        depth = x.shape[-1]
        (xr, xo, xs), (yr, yo, ys) = resolve(x), resolve(y)
        dtype = out.dtype
        self.work += 2 * count(out.shape) * depth
        x_lead = [0] * (len(lead) - (x.ndim - 2)) + [s if k != 1 else 0 for s, k in zip(xs[:-2], x.shape[:-2])]
        y_lead = [0] * (len(lead) - (y.ndim - 2)) + [s if k != 1 else 0 for s, k in zip(ys[:-2], y.shape[:-2])]
        lead, (x_lead, y_lead, z_lead) = merged(lead, [x_lead, y_lead, contiguous(out.shape)[:-2]])
        x_row, narrow = xs[-2], n < self.target.lanes(dtype)
        # What all matrices of an axis are multiplied by is packed once, if their rows are rows of one matrix.
        while lead and not y_lead[-1] and (m == 1 or x_lead[-1] == m * x_row):
            if narrow and lead[-1] * m * n * depth > _INLINE:
                break
            x_row = x_lead[-1] if m == 1 else x_row
            m *= lead.pop()
            for strides in (x_lead, y_lead, z_lead):
                strides.pop()
        small = min(m, n) > 1 and m * n * depth <= _INLINE and (ys[-1] == 1 or m * n * depth <= _INLINE // 8)
        make = self._small_matmul if small else self._large_matmul
        product, extra = make(
            step, dtype, (m, depth, n), (x_row, xs[-1]), ys[-2:], lead[-1:], [s[-1:] for s in (x_lead, y_lead, z_lead)]
        )
        loops = lead if small else lead[:-1]

        def emit(pointers):
            k = self.k

            def walk(axis, a, b, c):
                if axis == len(loops):
                    product(a, b, c, *pointers[3:])
                    return
                k.loop(
                    0,
                    loops[axis],
                    1,
                    lambda i: walk(
                        axis + 1,
                        *[
                            k.at(p, k.mul(i, s[axis]) if s[axis] != 1 else i, dtype) if s[axis] else p
                            for p, s in zip((a, b, c), (x_lead, y_lead, z_lead))
                        ],
                    ),
                )

            walk(0, k.at(pointers[0], xo, dtype), k.at(pointers[1], yo, dtype), pointers[2])

        return emit, [xr, yr, out, *extra], False

    def _small_matmul(self, step, dtype, sizes, a_strides, b_strides, lead, lead_strides):
        """A kernel for these sizes, written out."""
        m, depth, n = sizes
        pack = n > 1 and b_strides[-1] != 1
        b_walk = (n, 1) if pack else (b_strides[0], 1)
        name = self._function(
            ("matmul", dtype, sizes, a_strides, b_walk),
            "matmul",
            lambda name: contractions.emit_matmul(self.module, name, dtype, sizes, a_strides, b_walk, False),
            f"({m}, {depth}) @ ({depth}, {n}) {dtype}",
        )
        self.notes.append((name, step, None, False))
        pack_name = self._transpose(dtype, depth, n, b_strides) if pack else None

        def product(a, b, c, packed=None):
            if pack:
                self.k.call_known(pack_name, None, b, packed)
                b = packed
            self.k.call_known(name, None, a, b, c)

        return product, [Buffer((depth, n), dtype)] if pack else []

    def _large_matmul(self, step, dtype, sizes, a_strides, b_strides, lead, lead_strides):
        """A call of the general product, which packs, and shares its work out."""
        symbol, sum_parts = gemm.SYMBOL + dtype, gemm.SUM + dtype
        m, depth, n = sizes
        batch = lead[0] if lead else 1
        size = ITEMSIZE[dtype]
        a_batch, b_batch, c_batch = (s[0] * size if s else 0 for s in lead_strides)
        a_row, a_k, b_k, b_column = (s * size for s in (*a_strides, *b_strides))
        share = products.shares(dtype, self.target, m, n, depth, batch, self.threads)
        total = max(batch, share.parts) * share.tasks
        whole = batch * m * n == step.outputs[0].size and min(m, n) > 1
        then = self._epilogue(step, batch * m) if whole and share.by_rows and share.parts == 1 and total > 1 else None
        self.notes.append((f"{symbol}, then {then[0]}" if then else symbol, step, None, total > 1))
        known = {"a_row": a_row, "a_k": a_k, "a_batch": a_batch, "b_k": b_k, "b_column": b_column, "b_batch": b_batch,
                 "c_row": n * size, "c_batch": c_batch, "m": m, "n": n, "k": depth, "batch": batch,
                 "by_rows": int(share.by_rows), "per_task": share.per_task, "tasks": share.tasks,
                 "parts": share.parts, "part": share.part}
        for name in (symbol, sum_parts) if share.parts > 1 else (symbol,):
            self._import(name, ("products", name, dtype))

        def product(a, b, c, *more):
            k = self.k
            job = k.alloca(8 * len(FIELDS), 64)
            given = {"a": a, "b": b, "c": c}
            if share.parts > 1:
                given["partial"] = more[0]
            if then:
                name, _, arguments, scale = then
                given |= {"then": k.symbol(f"@{name}"), "then_argument": self._block(arguments(more)),
                          "then_scale": k.const(scale, "int64")}
            for i, name in enumerate(FIELDS):
                value = given.get(name)
                k.store(k.const(known.get(name, 0), "int64") if value is None else value, k.at(job, i, "int64"))
            if total > 1:
                k.call(pool.SYMBOL, None, k.symbol(symbol), job, k.const(total, "int64"), k.const(1, "int64"))
            else:
                k.call(symbol, None, job, k.const(0, "int64"), k.const(1, "int64"), k.const(0, "int32"), external=True)
            if share.parts > 1:
                k.call(sum_parts, None, job, external=True)

        if then:
            return product, then[1]
        return product, [Buffer((share.parts - 1, m, n), dtype)] if share.parts > 1 else []

    def _epilogue(self, step, rows):
        """What goes on with a product's rows: (function, roots, arguments(pointers), indices for each row), or None."""
        for g in epilogues.candidates(self.units, self.at):
            if g in self.taken:
                continue
            nest, places, (code, _, _) = self._planned(g)
            scale = epilogues.indices_per_row(code, places, step.outputs[0], rows)
            if scale is None or self._streams(code) or not nest.stores:
                continue
            self.taken.add(g)
            self.work += code.work
            roots = list(dict.fromkeys(root for root, _ in places))
            return self._nest(g, True), roots, lambda p: self._nest_arguments(places, roots, p), scale
        return None

    def _transpose(self, dtype, rows, columns, strides):
        """A function that copies a strided matrix into a contiguous one."""
        from agog.compiler.loops import Nest, Store, normalized

        nest = normalized(
            Nest(
                (rows, columns),
                (False, False),
                (dtype, dtype),
                (("load", dtype, 0, 0, tuple(strides)),),
                (Store(1, 0, (columns, 1), 0, True),),
            )
        )
        code = NestCode(self.target, nest, {})

        def make(name):
            code.emit(self.module, name + "_nest", False)
            k = Kernel(self.module, name, [("a", "ptr"), ("b", "ptr")], internal=True)
            k.call_known(name + "_nest", None, *k.arguments, k.const(0, "ptr"))
            k.ret()
            k.finish()

        return self._function(("pack", repr(nest)), "pack", make, str(nest))

    def _call(self, step):
        made = step.native
        self._import(made.symbol, made.recipe)
        self.work += made.work
        self.notes.append((made.symbol, step, None, False))
        roots = [*step.outputs, *[resolve(v)[0] for v in step.inputs if v is not None]]

        def emit(pointers):
            given = iter(pointers)
            arguments = [self.k.const(0, "ptr") if v is None else next(given) for v in (*step.outputs, *step.inputs)]
            self.k.call(made.symbol, None, *arguments, external=True)

        return emit, roots, False

    def _scatter(self, step):
        g = step.inputs[0]
        out = step.outputs[0]
        root, offset, strides = resolve(g)
        roots, indices = [out, root], []
        steps = contiguous(out.shape)
        walked = [0] * g.ndim
        for a, w in enumerate(step.where):
            if w is None:
                continue
            if isinstance(w, int):
                walked[w] += steps[a]
                continue
            r, o, s = resolve(w)
            roots.append(r)
            indices.append((w.dtype, o, tuple(0 if n == 1 else x for n, x in zip(w.shape, s)), steps[a], out.shape[a]))
        work = 8 * g.size
        self.work += work
        # An axis of `g` that is one of the result as it is: no two threads write to one place.
        own = sorted(w for a, w in enumerate(step.where) if isinstance(w, int) and out.shape[a] == g.shape[w] > 1)
        split = own[0] if own and own[0] == 0 else own[-1] if own else None
        tasks, each = (1, work) if split is None else (g.shape[split], work // g.shape[split])
        if split == g.ndim - 1 and contractions.neighbours(g.shape, strides, walked, indices):
            width = contractions.SCATTERED * self.target.lanes(out.dtype)
            tasks, each = -(-tasks // width), each * width
        symbol = None if not self.threads or tasks < 2 else pool.SYMBOL if work >= _PARALLEL else (
            pool.AWAKE if work >= _ALONE else None)
        key = ("scatter", out.dtype, g.shape, offset, strides, tuple(walked), tuple(indices), step.position, split)
        name = self._function(
            key,
            "scatter",
            lambda name: contractions.emit_scatter(
                self.module, name, out.dtype, g.shape, offset, strides, walked, indices, step.position, split
            ),
            f"zeros{list(out.shape)} += {list(g.shape)} {out.dtype} at indices",
        )
        self.notes.append((name, step, None, symbol is not None))

        def emit(pointers):
            k = self.k
            size = k.const(out.size * ITEMSIZE[out.dtype], "int64")
            no = k.const(False, "bool")
            k.call("llvm.memset.p0.i64", None, pointers[0], k.const(0, "uint8"), size, no)
            if g.size and out.size:
                grain = max(1, min(_CHUNK // max(1, each), -(-tasks // _PIECES)))
                self._share(name, [*pointers, self.status], tasks, grain, symbol)

        return emit, roots, True

    def _guard(self, step):
        x = step.inputs[0]
        root, offset, _ = resolve(x)

        def emit(pointers):
            k = self.k
            value = k.load(k.at(pointers[0], offset, x.dtype), x.dtype)
            expected = step.expected
            floating = x.dtype in FLOATS or x.dtype in HALVES
            if isinstance(expected, bool):
                good = k.truth(value) if expected else k.logical_not(value)
            elif isinstance(expected, float) and floating:
                wide = k.cast(value, "float64")
                good = (
                    k.isnan(wide) if expected != expected else k.eq(k.bits(wide), k.bits(k.const(expected, "float64")))
                )
            elif isinstance(expected, int) and not floating and x.dtype != "bool" and -(1 << 63) <= expected < 1 << 63:
                good = k.eq(k.cast(value, "int64"), expected)
            else:
                good = k.const(False, "bool")
            self._leave_if(k.bitwise_not(good), k.const(step.position + 1, "int64"))

        self.notes.append(("guard", step, None, False))
        return emit, [root], False

    # ------------------------------------------------------------------------------------------------ loading
    @property
    def shared_out(self):
        """Whether it calls the pool."""
        return not self.module.declarations.keys().isdisjoint((pool.SYMBOL, pool.AWAKE))

    def cycles(self):
        """Cycles of each step so far, when profiled."""
        return list((ctypes.c_int64 * len(self.notes)).from_address(self.loaded["cycles"]))

    def load(self, forms):
        """The function as a Python callable over the arrays; `forms` as for `entry.bind`."""
        self.forms = forms
        keep = []

        def imports():  # not before this is compiled: others may still be compiling them
            found, codes = natives.functions(self.recipes, self.target)
            keep.extend(codes)
            return found | (pool.imports() if self.shared_out else {})

        code = self.loaded = jit.load(self.module, ["run"] + ["cycles"] * self.profile, imports, keep)
        return entry.bind(code, self.target, forms, self.arena, [c.data for c in self.constants], self.work)
