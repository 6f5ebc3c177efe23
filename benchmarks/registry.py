"""All workloads by name."""

from __future__ import annotations

from benchmarks import bodies, versions, workloads

WORKLOADS: dict[str, workloads.Workload] = {**workloads.WORKLOADS, **bodies.WORKLOADS, **versions.WORKLOADS}
