"""See what a service asks of its database: statements, N+1, slow ones."""

from araponga_infra.queries.inspector import QueryInspector
from araponga_infra.queries.report import QueryReport
from araponga_infra.queries.values import CallSite, NPlusOne, Origin, Statement

__all__ = ["CallSite", "NPlusOne", "Origin", "QueryInspector", "QueryReport", "Statement"]
