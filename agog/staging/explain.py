"""What a staged function has done and why, as text."""

from __future__ import annotations

from typing import Any


class Explanation(str):
    """A report; prints as text, and shows as preformatted text in a notebook."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"


def explain(function: Any, recording: Any) -> Explanation:
    """The report of a staged function; `recording` is the one for the arguments that were given, or None."""
    forms = function._forms
    lines = [
        f"staged function {function.__name__}: {sum(len(f.recordings) for f in forms.values())} recordings for "
        f"{len(forms)} forms of arguments"
    ]
    reasons = [f.reason for f in forms.values() if f.reason]
    for reason in dict.fromkeys(reasons):
        lines.append(f"  runs eagerly: {reason}")
    if recording is not None:
        lines += _recording(recording)
    if function._history:
        lines.append("history:")
        lines += [f"  {text}" for text in function._history[-20:]]
    return Explanation("\n".join(lines))


def _recording(r: Any) -> list[str]:
    graph = r.graph
    lines = [f"for these arguments: {graph.count()} operations recorded, called natively {r.calls} times"]
    counts: dict[str, int] = {}
    for source in r.fetch:
        kind = type(source).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
    lines.append("  inputs: " + (", ".join(f"{n} {kind}" for kind, n in counts.items()) or "none"))
    lines.append(
        f"  outputs: {len(r.results)} results, {len(r.writes)} Tensors assigned, {len(r.gradients)} gradients set"
    )
    if r.rebindings:
        lines.append("  rebinds: " + ", ".join(place.name for place, _, _ in r.rebindings))
    if r.held:
        lines.append("  reads afresh: " + ", ".join(held.place.name for held in r.held))
    lines += [f"  {note}" for note in r.loops]
    for guard in r.guard_values:
        lines.append(f"  path: {guard.what} gave {guard.expected!r}" + (f"  ({guard.line})" if guard.line else ""))
    names = r.guards.names()
    if names:
        lines.append("  watches: " + ", ".join(names))
    describe = getattr(r.program, "explain", None)
    if describe is not None:
        lines += [f"  {line}" for line in str(describe()).splitlines()]
    return lines
