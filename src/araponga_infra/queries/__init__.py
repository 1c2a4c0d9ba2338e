"""See what a service asks of its database: statements, N+1, slow ones, plans and missing indexes."""

from araponga_infra.queries.inspector import QueryInspector
from araponga_infra.queries.middleware import QueryLogMiddleware, QueryLogWSGIMiddleware
from araponga_infra.queries.plans import IndexAdvice, Plan, TableScan
from araponga_infra.queries.records import NPlusOneFound, SlowStatementFound
from araponga_infra.queries.report import QueryReport
from araponga_infra.queries.values import CallSite, NPlusOne, Origin, Statement

__all__ = [
    "CallSite",
    "IndexAdvice",
    "NPlusOne",
    "NPlusOneFound",
    "Origin",
    "Plan",
    "QueryInspector",
    "QueryLogMiddleware",
    "QueryLogWSGIMiddleware",
    "QueryReport",
    "SlowStatementFound",
    "Statement",
    "TableScan",
]
