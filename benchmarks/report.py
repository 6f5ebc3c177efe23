"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Run = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out cells in columns, the first one to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def number(value: float | None) -> str:
    """Print three or four telling digits."""
    if value is None:
        return "-"
    for limit, divisor, unit in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e5, 1e3, " k")):
        if value >= limit:
            return f"{value / divisor:.1f}{unit}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


RUN_HEAD = ("workload", "rate", "unit", "req/s", "MB/s", "p50 ms", "p95 ms", "p99 ms", "errors", "client CPU", "check")


def run_row(name: str, result: Run) -> list[str]:
    figures = [
        number(result.get(key)) for key in ("requests_per_second", "mb_per_second", "p50_ms", "p95_ms", "p99_ms")
    ]
    cpu = f"{100 * result['client_cpu']:.0f} %" if "client_cpu" in result else "-"
    check = "ok" if result["check"] == "ok" else "FAILED"
    return [name, number(result["rate"]), result.get("unit", "-"), *figures, str(result["errors"]), cpu, check]


def run_table(run: Run) -> str:
    lines = [table(RUN_HEAD, (run_row(name, result) for name, result in run["results"].items())), ""]
    for name, result in run["results"].items():
        extras = [f"{result[key]:,.0f} {text}" for key, text in _EXTRAS.items() if result.get(key)]
        extras += result.get("notes", [])
        if result["check"] != "ok":
            extras.append(result["check"])
        extras += [f"{count} × {reason}" for reason, count in result.get("error_samples", {}).items()]
        if extras:
            lines.append(f"{name}: {'; '.join(extras)}")
    return "\n".join(lines)


_EXTRAS = {
    "first_pass_rate": "requests/s while every request was new",
    "settled_rate": "voxels/s until the label index was complete as well",
    "server_us": "µs of the server's CPU for each request",
    "client_us": "µs of the client's",
}


def preamble(run: Run) -> str:
    ceiling = run["client"].get("ceiling")
    lines = [
        f"labels: {run['volume']['labels']}, grey: {run['volume']['grey']}, edge {run['volume']['edge']}",
        f"{run['client']['connections']} connections, {run['client']['seconds']:g} s each, {run['client']['loop']}",
    ]
    if ceiling:
        lines.append(
            f"client's own ceiling: {number(ceiling['requests_per_second'])} requests/s "
            f"({ceiling['client_us_per_request']:.1f} µs of CPU each), {number(ceiling['mb_per_second'])} MB/s"
        )
    return "\n".join(lines)


def comparison(runs: Sequence[tuple[str, Run]]) -> str:
    """Set every run beside the last one, with the ratio that is required of it."""
    *others, (base_title, base) = runs
    head = ["workload", "unit", *(title for title, _ in runs), *(f"{title} / {base_title}" for title, _ in others)]
    rows = [
        _comparison_row(name, result, [run["results"].get(name) for _, run in others])
        for name, result in base["results"].items()
    ]
    warnings = _differences(runs)
    return "\n".join([table([*head, "required", "reached"], rows), *warnings])


def _comparison_row(name: str, base: Run, others: Sequence[Run | None]) -> list[str]:
    ratios = [other["rate"] / base["rate"] if other and base["rate"] else None for other in others]
    enough = [ratio is not None and ratio >= base["required"] for ratio in ratios]
    return [
        name,
        base.get("unit", "-"),
        *(number(other["rate"]) + _flag(other) if other else "-" for other in others),
        number(base["rate"]) + _flag(base),
        *(f"{ratio:.2f}" if ratio is not None else "-" for ratio in ratios),
        f"{base['required']:g}",
        "/".join("yes" if one else "no" for one in enough),
    ]


def _flag(result: Run) -> str:
    return " !" if result["errors"] or result["check"] != "ok" else ""


def _differences(runs: Sequence[tuple[str, Run]]) -> list[str]:
    """Name what makes the runs unlike each other, or untrustworthy."""
    settings = [(title, {"volume": run["volume"], **run["client"]}) for title, run in runs]
    lines = [
        f"Not the same {what}: " + "; ".join(f"{title} {one[what]}" for title, one in settings)
        for what in ("volume", "connections", "seconds")
        if any(one[what] != settings[0][1][what] for _, one in settings)
    ]
    if any(_flag(result) for _, run in runs for result in run["results"].values()):
        lines.append("! = with errors, or with an answer that was not right")
    return lines
