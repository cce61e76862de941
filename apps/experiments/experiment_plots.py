"""A figure for each table, of its record alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

Record = Mapping[str, Any]
Told = Mapping[str, Any]
"""A value with its standard error, as records have it."""
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b"),
    *("#17becf", "#e377c2", "#7f7f7f", "#bcbd22", "#000080", "#8b0000"),
)


def png(record: Record) -> bytes | None:
    """The figure of a table's record; None of one that has none."""
    draw = PLOTS.get(record["table"])
    if draw is None:
        return None
    file = BytesIO()
    draw(record).savefig(file, dpi=110, format="png", metadata={"Software": ""})
    return file.getvalue()


def panels(*titles: str, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.4 * len(titles), height), layout="constrained")
    found = [*figure.subplots(1, len(titles), squeeze=False)[0]]
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.2)
    return figure, found


def error(told: Told) -> float:
    return told["standard_error"] or 0.0


def line(axes: Axes, x: Sequence[float], told: Sequence[Told], label: str, colour: str, **style: Any) -> None:
    """Through values, with their standard errors."""
    values, errors = [each["value"] for each in told], [error(each) for each in told]
    style = {"marker": "o", "markersize": 3, "linewidth": 1.2, "capsize": 2, "elinewidth": 0.8, **style}
    axes.errorbar(x, values, errors, label=label, color=colour, **style)


def bars(axes: Axes, names: Sequence[str], told: Sequence[Told], colours: Sequence[str], scale: float = 1.0) -> None:
    """From the top down."""
    place = range(len(names))
    values, errors = [scale * each["value"] for each in told], [scale * error(each) for each in told]
    axes.barh(place, values, xerr=errors, color=colours, error_kw={"elinewidth": 0.8, "capsize": 2})
    axes.set_yticks(place, names, fontsize=8)
    axes.invert_yaxis()


def level(axes: Axes, told: Told, label: str, colour: str) -> None:
    """A line across, as wide as its error."""
    axes.axhspan(told["value"] - error(told), told["value"] + error(told), color=colour, alpha=0.2, linewidth=0)
    axes.axhline(told["value"], color=colour, linewidth=0.8, linestyle="--", label=label)


def powers(axes: Axes, at: Iterable[float], label: str) -> None:
    """Doublings along the horizontal."""
    axes.set_xscale("log", base=2)
    ticks = sorted({*at})
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(label, fontsize=9)


def logarithmic(axes: Axes) -> None:
    """Upwards, with numbers between the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.tick_params(axis="y", which="both", labelsize=7)


def levels(record: Record) -> Figure:
    figure, (raster, filled) = panels("drawn in raster order", "completed", height=5.4)
    marked = {record["bar"]: "the bar", record["default"]: "the default"}
    for axes, name, said in ((raster, "raster KID", "raster KID"), (filled, "filled", "feature distance to the truth")):
        for k, row in enumerate(record["rows"]):
            x, y = row["over_seeds"]["KID"], row["over_seeds"][name]
            colour, mark, size = COLOURS[k % len(COLOURS)], "os^D"[k // len(COLOURS)], 5
            if row["law"] == record["default"]:
                colour, mark, size = "black", "*", 11
            ends = (error(y), error(x))
            axes.errorbar(x["value"], y["value"], *ends, fmt=mark, markersize=size, color=colour, label=row["law"])
            if row["law"] in marked:
                place = (x["value"], y["value"])
                behind = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
                axes.annotate(marked[row["law"]], place, (7, 5), textcoords="offset points", fontsize=8, bbox=behind)
        axes.set_xlabel("KID, drawn all at once", fontsize=9)
        axes.set_ylabel(said, fontsize=9)
    figure.legend(*raster.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def length(record: Record) -> Figure:
    shown = {"KID": "drawn all at once: KID", "raster KID": "raster order: KID", "filled": "completed: distance"}
    figure, found = panels(*shown.values())
    for axes, name in zip(found, shown, strict=True):
        for k, law in enumerate(dict.fromkeys(row["law"] for row in record["rows"])):
            rows = [row for row in record["rows"] if row["law"] == law]
            line(axes, [row["steps"] for row in rows], [row["over_seeds"][name] for row in rows], law, COLOURS[k])
        powers(axes, [row["steps"] for row in record["rows"]], "steps of training")
    found[0].legend(fontsize=7)
    return figure


def mixtures(record: Record) -> Figure:
    """What each law differs by from the bar, which is the line at 0."""
    shown = ("50 guided steps", "64 steps", "raster, 192 steps")
    figure, found = panels(*(f"ancestral KID, {name}" for name in shown), "completed: distance")
    rows = [row for row in record["rows"] if row["law"] != record["bar"]]
    told = [[row["drawn"][name]["minus_bar"] for row in rows] for name in shown]
    told.append([row["minus_bar"]["filled"] for row in rows])
    called = [row["law"] + ", default" * (row["law"] == record["default"]) for row in rows]
    for axes, each in zip(found, told, strict=True):
        bars(axes, called if axes is found[0] else [""] * len(rows), each, [COLOURS[0]] * len(rows))
        axes.axvline(0.0, color="#000000", linewidth=0.8)
        axes.set_xlabel("minus one logit-normal level for all", fontsize=9)
    return figure


def solvers(record: Record) -> Figure:
    tasks = [*dict.fromkeys(row["task"] for row in record["rows"])]
    figure, found = panels(*(f"{task}: KID" for task in tasks))
    for axes, task in zip(found, tasks, strict=True):
        rows = [row for row in record["rows"] if row["task"] == task]
        ways = [*dict.fromkeys(row["way"] for row in record["rows"])]
        for model, style in ((record["bar"], "--"), (record["default"], "-")):
            for k, way in enumerate(ways):
                some = [row for row in rows if (row["way"], row["model"]) == (way, model)]
                x, label = [row["evaluations"] for row in some], way if model == record["default"] else ""
                if some:
                    line(axes, x, [row["kid"] for row in some], label, COLOURS[k], linestyle=style)
        powers(axes, [row["evaluations"] for row in rows], "network evaluations; dashed: one level for all")
        axes.set_ylim(bottom=0)
    found[0].legend(fontsize=7)
    return figure


def inpainting(record: Record) -> Figure:
    figure, (near, whole) = panels("masks as drawn: distance to the truth", "whole patches (extrema): distance")
    floors = {(row["masks"], row["asked"]): row["distance"] for row in record["floors"]}
    for axes, masks in ((near, "all"), (whole, "extrema-patches")):
        for k, (name, rows) in enumerate(record["curves"].items()):
            some = [row for row in rows if row["masks"] == masks]
            line(axes, [row["evaluations"] for row in some], [row["distance"] for row in some], name, COLOURS[k])
        level(axes, floors[masks, "nearest image"], "nearest image", "#999999")
        powers(axes, [int(row["asked"]) for row in record["curves"]["native"]], "network evaluations")
    near.legend(fontsize=7, ncols=2)
    return figure


def guidance(record: Record) -> Figure:
    families = [*dict.fromkeys(part["masks"] for part in record["completions"])]
    figure, found = panels(*(f"completions, {family}" for family in families), "textures: PSNR of the hole, dB")
    at_one = lambda part: [
        row for row in part["rows"] if row["level"] == 1 and row["steps"] == part["rows"][0]["steps"]
    ]
    for axes, family in zip(found, families, strict=False):
        for k, part in enumerate(part for part in record["completions"] if part["masks"] == family):
            rows = at_one(part)
            x = [row["diversity"]["value"] for row in rows]
            line(axes, x, [row["distance"] for row in rows], part["sampler"], COLOURS[k])
            for row in (rows[0], rows[-1]):
                axes.annotate(f"{row['weight']:g}", (row["diversity"]["value"], row["distance"]["value"]), fontsize=7)
        axes.set_xlabel("diversity: distance of two seeds", fontsize=9)
        axes.set_ylabel("distance to the truth", fontsize=9)
        axes.legend(fontsize=7)
    for k, part in enumerate(record["textures"]):
        rows = at_one(part)
        line(found[-1], [row["weight"] for row in rows], [row["psnr"] for row in rows], part["masks"], COLOURS[k])
    found[-1].set_xlabel("weight of input guidance", fontsize=9)
    found[-1].legend(fontsize=7)
    return figure


WAYS_SHOWN = (
    *("synchronous", "predicted, patience 1", "changing, patience 0.5", "changing, patience 1"),
    *("changing, patience 1, lagged", "dual loop", "look ahead", "round robin"),
)


def acceleration(record: Record) -> Figure:
    titles = ("tokens see all, by moves", "tokens see all, by time", "tokens see cleaner ones, by time")
    figure, found = panels(*titles, height=4.0)
    shown = (("all", "moves"), ("all", "seconds"), ("one-way", "seconds"))
    for axes, (seen, key) in zip(found, shown, strict=True):
        rows = record["models"][seen]["rows"]
        for k, way in enumerate(WAYS_SHOWN):
            some = [row for row in rows if row["way"] == way]
            x = [row[key] * (1000 if key == "seconds" else 1) for row in some]
            colour = "#000000" if not k else COLOURS[(k - 1) % len(COLOURS)]
            if some:
                line(axes, x, [row["kid"] for row in some], way, colour, linewidth=2 if not k else 0.9)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("moves of a token" if key == "moves" else "ms of a core for an image", fontsize=9)
        axes.set_ylabel("KID", fontsize=9)
        axes.xaxis.set_major_formatter("{x:g}")
        logarithmic(axes)
    figure.legend(*found[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def orders(record: Record) -> Figure:
    at = sorted({row["asked"] for row in record["orders"]})
    most = at[len(at) // 2]
    titles = ("blocks: KID by evaluations", f"overlap: KID, {most} evaluations", f"KID, about {most} evaluations")
    figure, (blocks, overlap, kid, bits) = panels(*titles, "bits/dim above synchronous", height=4.2)
    curves = ("synchronous", *(row["order"] for row in record["orders"] if row["order"].split(",")[0] == "raster"))
    for k, order in enumerate(dict.fromkeys(curves)):
        rows = [row for row in record["orders"] if row["order"] == order]
        line(blocks, [row["evaluations"] for row in rows], [row["kid"] for row in rows], order, COLOURS[k])
    powers(blocks, at, "network evaluations")
    logarithmic(blocks)
    of = {row["order"]: row for row in record["orders"] if row["asked"] == most}
    called = {"width": "staggered, by width, raster", "overlap": "most certain first, by overlap"}
    for k, (kind, order) in enumerate(zip(called, ("raster", "most certain first, predicted"), strict=True)):
        rows = [of[order], *(row for row in record["overlaps"] if row["kind"] == kind)]
        moves = [row["moves"] for row in rows]
        line(overlap, moves, [row["kid"] for row in rows], called[kind], COLOURS[k + 1])
        for x, row in zip(moves[1:], rows[1:], strict=True):
            overlap.annotate(f"{row['value']:g}", (x, row["kid"]["value"]), fontsize=7, ha="left", va="bottom")
    level(overlap, of["synchronous"]["kid"], "synchronous", COLOURS[0])
    powers(overlap, (8, 16, 32, 64), "moves of a token; the first ones without overlap")
    overlap.set_ylim(bottom=0)
    for axes in (blocks, overlap):
        axes.legend(fontsize=7)
    rows = [row for row in record["orders"] if row["asked"] == most]
    bars(kid, [row["order"] for row in rows], [row["kid"] for row in rows], [COLOURS[0]] * len(rows))
    likely = [row for row in record["bits_per_dim"] if row["minus_synchronous"] is not None]
    told = [row["minus_synchronous"] for row in likely]
    bars(bits, [row["order"] for row in likely], told, [COLOURS[1]] * len(likely))
    return figure


def conversion(record: Record) -> Figure:
    shown = ("KID", "raster KID", "filled")
    figure, found = panels(*shown)
    start, *between, scratch = record["rows"]
    rate = between[0]["learning_rate"]
    rows = [row for row in between if row["row"].startswith("tuned") and row["learning_rate"] == rate]
    for axes, name in zip(found, shown, strict=True):
        level(axes, start["columns"][name], "synchronous, the start", COLOURS[1])
        level(axes, scratch["columns"][name], "default levels from scratch", COLOURS[2])
        line(axes, [row["steps"] for row in rows], [row["columns"][name] for row in rows], "fine-tuned", COLOURS[0])
        powers(axes, [row["steps"] for row in rows], f"steps of fine-tuning, after {start['steps']}")
    found[-1].legend(fontsize=7)
    return figure


def reasoning(record: Record) -> Figure:
    tasks = [*dict.fromkeys(row["task"] for row in record["rows"] if "trained on" not in row["task"])]
    figure, found = panels(*(f"{task}: right, %" for task in tasks), height=3.8)
    for axes, task in zip(found, tasks, strict=True):
        shown = lambda row, of=task: row["task"] == of and row["levels"] in ("default", "synchronous")
        rows = [row for row in record["rows"] if shown(row) and not row["restarts"]]
        colours = [COLOURS[0] if row["levels"] == "default" else COLOURS[1] for row in rows]
        names = [row["order"] if row["levels"] == "default" else "of one level for all" for row in rows]
        bars(axes, names if axes is found[0] else [""] * len(rows), [row["right"] for row in rows], colours, 100.0)
        again = {row["order"]: row["right"] for row in record["rows"] if shown(row) and row["restarts"]}
        place = [k for k, row in enumerate(rows) if row["levels"] == "default" and row["order"] in again]
        values = [again[rows[k]["order"]] for k in place]
        x, errors = [100 * each["value"] for each in values], [100 * error(each) for each in values]
        below = [each + 0.25 for each in place]
        style = {"markersize": 4, "capsize": 2, "elinewidth": 0.8, "label": "with restarts"}
        axes.errorbar(x, below, xerr=errors, fmt="D", color="#ff7f0e", markeredgecolor="#000000", **style)
    for colour, label in ((COLOURS[0], "trained by the default levels"), (COLOURS[1], "trained on one level for all")):
        found[0].barh(0, 0, color=colour, label=label)
    figure.legend(*found[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


PLOTS: Mapping[str, Callable[[Record], Figure]] = {
    draw.__name__: draw
    for draw in (levels, length, mixtures, solvers, inpainting, guidance, acceleration, orders, conversion, reasoning)
}
