"""Lines of the table, as Markdown and as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .protocol import Timings, spread

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
TITLES = {
    "0": "Two equal things",
    "3": "Blocks: a level per token against one per sample, and against a projection per token",
    "3c": "Blocks: levels that are continuous",
    "4": "The whole network, eager and compiled, at the maps of generation and training",
    "5": "A training step: forward, backward, fused AdamW, average of the weights",
    "7": "Optimizer and average alone",
    "8": "Synchronous sampling, one image",
    "9": "Synchronous sampling, a batch with classifier-free guidance",
    "10": "Inpainting, 75 % of the tokens known",
    "11": "Certain tokens ahead, the others in small steps",
    "12": "Tokens that are finished early",
    "13": "Block by block, one-way attention",
    "14": "Input guidance with classifier-free guidance: four contexts",
    "16": "Cold start: every block compiled as one, against the whole network",
    "off": "What tokens at rest cost in error, on a trained model with attention both ways",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison.

    Args:
        row: which row of the table it belongs to.
        what: the work.
        ours, peer: names of the sides.
        milliseconds: of ours, the median.
        speed_up: the peer's time over ours: median, 10th and 90th percentile of the pairs.
        processor: the median of the same ratio in processor time.
        pairs: how many.
        error, peer_error: relative errors against the reference, before timing.
        goal: the speed-up that was aimed at.
        limit: the limit's time over ours: the share of it that is reached.
        memory: ours over the peer's.
        note: what else was measured.
    """

    row: str
    what: str
    ours: str
    peer: str
    milliseconds: float
    speed_up: tuple[float, float, float]
    processor: float
    pairs: int
    error: float | None = None
    peer_error: float | None = None
    goal: float | None = None
    limit: float | None = None
    memory: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A line that this machine cannot fill."""

    row: str
    what: str
    why: str = "no GPU"


@dataclass(frozen=True, slots=True)
class Off:
    """How far off a trained model is that leaves out tokens at rest.

    Args:
        refresh: calls from one that leaves out nothing to the next.
        share: of the tokens that go through the network.
        output: relative error of the network's output for the tokens that move, over all steps.
        tokens: of what generation adds to the tokens that it starts from.
    """

    what: str
    refresh: int
    share: float
    output: float
    tokens: float
    row: str = "off"


Entry = Line | NotMeasured | Off
KINDS: dict[str, Any] = {"line": Line, "not measured": NotMeasured, "off": Off}


def line(
    row: str,
    what: str,
    timings: Timings,
    ours: str,
    peer: str,
    *,
    goal: float | None = None,
    limit: str | None = None,
    memory: float | None = None,
    note: str = "",
) -> Line:
    """The line on two sides of a comparison, with a third as the limit."""
    return Line(
        row,
        what,
        ours,
        peer,
        1000 * spread(timings.seconds[ours])[0],
        spread(timings.ratios(peer, ours)),
        spread(timings.processor_ratios(peer, ours))[0],
        len(timings.seconds[ours]),
        timings.errors.get(ours),
        timings.errors.get(peer),
        goal,
        None if limit is None else spread(timings.ratios(limit, ours))[0],
        memory,
        note,
    )


def verdict(one: Line, equal: tuple[float, float, float]) -> str:
    """Whether a difference is larger than two equal things show, and whether a goal is met."""
    middle = one.speed_up[0]
    told = "faster" if middle > equal[2] else "slower" if middle < equal[1] else "no difference"
    if one.goal is None:
        return told
    return f"{told}; aim {one.goal:.2f} {'met' if middle >= one.goal else 'missed'}"


def as_text(one: Entry) -> str:
    """For the terminal."""
    if isinstance(one, NotMeasured):
        return f"{one.row:>3}  {one.what}: not measured: {one.why}"
    if isinstance(one, Off):
        return (
            f"{one.row:>3}  {one.what}, refresh {one.refresh}: {100 * one.share:.0f} % of the tokens, output off by "
            f"{one.output:.3f}, tokens by {one.tokens:.3f}"
        )
    middle, low, high = one.speed_up
    error = "" if one.error is None else f", error {one.error:.0e}"
    return (
        f"{one.row:>3}  {one.what}: {one.ours} against {one.peer}: {middle:.2f} ({low:.2f} to {high:.2f}), processor "
        f"{one.processor:.2f}, {one.milliseconds:.3g} ms, {one.pairs} pairs{error}"
    )


def as_markdown(entries: Sequence[Entry]) -> str:
    """A table for each row of the benchmark."""
    equal = next((one.speed_up for one in entries if isinstance(one, Line) and one.row == "0"), (1.0, 1.0, 1.0))
    parts = []
    for row in [row for row in TITLES if any(one.row == row for one in entries)]:
        here = [one for one in entries if one.row == row]
        lines = [one for one in here if isinstance(one, Line)]
        far = [one for one in here if isinstance(one, Off)]
        parts.append(f"**{TITLES[row]}**\n" if row == "off" else f"**{row}. {TITLES[row]}**\n")
        if lines:
            parts.append(
                _head("work", "ours", "against", "ms", "faster by", "processor", "of limit", "memory", "error", "")
            )
            parts += [*(_cells(one, equal) for one in lines), ""]
        if far:
            parts.append(_head("generation", "all anew every", "tokens computed", "output off by", "tokens off by"))
            parts += [*map(_far, far), ""]
        notes = dict.fromkeys(one.note for one in lines if one.note)
        missing = [f"{one.what}: not measured: {one.why}." for one in here if isinstance(one, NotMeasured)]
        parts += [f"{each}\n" for each in (*notes, *missing)]
    return "\n".join(parts).rstrip() + "\n"


def _head(*names: str) -> str:
    return f"{_row(*names)}\n{_row(*('---' for _ in names))}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(one: Line, equal: tuple[float, float, float]) -> str:
    middle, low, high = one.speed_up
    return _row(
        *(one.what, one.ours, one.peer, f"{one.milliseconds:.3g}"),
        f"**{middle:.2f}** ({low:.2f} to {high:.2f})",
        f"{one.processor:.2f}",
        "" if one.limit is None else f"{one.limit:.2f}",
        "" if one.memory is None else f"{one.memory:.2f}",
        "" if one.error is None else f"{one.error:.0e}",
        "" if one.row == "0" else verdict(one, equal),
    )


def _far(one: Off) -> str:
    return _row(one.what, str(one.refresh), f"{100 * one.share:.0f} %", f"{one.output:.3f}", f"{one.tokens:.3f}")


def put_between(file: Path, table: str) -> None:
    """Replaces what stands between the markers of a document."""
    text = file.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{file.name} needs {BEGIN} and {END} once each, in this order")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    file.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")


def as_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """For the record."""
    names = {kind: name for name, kind in KINDS.items()}
    return [{"kind": names[type(one)], **asdict(one)} for one in entries]


def from_json(record: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """From the record, once it has been a file."""
    lists: Callable[[Any], Any] = lambda value: tuple(value) if isinstance(value, list) else value
    return [
        KINDS[one["kind"]](**{name: lists(value) for name, value in one.items() if name != "kind"}) for one in record
    ]
