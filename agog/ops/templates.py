"""The fast paths of operations, as text: one function for each row is made from it, with nothing left to decide.

What a row does not need is not in its function: a line that ends in `#? flag` is there only where that flag holds
(`#? !flag`: where it does not), and names in capitals stand for expressions. This is the hot path of eager code, where
every statement counts, so the templates repeat each other; what they share is:

- everything unexpected goes to the general path (`fallback`, or `apply`), which explains errors; it is called outside
  the handler, so that the explanation is not chained to what NumPy raised;
- `config.special` is not 0 where anybody records, hooks or switches gradients off;
- NumPy takes a number of Python's as an array of no axes in half the time (`_weak`);
- a node is made only when an input needs a gradient, and keeps what the rules of these inputs take.

The functions live in the globals of `agog.dispatch`.
"""

from __future__ import annotations

import re
from types import CodeType
from typing import Any, Iterable

from agog.ops.row import Op

_FLAGGED = re.compile(r"\s+#\? (!?)(\w+)$")
_codes: dict[str, CodeType] = {}


def make(template: str, name: str, scope: dict[str, Any], flags: dict[str, Any], words: dict[str, str],
         values: dict[str, Any]) -> Any:
    """The function that `template` describes.

    scope   its globals
    flags   whether lines marked with a flag are there
    words   the text that stands for names in capitals
    values  its free variables
    """
    lines = []
    for line in template.splitlines():
        found = _FLAGGED.search(line)
        if found is None:
            lines.append(line)
        elif bool(flags[found[2]]) is not bool(found[1]):
            lines.append(line[:found.start()])
    source = "\n".join(lines).strip()
    for word, text in words.items():
        source = source.replace(word, text)
    return closed(source, "method", f"<agog {name}>", scope, values)


def closed(source: str, name: str, file: str, scope: dict[str, Any], values: dict[str, Any]) -> Any:
    """The function `name` that `source` defines, with `scope` as its globals and `values` as its free variables."""
    source = f"def outer({', '.join(values)}):\n    " + source.replace("\n", "\n    ") + f"\n    return {name}"
    code = _codes.get(source)
    if code is None:  # rows that differ in `values` alone share it
        code = _codes[source] = compile(source, file, "exec")  # (a name that keeps it out of "the user's line")
    local: dict[str, Any] = {}
    exec(code, scope, local)
    return local["outer"](**values)


_NODE = """\
    node = _Node()
    node.op = op
    node.parents = (PARENTS,)
    node.env = ENV
    node.shape = SHAPE
    node.seq = next(_tickets)
    t._node = node
    return t
"""

BINARY = """
def method(x, y, /):
    try:
        if config.special:
            return fallback(op, (x, y), ())
        a = x._data
        kind = type(y)
        if kind is not Tensor and (kind is float or kind is int):
            b = y
            q = None
            n = _floats.get(y) if a.dtype is _f32 else None                     #? sized
            if n is None:                                                       #? sized
                n = _weak(y, a.dtype)                                           #? sized
            c = ufunc(a, n) if a.size < limit else large_binary(ufunc, a, y)    #? sized
            b = n                                                               #? handed
            c = ufunc(a, b)                                                     #? !sized
            if c.dtype is not a.dtype:                                          #? same
                return fallback(op, (x, y), ())                                 #? same
        else:
            b = y._data
            q = y._node
            if b.dtype is not a.dtype:
                return fallback(op, (x, y), ())
            n = a.size                                                          #? sized
            if n < few or n * (m := b.size) < most and n < middle or n == m < limit and a.shape == b.shape: #? sized
                c = ufunc(a, b)                                                 #? sized
            else:                                                               #? sized
                c = middle_binary(ufunc, a, b)                                  #? sized
            c = plain(a, b) if b.dtype is _f32 else ufunc(a, b)                 #? !sized
            if c.dtype is not a.dtype:                                          #? check
                return fallback(op, (x, y), ())                                 #? check
        if type(c) is not _nd:
            c = _asarray(c)
        t = next(_blanks)
        t._data = c
        p = x._node                                                             #? differentiable
        if p is None and q is None:                                             #? differentiable
            t._node = None                                                      #? differentiable
            return t                                                            #? differentiable
        t._node = None                                                          #? !differentiable
        return t                                                                #? !differentiable
    except Exception:
        t = None
    if t is None:
        return fallback(op, (x, y), ())
""" + _NODE

REVERSED = """
def method(x, y, /):
    try:
        kind = type(y)
        if config.special or (kind is not float and kind is not int):
            return fallback(op, (y, x), ())
        b = x._data
        n = _floats.get(y) if b.dtype is _f32 else None                         #? sized
        if n is None:                                                           #? sized
            n = _weak(y, b.dtype)                                               #? sized
        c = ufunc(n, b) if b.size < limit else large_binary(ufunc, y, b)        #? sized
        c = ufunc(y, b)                                                         #? !sized
        if c.dtype is not b.dtype:                                              #? same
            return fallback(op, (y, x), ())                                     #? same
        if type(c) is not _nd:
            c = _asarray(c)
        t = next(_blanks)
        t._data = c
        q = x._node                                                             #? differentiable
        if q is None:                                                           #? differentiable
            t._node = None                                                      #? differentiable
            return t                                                            #? differentiable
        t._node = None                                                          #? !differentiable
        return t                                                                #? !differentiable
    except Exception:
        t = None
    if t is None:
        return fallback(op, (y, x), ())
    a = n                                                                       #? handed
    a = y                                                                       #? asking
    p = None                                                                    #? differentiable
""" + _NODE

UNARY = """
def method(x, /):
    try:
        if config.special:
            return fallback(op, (x,), ())
        a = x._data
        if a.dtype is _f32 and a.size < limit:                                  #? widened
            c = plain(a)                                                        #? widened
        else:                                                                   #? widened
            c = ufunc(a) if a.size < limit else large_unary(raw if a.dtype.kind in "fV" else ufunc, a)   #? widened
        c = ufunc(a) if a.size < limit else large_unary(raw if a.dtype.kind in "fV" else ufunc, a)   #? once
        c = ufunc(a)                                                            #? !sized
        if c.dtype is not a.dtype:                                              #? same
            return fallback(op, (x,), ())                                       #? same
        if type(c) is not _nd:
            c = _asarray(c)
        t = next(_blanks)
        t._data = c
        p = x._node                                                             #? differentiable
        if p is None:                                                           #? differentiable
            t._node = None                                                      #? differentiable
            return t                                                            #? differentiable
        t._node = None                                                          #? !differentiable
        return t                                                                #? !differentiable
    except Exception:
        t = None
    if t is None:
        return fallback(op, (x,), ())
""" + _NODE

REDUCTION = """
def method(x, /, axis=None, keepdims=False, dtype=None, *, dim=None, keepdim=None, out=None):
    if dim is not keepdim or out is not None:
        raise wrong(op.name, {"dim": dim, "keepdim": keepdim, "out": out})
    if dtype is not None:
        if typed is None:
            raise no_dtype(op.name)
        return typed(x, axis, keepdims, dtype)
    try:
        if config.special:
            return apply(op, (x,), (axis, keepdims))
        a = x._data
        own = a.size > 511 or a.itemsize == 2                                   #? reduces
        c = raw(a, axis, keepdims) if own else over(of, a, axis, keepdims)      #? reduces
        if c is None:                                                           #? reduces
            c = reduce(a, axis, None, None, keepdims)                           #? reduces
        c = raw(a, axis, keepdims)                                              #? !reduces
        if c.dtype is not a.dtype and (c.dtype.kind not in "iu" or a.dtype.kind not in "biu"):    #? widest
            return apply(op, (x,), (axis, keepdims))                            #? widest
        if c.dtype is not a.dtype:                                              #? same
            return apply(op, (x,), (axis, keepdims))                            #? same
        if type(c) is not _nd:
            c = _asarray(c)
        t = next(_blanks)
        t._data = c
        t._node = None                                                          #? fixed
        return t                                                                #? fixed
        p = x._node                                                             #? !fixed
        if p is None:                                                           #? !fixed
            t._node = None                                                      #? !fixed
            return t                                                            #? !fixed
    except Exception:
        t = None
    if t is None:
        return apply(op, (x,), (axis, keepdims))
    if type(axis) is list:
        axis = tuple(axis)
""" + _NODE


def row(op: Op) -> str:
    """The body of the public function of a row, of any number of inputs, statics and outputs.

    It does what the general path does where all inputs are arrays of a dtype that needs no cast, and numbers among
    operands that are promoted. Its own names start with an underscore, the others are those of the signature.
    """
    inputs, n = op.inputs, len(op.inputs)
    given = f"{_tuple(inputs)}, {_tuple(op.statics)}"
    general = f"return apply(_op, {given})"
    promoted = [x in op.promotes for x in inputs]
    numbers = op.elementwise and sum(promoted) > 1  # elsewhere the general path takes them
    w = ["try:", f"    if config.special: {general}"]
    if numbers:
        w.append("    _common = None")
    known = numbers
    for i, x in enumerate(inputs):
        take = [f"_a{i} = {x}._data", f"if type(_a{i}) is not _nd: {general}"]
        if op.rules[i] is not None:
            take.append(f"_p{i} = {x}._node")
        if promoted[i] and numbers:
            take += [f"if _a{i}.dtype is not _common:", f"    if _common is not None: {general}",
                     f"    _common = _a{i}.dtype"]
        elif promoted[i] and known:
            take.append(f"if _a{i}.dtype is not _common: {general}")
        elif promoted[i]:
            take.append(f"_common = _a{i}.dtype")
            known = True
        missing = []
        if x in op.optional or i and not numbers:
            missing.append(f"{x} is None")
        if numbers and promoted[i]:
            missing.append(f"type({x}) is float or type({x}) is int")
        if missing:
            take = [f"if {' or '.join(missing)}:", f"    _a{i} = _p{i} = None", "else:", *["    " + t for t in take]]
        w += ["    " + t for t in take]
    if any(promoted):
        w.append(f"    if {'_common is not _f32 and ' if 'f' in op.takes else ''}not _takes(_common): {general}")
    if numbers:
        for i, x in enumerate(inputs):
            there = f" and {x} is not None" if x in op.optional else ""
            if promoted[i]:
                w.append(f"    if _a{i} is None{there}: _a{i} = _number({x}, _common)")
    statics = list(op.statics)
    arrays = [f"_a{i}" for i in range(n)]
    ruled = [i for i in range(n) if op.rules[i] is not None]
    free = " and ".join(f"_p{i} is None" for i in ruled)
    if op.sure:
        call = f"({', '.join([*arrays, *statics])})"
        wide = f"_plain{call} if _common is _f32 else " if op.widen and any(promoted) else ""
        w += [f"    if {free} and {op.sure}:", f"        _c = {wide}_raw{call}",
              "        _t0 = next(_blanks)", "        _t0._data = _c if type(_c) is _nd else _asarray(_c)",
              "        _t0._node = None", "        return _t0"]
    if op.check is not None:
        checked = f"_check({', '.join([*arrays, *statics])})"
        statics = [f"_s{i}" for i in range(len(statics))]  # (the general path is told what was given)
        w.append(f"    {', '.join([*statics, '= ']) if statics else ''}{checked}")
    call = f"({', '.join([*arrays, *statics])})"
    if op.widen and any(promoted):  # what is not 16 bits wide needs no second look
        w.append(f"    _c = _plain{call} if _common is _f32 else _raw{call}")
    else:
        w.append(f"    _c = _raw{call}")
    results = [f"_c{k}" for k in range(len(op.outputs))] if len(op.outputs) > 1 else ["_c"]
    if len(results) > 1:
        w.append(f"    {', '.join(results)} = _c")
    w += [f"    if type({c}) is not _nd: {c} = _asarray({c})" for c in results]
    w += ["except Exception:", "    _c = None", f"if _c is None: {general}"]
    tensors = [f"_t{k}" for k in range(len(results))]
    for t, c in zip(tensors, results):
        w += [f"{t} = next(_blanks)", f"{t}._data = {c}", f"{t}._node = None"]
    result = ", ".join(tensors)
    if ruled:
        w.append(f"if {free}: return {result}")
        if len(results) == 1:
            sure = "_c.dtype is not _common and " if any(promoted) else ""
            w.append(f"if {sure}not _is_inexact(_c.dtype): return {result}")
        parents = _tuple([f"_p{i}" if i in ruled else "None" for i in range(n)])
        kept = saved(op, arrays + results, [f"_p{i}" for i in range(n)])
        derived = [f"_a{i}.{what}" for what, i in op.derived]
        env = _tuple([*kept, *statics, *derived])
        w += ["_n = _Node()", "_n.op = _op", f"_n.parents = {parents}", f"_n.env = {env}", "_n.seq = next(_tickets)"]
        if len(results) == 1:
            w += ["_n.shape = _c.shape", "_t0._node = _n"]
        else:
            w += [f"_z{k} = {c}.shape" for k, c in enumerate(results)]
            w.append(f"_n.shape = [{', '.join(f'(_z{k}, {c}.dtype)' for k, c in enumerate(results))}]")
            moved = op.kind == "movement"  # then all results have the dtype of the one input
            if moved:
                w.append("if _is_inexact(_c0.dtype):")
            for k, (t, c) in enumerate(zip(tensors, results)):
                pick = ["_k = _new(_Pick)", "_k.source = _n", f"_k.index = {k}", f"_k.shape = _z{k}",
                        "_k.seq = next(_tickets)", f"{t}._node = _k"]
                w += [*(() if moved else [f"if _is_inexact({c}.dtype):"]), *["    " + line for line in pick]]
    w.append(f"return {result}")
    return "".join(f"    {line}\n" for line in w)


def _tuple(items: Iterable[str]) -> str:
    return "(" + "".join(x + ", " for x in items).rstrip() + ")"


def saved(op: Op, values: list[str], nodes: list[str]) -> list[str]:
    """The text of what a node keeps of `values`, the inputs, then the outputs: what the rules take that are needed.

    `nodes` are the nodes of the inputs, None for those that need no gradient.
    """
    parts = []
    for i, value in enumerate(values):
        users = [k for k in range(len(nodes)) if (keep := op.keeps[1 << k]) is not None and keep[i]]
        if not users:
            parts.append("None")
        elif len(users) == sum(r is not None for r in op.rules):
            parts.append(value)
        else:
            parts.append(f"{value} if {' or '.join(f'{nodes[k]} is not None' for k in users)} else None")
    return parts
