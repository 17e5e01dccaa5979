"""Branches and loops inside of the native call: `cond`, `while_loop` and `scan` whose bodies need no Python.

The state of a loop lives in two buffers that are exchanged at each turn; slices of sequences are addresses; what a
body needs of its own is one block of the arena, used again at every turn.
"""

from agog.compiler.lowering import Island, Lowering, Step, Unsupported
from agog.compiler.memory import plan
from agog.compiler.targets import ITEMSIZE
from agog.compiler.values import Buffer, count, resolve
from agog.graph import forms

__all__ = ["Control", "lower", "prepare"]

_TURNS = 16  # turns that a while loop is thought to take


class Body:
    """A scheduled inner graph."""

    def __init__(self, lowering, graph):
        from agog.compiler.schedule import schedule

        inner = Lowering(lowering.target)
        inner.functions, inner.fixed_position = lowering.functions, lowering.position
        self.inputs, outputs = inner.graph(graph)
        self.units, self.needed, self.links = schedule(outputs, inner.steps)
        island = next((u for u in self.units if isinstance(u, Island)), None)
        if island is not None:
            raise Unsupported(
                f"its body is run by Python, because of {'copy' if island.node is None else island.node.op}"
            )
        self.outputs = [resolve(v)[0] for v in outputs]


class Control(Step):
    """A branch or loop: `node` says which."""

    def __init__(self, node, inputs, bodies, position):
        super().__init__(inputs, position)
        self.node, self.bodies = node, bodies


def lower(lowering, node, inputs):
    """The outputs of a form as Vals. Raises Unsupported where Python has to run it."""
    if node.op not in _EMIT:
        raise Unsupported(f"{node.op.name} is run by Python")
    if any(str(v.dtype) not in ITEMSIZE for v in (*node.inputs, *node.outputs)):
        raise Unsupported("kernels do not have its dtypes")
    bodies = [Body(lowering, g) for g in node.graphs]
    step = Control(node, [lowering.solid(v) for v in inputs], bodies, lowering.position)
    step.outputs = tuple(Buffer(v.shape, str(v.dtype), step, name=node.op.name) for v in node.outputs)
    lowering.steps.append(step)
    return step.outputs


class _Prepared:
    """The units of a body, ready to be emitted; and the block of memory for what lives only in it."""

    def __init__(self, segment, body):
        self.segment, self.body = segment, body
        outside, mark, work = (segment.needed, segment.links), len(segment.notes), segment.work
        segment.needed, segment.links = body.needed, body.links
        self.units = segment.sequence(body.units)
        segment.needed, segment.links = outside
        del segment.notes[mark:]
        self.work, segment.work = segment.work - work, work
        self.fails = any(fails for _, _, fails in self.units)
        given, life = {*body.inputs, *body.outputs}, {}
        self.constants = []
        for i, (_, roots, _) in enumerate(self.units):
            for r in roots:
                if isinstance(r, Buffer) and r.data is not None:
                    self.constants.append(r)
                elif r not in given:
                    life[r] = (r.size * ITEMSIZE[r.dtype], life[r][1] if r in life else i, i)
        self.offsets, size = plan(life)
        self.block = Buffer((size,), "uint8")

    def run(self, env, at):
        """Emit the body: `env` has the addresses of its inputs and outputs, `at` those of the block and constants."""
        segment, k = self.segment, self.segment.k
        block = at[self.block]
        for emit, roots, fails in self.units:
            for r in roots:
                if r not in env:
                    env[r] = at[r] if r in at else k.offset(block, self.offsets[r])
            emit([env[r] for r in roots])
            if fails:
                seen = k.load(segment.status, "int64")
                segment._leave_if(k.ne(seen, 0), seen)


def prepare(segment, step):
    """(emit, roots, whether it can fail), as for every step of a Segment."""
    bodies = [_Prepared(segment, body) for body in step.bodies]
    inputs = [resolve(v)[0] for v in step.inputs]
    state = []
    if step.node.op is not forms.COND:
        carried = step.node.statics[0]
        state = [Buffer(v.shape, v.dtype) for v in step.outputs[:carried] for _ in range(2)]
    turns = {forms.SCAN: lambda: max(1, step.node.static["length"]), forms.WHILE: lambda: _TURNS}.get(
        step.node.op, lambda: 1
    )()
    segment.work += turns * sum(b.work for b in bodies)
    constants = [c for b in bodies for c in b.constants]
    for c in constants:
        if c not in segment.place:
            segment.place[c] = ("constant", len(segment.constants))
            segment.constants.append(c)
    flag = Buffer((), "bool")
    roots = list(dict.fromkeys([*inputs, *step.outputs, *[b.block for b in bodies], *state, *constants, flag]))
    segment.notes.append((step.node.op.name, step, None, False))

    def emit(pointers):
        at = dict(zip(roots, pointers))
        _EMIT[step.node.op](segment, step, bodies, inputs, state, flag, at)

    return emit, roots, any(b.fails for b in bodies)


def _cond(segment, step, bodies, inputs, state, flag, at):
    k = segment.k

    def branch(body):
        env = {b: at[r] for b, r in zip(body.body.inputs, inputs[1:])}
        env |= {b: at[r] for b, r in zip(body.body.outputs, step.outputs)}
        body.run(env, at)

    then, otherwise = bodies
    k.if_(k.load(at[inputs[0]], "bool"), lambda: branch(then), lambda: branch(otherwise))


class _State:
    """The carried values of a loop: which of its two buffers holds each now, kept on the stack."""

    def __init__(self, segment, step, inputs, state, at):
        self.k, self.step, self.at = segment.k, step, at
        self.carried = step.node.statics[0]
        self.slots = self.k.alloca(16 * self.carried + 16, 8)
        for c in range(self.carried):
            self._copy(at[state[2 * c]], at[inputs[c]], step.outputs[c])
            for i in range(2):
                self.k.store(at[state[2 * c + i]], self.k.at(self.slots, 2 * c + i, "ptr"))

    def _copy(self, to, source, v):
        self.k.copy(to, source, self.k.const(v.size * ITEMSIZE[v.dtype], "int64"))

    def now(self):
        """The addresses of the values, and of what replaces them."""
        k = self.k
        both = [k.load(k.at(self.slots, i, "ptr"), "ptr") for i in range(2 * self.carried)]
        return both[::2], both[1::2]

    def exchange(self, now, following):
        """What was written is what holds."""
        for c, (a, b) in enumerate(zip(now, following)):
            self.k.store(b, self.k.at(self.slots, 2 * c, "ptr"))
            self.k.store(a, self.k.at(self.slots, 2 * c + 1, "ptr"))

    def finish(self):
        """Put the last values into the outputs."""
        for v, p in zip(self.step.outputs, self.now()[0]):
            self._copy(self.at[v], p, v)


def _while(segment, step, bodies, inputs, state, flag, at):
    k = segment.k
    values = _State(segment, step, inputs, state, at)
    test, body = bodies
    rest = [at[r] for r in inputs[values.carried :]]
    head, inside, end = k.label(), k.label(), k.label()
    k.emit(f"br label %{head}")
    k.begin(head)
    now, _ = values.now()
    test.run(dict(zip([*test.body.inputs, test.body.outputs[0]], [*now, *rest, at[flag]])), at)
    go = k.load(at[flag], "bool")
    k.emit(f"br i1 {go.text}, label %{inside}, label %{end}")
    k.begin(inside)
    now, following = values.now()
    body.run(dict(zip([*body.body.inputs, *body.body.outputs], [*now, *rest, *following])), at)
    values.exchange(now, following)
    k.emit(f"br label %{head}")
    k.begin(end)
    values.finish()


def _scan(segment, step, bodies, inputs, state, flag, at):
    k, (body,) = segment.k, bodies
    carried, scanned, length, reverse = step.node.statics
    values = _State(segment, step, inputs, state, at)
    sequences, rest = inputs[carried : carried + scanned], [at[r] for r in inputs[carried + scanned :]]

    def turn(t):
        i = k.sub(length - 1, t) if reverse else t

        def item(root):
            n = count(root.shape[1:])
            return k.at(at[root], k.mul(i, n) if n != 1 else i, root.dtype)

        now, following = values.now()
        slices, results = [item(r) for r in sequences], [item(r) for r in step.outputs[carried:]]
        places = [*now, *slices, *rest, *following, *results]
        body.run(dict(zip([*body.body.inputs, *body.body.outputs], places)), at)
        values.exchange(now, following)

    k.loop(0, length, 1, turn)
    values.finish()


_EMIT = {forms.COND: _cond, forms.WHILE: _while, forms.SCAN: _scan}
