"""Read-only sessions, on the primary or on a replica that has seen the caller's last write."""

from araponga_infra.sessions.async_replicas import AsyncReplicaSet
from araponga_infra.sessions.errors import ReadOnlyViolationError
from araponga_infra.sessions.factory import AsyncReadOnlySessionFactory, ReadOnlySessionFactory
from araponga_infra.sessions.health import ReplicaStatus
from araponga_infra.sessions.records import FallbackToPrimary, ReplicaReturned, ReplicaTakenOut, TokenIgnored
from araponga_infra.sessions.replicas import ReplicaSet
from araponga_infra.sessions.session import AsyncReadOnlySession, ReadOnlySession
from araponga_infra.sessions.tokens import WriteToken

__all__ = [
    "AsyncReadOnlySession",
    "AsyncReadOnlySessionFactory",
    "AsyncReplicaSet",
    "FallbackToPrimary",
    "ReadOnlySession",
    "ReadOnlySessionFactory",
    "ReadOnlyViolationError",
    "ReplicaReturned",
    "ReplicaSet",
    "ReplicaStatus",
    "ReplicaTakenOut",
    "TokenIgnored",
    "WriteToken",
]
