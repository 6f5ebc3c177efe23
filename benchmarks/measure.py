"""Run one workload for a bounded time and say how it went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.client import Outcome, Server, Unanswered, drive
from benchmarks.volumes import Volume
from benchmarks.workloads import Bench, Check, Reading, Round, Workload, Wrong

Result = dict[str, Any]


def measure(workload: Workload, server: Server, volume: Volume, seconds: float, connections: int) -> Result:
    """Prepare, check and time a workload; what goes wrong is part of the result."""
    started = time.perf_counter()
    result: Result = {"required": workload.required}
    try:
        bench = Bench(server, volume, connections, workload.name)
        plan = workload.plan(bench)
        if isinstance(plan, Reading):
            result |= _read(plan, bench, seconds, started)
        else:
            result |= _ingest(plan, bench, seconds, started)
    except (Unanswered, Wrong) as error:
        return result | {"check": f"not run: {error}", "rate": 0.0, "errors": 1}
    return result | {"notes": bench.notes}


def _read(plan: Reading, bench: Bench, seconds: float, started: float) -> Result:
    check = _verdict(plan.check)
    setup = time.perf_counter() - started
    outcome = drive(bench.server.target, plan.requests, bench.connections, seconds)
    result = _summary(outcome) | {"check": check, "setup_seconds": setup, "distinct": len(set(plan.requests))}
    if outcome.first_pass and result["distinct"] == len(plan.requests):
        result["first_pass_rate"] = len(plan.requests) / outcome.first_pass
    return result | {"unit": "requests/s", "rate": result["requests_per_second"]}


def _ingest(rounds: Iterator[Round], bench: Bench, seconds: float, started: float) -> Result:
    """Post whole volumes into fresh instances until the time is over, but at least one."""
    total, check, amount, settling, rounds_done, setup = Outcome(), "ok", 0.0, 0.0, 0, 0.0
    for current in rounds:
        setup = setup or time.perf_counter() - started
        outcome = drive(bench.server.target, current.requests, bench.connections)
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
    result = _summary(total) | {"check": check, "setup_seconds": setup, "rounds": rounds_done}
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
