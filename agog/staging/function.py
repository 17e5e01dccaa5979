"""`@agog.function`: the same Python, one native call.

The first call with arguments of a new form runs the function eagerly with the recorder on, and keeps what ran as a
graph. Later calls of that form check the guards and run the graph. Whatever does not fit runs eagerly: results never
depend on whether a call was staged.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import sys
import threading
import types
import weakref
from time import perf_counter
from typing import Any, Callable, Iterable

from agog import config
from agog.dispatch import wrap
from agog.errors import ArgumentError, ArgumentTypeError, GuardFailed, StagingError, StagingWarning, warn
from agog.staging import forms
from agog.staging.calling import MISS, describe, write_entry
from agog.staging.checking import compare
from agog.staging.explain import Explanation, explain
from agog.staging.feeds import Evidence
from agog.staging.observe import Watch
from agog.staging.paths import Missed
from agog.staging.recorder import Recorder, recording
from agog.staging.recording import Delivered, GuardMissed, NotStageable, Recording
from agog.staging.state import ABSENT
from agog.staging.turns import Turns

PATHS = 8
"""Recordings of one form of the arguments: the branches that data-dependent control flow took."""

FORMS = 64
"""Forms of arguments that a function keeps; more of them push out the least recently used."""

ATTEMPTS = 2
"""How often a form that cannot be staged is tried: the first call may just have set something up."""

WORTH = 4
"""Replays per recording from which more paths than `limit` push out the oldest instead of ending the staging."""

ENTRIES = PATHS
"""Recordings whose written-out calls are tried first."""


_recording_lock = threading.Lock()
"""One recording at a time in the process: a recording watches stdout and other things that threads share."""


def _after_fork() -> None:
    global _recording_lock
    _recording_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Form:
    """What is known for one form of the arguments."""

    __slots__ = ("recordings", "attempts", "reason", "label", "runs", "seconds")

    def __init__(self, label: list[str]):
        self.recordings: list[Recording] = []
        self.attempts = 0
        self.reason: str | None = None
        self.label = label
        self.runs, self.seconds = 0, float("inf")  # eager ones for want of room, and what one takes

    def has_paid(self) -> bool:
        """Whether the recordings have saved the time that they took to make, or eager runs have taken it since.

        Clocks decide nothing where runs are to be reproducible: then it never has.
        """
        if config.reproducible:
            return False
        calls = self.runs + sum(r.calls for r in self.recordings)
        return self.seconds < float("inf") and calls * self.seconds >= sum(r.cost for r in self.recordings)


class eager:  # noqa: N801 - used as a context
    """A context in which staged functions of this thread run as the plain Python they are."""

    def __enter__(self) -> None:
        self.before = config.modes.staging
        config.modes.staging = False
        config.enter_special()

    def __exit__(self, *exc: Any) -> None:
        config.modes.staging = self.before
        config.leave_special()


class Function:
    """A staged function; made by `agog.function`. Call it like the function it wraps.

    `__call__` is a function of the object's own: what a call runs first is the written-out call of the recording that
    was used last, and nothing before it.
    """

    __slots__ = ("__call__", "__dict__", "__weakref__")
    __call__: Callable[..., Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        strict: bool = False,
        check: bool = False,
        background: bool = False,
        limit: int = PATHS,
        dynamic: bool | str | Iterable[str] | None = None,
    ):
        self._fn: Callable[..., Any]
        if isinstance(fn, Function):
            fn = fn._fn
        if isinstance(fn, type) or not callable(fn):
            raise ArgumentTypeError(f"function: {fn!r} is not a function, a method, or an object that can be called")
        if isinstance(fn, types.BuiltinFunctionType):
            raise ArgumentTypeError(f"function: {fn.__name__} is a builtin; wrap it in a Python function")
        inner = fn if isinstance(fn, types.FunctionType | types.MethodType | functools.partial) else type(fn).__call__
        if any(
            is_it(inner)
            for is_it in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        ):
            raise ArgumentTypeError(
                f"function: {getattr(fn, '__name__', type(fn).__name__)} is a coroutine or a generator; "
                "stage the function that does the "
                "computation, and call it from there"
            )
        if not isinstance(limit, int) or limit < 1:
            raise ArgumentError(f"function: limit={limit!r}; give a whole number of at least 1")
        self._fn, self.strict, self.check, self.background, self.limit = fn, strict, check, background, limit
        self._forms: dict[Any, _Form] = {}
        self._missed = _going_on(weakref.ref(self), fn)
        self._use([])
        self._history: list[str] = []
        self._evicted = self._past = 0
        self._parameters = forms.Parameters(fn, dynamic)
        self.dynamic = dynamic
        self._varying: set[tuple[int, Any]] = set()  # places that hold one Tensor after another
        self._warned: set[str] = set()
        self._bound: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        return types.MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        """What the wrapped function or object has: `staged.parameters()` of a staged Module."""
        if name == "_fn" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._fn, name)

    def __agog_watch__(self) -> tuple[Any, list[Any]]:
        """To another recording this is the function it wraps and what users set on it, not its caches."""
        return id(self._fn), [(self.__dict__, k) for k in self.__dict__ if k not in _OWN]

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("strict", "check", "background", "limit", "dynamic")}

    def __copy__(self) -> Function:
        return self._with(copy.copy(self._fn))

    def __deepcopy__(self, memo: dict) -> Function:
        return self._with(copy.deepcopy(self._fn, memo))

    def _with(self, fn: Any) -> Function:
        return self if fn is self._fn else Function(fn, **self._options())

    def __reduce__(self) -> Any:
        found: Any = sys.modules.get(getattr(self, "__module__", None) or "")
        for part in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, part, None)
        return self.__qualname__ if found is self else (_remake, (self._fn, self._options()))

    def __repr__(self) -> str:
        return f"<staged {self.__name__}: {sum(len(f.recordings) for f in self._forms.values())} recordings>"

    @property
    def calls_staged(self) -> int:
        """How many calls were answered by recordings that are still kept, or whose objects are gone."""
        return self._past + sum(r.calls for form in list(self._forms.values()) for r in form.recordings)

    # ------------------------------------------------------------------------------------------------- calling
    def _use(self, entries: list[Any]) -> None:
        """Try these written-out calls, in this order."""
        self._again: Any = None  # the entry, other than the first, that answered last
        self._ways: dict[Missed, list[Any]] = {}  # what may follow where a value was another
        self._lead(entries)

    def _lead(self, entries: list[Any]) -> None:
        self._entries = entries  # of the recordings used last
        _CALL.__set__(self, entries[0].first if entries else _from_the_start(self._missed))

    def _go_on(self, args: tuple, kwargs: dict, raised: Exception | Missed | None) -> Any:
        """The rest of a call that the entry tried first has not answered; raised: the error, or the value, it met."""
        if not config.special and not isinstance(raised, Exception):
            entries, ways = self._entries, self._ways
            left = entries[1:] if raised is None else raised.among(entries, ways)
            try:
                while left:
                    for entry in left:
                        result = entry(*args, **kwargs)
                        if type(result) is Missed:
                            left = [e for e in result.among(entries, ways) if e in left[left.index(entry) :]]
                            break
                        if result is not MISS:
                            if entry is self._again:  # not the first time: it may well be the next one, too
                                self._lead([entry, *[e for e in entries if e is not entry]])
                            self._again = entry
                            return result
                    else:
                        break
            except Delivered as delivered:
                raise delivered.error from None
            except Exception as error:
                raised = error.with_traceback(None)
        if isinstance(raised, Exception) and not isinstance(raised, GuardFailed):  # (a result of another shape)
            return self._failed(raised, args, kwargs)
        modes = config.modes
        if modes.recorder is not None or not modes.staging or config.op_hooks:  # (a hook is called for each operation)
            return self._fn(*args, **kwargs)
        try:
            key, tensors, others = forms.form(self._parameters, args, kwargs)
        except forms.Unfit as error:
            if error.args:
                self._say(str(error), "arguments")
            return self._fn(*args, **kwargs)
        form, why, compiling = self._forms.get(key), "", False
        if form is not None:
            if form.reason is not None and form.attempts >= ATTEMPTS:
                return self._fn(*args, **kwargs)
            for r in form.recordings:
                if r.program is None:
                    compiling = True
                    continue
                try:
                    given = r.gather(tensors, self._parameters.free_arguments(args, kwargs) if r.fed else {})
                except Exception as error:  # (a division by zero)
                    return self._failed(error, args, kwargs)
                if (changed := r.applies(given)) is not None:
                    why = f"{changed} changed"
                    continue
                if self.check:
                    return self._checked(r, given, args, kwargs)
                try:
                    result = r.run(given)
                    if r.entry is not None:
                        self._use([r.entry, *[e for e in self._entries if e is not r.entry][: ENTRIES - 1]])
                    return result
                except GuardMissed as missed:
                    why = str(missed)
                except GuardFailed as failed:
                    why = str(failed).partition("\n")[0]
                except Exception as error:
                    return self._failed(error, args, kwargs)
                except Delivered as delivered:
                    raise delivered.error from None
        if compiling and not why:
            return self._fn(*args, **kwargs)  # eager calls go on until the other thread is done
        return self._record(key, form, args, kwargs, tensors, others, why)

    def _failed(self, error: Exception, args: tuple, kwargs: dict) -> Any:
        """A native call raised. Nothing was committed: the eager run shows the error, if any, at the user's line."""
        self._note(f"a native call failed ({type(error).__name__}: {error}) and ran eagerly")
        return self._fn(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------ recording
    def _record(
        self,
        key: Any,
        form: _Form | None,
        args: tuple,
        kwargs: dict,
        tensors: list[Any],
        others: list[tuple[str, Any]],
        why: str,
    ) -> Any:
        if form is not None and len(form.recordings) >= self.limit:
            calls = sum(r.calls for r in form.recordings)
            if calls < WORTH * len(form.recordings) and form.seconds == float("inf"):
                reason = (
                    f"it took more than {self.limit} paths for arguments of one form (the last because {why}); use "
                    "ag.where or ag.cond, pass what changes as a Tensor, or raise limit="
                )
                form.reason, form.attempts = reason, ATTEMPTS
                self._say(reason, "paths")
                return self._fn(*args, **kwargs)
            if not self.strict and not form.has_paid():  # recording would cost more than it gives
                if not form.runs:
                    self._note(f"more than {self.limit} paths: runs eagerly until recording another one pays ({why})")
                start = perf_counter()
                result = self._fn(*args, **kwargs)
                form.runs, form.seconds = form.runs + 1, min(form.seconds, perf_counter() - start)
                return result
            form.runs = 0
            *form.recordings, dropped = form.recordings
            self._use([e for e in self._entries if e is not dropped.entry])
        if self._evicted > 4 * FORMS:
            self._say(
                f"it was called with more than {5 * FORMS} different forms of arguments (Python numbers count by "
                "value); pass what varies as a Tensor",
                "forms",
            )
            return self._fn(*args, **kwargs)
        if not _recording_lock.acquire(blocking=False):
            return self._fn(*args, **kwargs)  # another thread is recording: do not wait for it, nor for its compiler
        watch = Watch()
        try:
            return self._record_locked(watch, key, args, kwargs, tensors, others, why)
        finally:
            watch.collect()  # not before: what is recorded and made of it is much, and stays
            _recording_lock.release()

    def _record_locked(
        self,
        watch: Watch,
        key: Any,
        args: tuple,
        kwargs: dict,
        tensors: list[Any],
        others: list[tuple[str, Any]],
        why: str,
    ) -> Any:
        start = perf_counter()
        parameters = self._parameters
        free = parameters.free_arguments(args, kwargs)
        if key not in self._forms:
            label = forms.labels(parameters, args, kwargs)
            why = forms.news(label, [f.label for f in self._forms.values()])
        else:
            label = self._forms[key].label
            for r in self._forms[key].recordings:
                self._varying |= r.guards.varied()
        candidates, constants = parameters.candidates(args, kwargs)
        evidence = Evidence(parameters.code, candidates, constants) if candidates else None
        recorder = Recorder(watch, evidence)
        recorder.turns = watch.turns = Turns(recorder, watch)
        watch.tensors = tensors
        for i, t in enumerate(tensors):
            recorder.add_argument(t, i)
        try:
            watch.start(self._fn, others)
            with recording(recorder), evidence or contextlib.nullcontext():
                result = self._fn(*args, **kwargs)
        finally:
            watch.stop()
            recorder.turns.stop()
        if evidence is not None:
            found = evidence.proven()
            lost = free.keys() - found
            if lost or not evidence.blocked:
                self._fix(evidence)
            if lost:  # this path looks at their values: from now on they are part of the form
                parameters.free -= lost
                self._forms = {}
                self._use([])
                return result
            if new := found - free.keys():
                parameters.free |= new
                watch.free.update(id(candidates[n]) for n in new)
                key, tensors, _ = forms.form(parameters, args, kwargs)
                label = forms.labels(parameters, args, kwargs)
                why = forms.news(label, [f.label for f in self._forms.values()])
                free = {n: candidates[n] for n in found}
        form = self._forms.get(key)
        if form is None:
            form = self._new_form(key, label)
        try:
            made = Recording(self.__name__, recorder, watch, result, tensors, self._varying, free)
            made.guards.failed()
        except NotStageable as error:
            form.attempts += 1
            form.reason = str(error)
            self._note(f"not staged: {error}")
            if self.strict and not (error.once and form.attempts < ATTEMPTS):
                raise StagingError(f"{self.__name__} cannot be staged: {error}") from None
            if form.attempts >= ATTEMPTS:
                self._say(str(error))
            return result
        finally:
            watch.tensors = []
            recorder.turns = watch.turns = None  # no cycle: what was only looked at goes now
        form.reason, form.attempts = None, 0
        form.recordings = [made, *form.recordings]
        made.guards.when_gone = functools.partial(_drop, weakref.ref(self), weakref.ref(made), key)
        self._note(f"recorded {made.graph.count()} operations" + (f": {why}" if why else ""))
        described = None if self.check or not config.modes.grad else describe(args, kwargs, tensors, parameters)
        if self.background and not config.reproducible:
            threading.Thread(target=self._compile, args=(made, described), daemon=True).start()
        else:
            self._compile(made, described)
        made.cost = perf_counter() - start
        return result

    def _fix(self, evidence: Evidence) -> None:
        """Count by value what Python code has looked at, and warn of those that were said to be dynamic."""
        looked = evidence.looked_at()
        self._parameters.fix(looked)
        for name in sorted(self._parameters.hinted & looked):
            advice = f"pass ag.asarray({name}) instead, or leave it out of dynamic="
            text = f"{name} is said to be dynamic, but {evidence.doubt(name)}; {advice}"
            if self.strict:
                raise StagingError(f"{self.__name__}: {text}")
            self._note(text)
            warn(f"agog.function: {self.__name__}: {text}", StagingWarning)

    def _new_form(self, key: Any, label: list[str]) -> _Form:
        while len(self._forms) >= FORMS:
            self._forms.pop(next(iter(self._forms)), None)
            self._evicted += 1
        form = self._forms[key] = _Form(label)
        return form

    def _compile(self, made: Recording, arguments: Any) -> None:
        made.compile()
        entry = made.entry = write_entry(made, arguments, self._missed)
        if entry is not None:
            self._use([entry, *self._entries[: ENTRIES - 1]])

    def _checked(self, r: Recording, tensors: list[Any], args: tuple, kwargs: dict) -> Any:
        """Compute natively without committing, run eagerly for real, and compare."""
        inputs = [wrap(t._data) for t in r.inputs(tensors)]
        try:
            outs = r.program([t._data for t in inputs])  # type: ignore[misc]
        except Exception as error:
            return self._failed(error, args, kwargs)
        recorder = Recorder(keep=True)
        for i, t in enumerate(tensors):
            recorder.add_argument(t, i)
        with recording(recorder):
            result = self._fn(*args, **kwargs)
        compare(self.__name__, r, [t._data for t in inputs], outs, recorder, result)
        return result

    # ---------------------------------------------------------------------------------------------- seeing inside
    def _find(self, args: tuple, kwargs: dict) -> Recording | None:
        """The recording that a call with these arguments would use, else the newest for their form."""
        try:
            inspect.signature(self._fn).bind(*args, **kwargs)
        except TypeError as error:  # of a method, Python hands the object to a call, but not to `explain`
            owner = getattr(self, "__qualname__", "").rpartition(".")[0].rpartition(".")[2]
            hint = f"; write {owner}.{self.__name__}, and give the object first" if owner.isidentifier() else ""
            raise ArgumentTypeError(f"{self.__name__} cannot be called with these arguments: {error}{hint}") from None
        except ValueError:  # a callable that does not state its arguments
            pass
        try:
            key, tensors, _ = forms.form(self._parameters, args, kwargs)
        except forms.Unfit:
            return None
        form = self._forms.get(key)
        if form is None:
            return None
        free = self._parameters.free_arguments(args, kwargs)
        fitting = [r for r in form.recordings if r.applies(r.gather(tensors, free)) is None]
        return next(iter([*fitting, *form.recordings]), None)

    def _found(self, args: tuple, kwargs: dict, what: str) -> Recording:
        found = self._find(args, kwargs)
        if found is None:
            raise StagingError(
                f"{what}: {self.__name__} has not been recorded for these arguments; call it with them first, "
                "and see explain() if it runs eagerly"
            )
        return found

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """A report: recordings, guards, why it was recorded again, why it runs eagerly, what was compiled.

        With arguments, also the details of the recording that a call with them uses. Of a method, write
        `Class.method.explain(object, ...)`.
        """
        return explain(self, self._find(args, kwargs) if args or kwargs or self._no_parameters() else None)

    def _no_parameters(self) -> bool:
        return not self._parameters.names

    def graph(self, *args: Any, **kwargs: Any) -> Any:
        """The graph recorded for these arguments. Raises StagingError when there is none yet."""
        return self._found(args, kwargs, "graph").graph

    def code(self, *args: Any, kind: str = "llvm", **kwargs: Any) -> str:
        """What was compiled for these arguments: kind 'loops', 'llvm' or 'asm'. Raises StagingError if nothing."""
        program = self._found(args, kwargs, "code").program
        if kind not in ("loops", "llvm", "asm"):
            raise ArgumentError(f"code: kind={kind!r}; use 'loops', 'llvm' or 'asm'")
        describe = getattr(program, "code", None)
        if describe is None:
            raise StagingError("code: this recording runs without native code")
        return describe(kind)

    # ------------------------------------------------------------------------------------------- what happened
    def _note(self, text: str) -> None:
        self._history.append(text)
        del self._history[:-100]

    def _say(self, reason: str, kind: str = "") -> None:
        """Warn once (for each kind) that the function runs eagerly, and why."""
        if self.strict:
            raise StagingError(f"{self.__name__} cannot be staged: {reason}")
        if (kind or reason) not in self._warned:
            self._warned.add(kind or reason)
            self._note(f"runs eagerly: {reason}")
            warn(f"agog.function: {self.__name__} runs eagerly: {reason}", StagingWarning)


_CALL: Any = Function.__dict__["__call__"]
"""The slot, also of an object whose class has a method of that name."""


def _going_on(function: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
    """What goes on with a call of a staged function, a weak reference: what is called first must not keep it alive."""

    def missed(args: tuple, kwargs: dict, error: Any) -> Any:
        if isinstance(error, Delivered):
            raise error.error from None
        if args and args[-1] is ABSENT:
            args = tuple([x for x in args if x is not ABSENT])
        f = function()
        return fn(*args, **kwargs) if f is None else f._go_on(args, kwargs, error)

    return missed


def _from_the_start(missed: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: missed(args, kwargs, None)


def _drop(function: Any, recording: Any, key: Any) -> None:
    """Forget a recording whose guards can hold no more: something that they compare with by identity is gone."""
    f, r = function(), recording()
    if f is None or r is None:
        return
    f._use([e for e in f._entries if e is not r.entry])
    f._past += r.calls
    f._evicted += r.calls == 0
    r.entry = None
    form = f._forms.get(key)
    if form is not None:
        form.recordings = [other for other in form.recordings if other is not r]
        if not form.recordings and form.reason is None:
            f._forms.pop(key, None)


def _remake(fn: Any, options: dict[str, Any]) -> Function:
    return Function(fn, **options)


_OPTIONS = frozenset({"strict", "check", "background", "limit", "dynamic"})
_ELSEWHERE = {  # options of torch.compile, jax.jit and tf.function
    "fullgraph": "strict= here",
    "static_argnums": "not needed: each value of a Python argument is a form of its own",
    "static_argnames": "not needed: each value of a Python argument is a form of its own",
    "donate_argnums": "not needed: memory is reused where nobody can tell",
    "reduce_retracing": "dynamic= here, for numbers; each shape is compiled by itself",
    "input_signature": "not needed: the first call says it",
    "jit_compile": "not needed",
    "mode": "not needed",
    "backend": "not needed",
}
_OWN = frozenset(vars(Function(lambda: None))) | {"__wrapped__"}


def function(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Stage a function: record it while it runs, then call native code with the same results.

        @ag.function
        def step(x, t):
            loss = ((model(x) - t) ** 2).mean()
            ...

    Works on functions, methods, lambdas, callable objects and Modules; as a decorator with or without arguments.

    strict      raise StagingError instead of running eagerly when something cannot be staged
    check       run each call eagerly as well, and raise StagingError where the results differ
    background  compile in another thread while eager calls go on
    limit       how many paths of data-dependent control flow to keep for arguments of one form
    dynamic     parameters whose numbers or NumPy arrays will vary: names, or True for all. They are inputs from the
                first call on where only operations use them; a name of which that is not so is warned of
                (StagingError with `strict`). By default a number becomes an input when it has had a second value;
                False keeps each value a form of the arguments. Shapes are constants in any case.
    """
    if unknown := options.keys() - _OPTIONS:
        said = [f"{name}= is {_ELSEWHERE[name]}" for name in sorted(unknown) if name in _ELSEWHERE]
        names = ", ".join(f"{name}=" for name in sorted(unknown))
        raise ArgumentTypeError(f"function: there is no {names}; the options are {', '.join(sorted(_OPTIONS))}"
                                + "".join(f" ({text})" for text in said))
    if fn is None:
        return lambda f: Function(f, **options)
    return Function(fn, **options)
