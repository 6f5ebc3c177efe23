"""Run one workload for a bounded time and say how it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.client import Outcome, Request, Server, Unanswered, drive
from benchmarks.processes import cpu_seconds
from benchmarks.volumes import Volume
from benchmarks.workloads import Bench, Check, Reading, Round, Workload, Wrong

Result = dict[str, Any]


def measure(
    workload: Workload, server: Server, volume: Volume, seconds: float, connections: int, pid: int | None = None
) -> Result:
    """Prepare, check and time a workload; what goes wrong is part of the result. `pid` is the server's process."""
    started = time.perf_counter()
    result: Result = {"required": workload.required}
    try:
        bench = Bench(server, volume, connections, workload.name)
        load = Load(bench, pid)
        plan = workload.plan(bench)
        if isinstance(plan, Reading):
            result |= _read(plan, load, seconds, started)
        else:
            result |= _ingest(plan, load, seconds, started)
    except (Unanswered, Wrong) as error:
        return result | {"check": f"not run: {error}", "rate": 0.0, "errors": 1}
    return result | {"notes": bench.notes}


class Load:
    """Sends requests, and knows what the server's processes took for them."""

    def __init__(self, bench: Bench, pid: int | None) -> None:
        self._bench = bench
        self._pid = pid
        self.server_cpu: float | None = None if pid is None else 0.0

    def drive(self, requests: Sequence[Request], seconds: float | None = None) -> Outcome:
        before = 0.0 if self._pid is None else cpu_seconds(self._pid)
        outcome = drive(self._bench.server.target, requests, self._bench.connections, seconds)
        if self._pid is not None and self.server_cpu is not None:
            self.server_cpu += cpu_seconds(self._pid) - before
        return outcome

    def summary(self, outcome: Outcome) -> Result:
        result = _summary(outcome)
        if self.server_cpu is not None and outcome.answered:
            result["server_us"] = self.server_cpu / outcome.answered * 1e6
            result["client_us"] = outcome.cpu / outcome.answered * 1e6
        return result


def _read(plan: Reading, load: Load, seconds: float, started: float) -> Result:
    check = _verdict(plan.check)
    setup = time.perf_counter() - started
    outcome = load.drive(plan.requests, seconds)
    result = load.summary(outcome) | {"check": check, "setup_seconds": setup, "distinct": len(set(plan.requests))}
    if outcome.first_pass and result["distinct"] == len(plan.requests):
        result["first_pass_rate"] = len(plan.requests) / outcome.first_pass
    return result | {"unit": "requests/s", "rate": result["requests_per_second"]}


def _ingest(rounds: Iterator[Round], load: Load, seconds: float, started: float) -> Result:
    """Post whole volumes into fresh instances until the time is over, but at least one."""
    total, check, amount, settling, rounds_done, setup = Outcome(), "ok", 0.0, 0.0, 0, 0.0
    for current in rounds:
        setup = setup or time.perf_counter() - started
        outcome = load.drive(current.requests)
        total.add(outcome)
        amount += current.amount * outcome.answered / len(current.requests)
        since = time.perf_counter()
        if current.settle and not outcome.failed and not current.settle():
            check = "the label index never became complete"
        settling += time.perf_counter() - since
        rounds_done += 1
        if rounds_done == 1 and check == "ok":
            check = _verdict(current.check)
        if total.elapsed >= seconds or outcome.failed:
            break
    result = load.summary(total) | {"check": check, "setup_seconds": setup, "rounds": rounds_done}
    if current.settle and total.elapsed:
        result["settled_rate"] = amount / (total.elapsed + settling)
    return result | {"unit": current.unit, "rate": amount / total.elapsed if total.elapsed else 0.0}


def _verdict(check: Check) -> str:
    try:
        check()
    except Wrong as error:
        return f"wrong: {error}"
    except Unanswered as error:
        return f"no answer: {error}"
    except Exception as error:
        # Whatever a malformed answer makes a decoder raise is a finding, not a crash of the benchmark.
        return f"undecodable: {type(error).__name__}: {error}"
    return "ok"


def _summary(outcome: Outcome) -> Result:
    elapsed = outcome.elapsed or float("inf")
    latencies = np.array(outcome.latencies or [np.nan]) * 1e3
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(latencies, [50, 95, 99]))
    return {
        "requests": outcome.answered,
        "errors": outcome.failed,
        "error_samples": dict(outcome.errors.most_common(3)),
        "seconds": outcome.elapsed,
        "requests_per_second": outcome.answered / elapsed,
        "mb_per_second": max(outcome.received, outcome.sent) / elapsed / 1e6,
        "p50_ms": p50 if outcome.answered else None,
        "p95_ms": p95 if outcome.answered else None,
        "p99_ms": p99 if outcome.answered else None,
        "client_cpu": outcome.cpu / elapsed,
    }
