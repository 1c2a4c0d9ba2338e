"""Four parts for a service that runs as more than one instance; importing opens nothing and starts nothing."""

from araponga_infra.backoff import Backoff
from araponga_infra.clock import Duration
from araponga_infra.errors import ArapongaInfraError, InvalidArgumentError, MissingExtraError, NotConfiguredError

__all__ = [
    "ArapongaInfraError",
    "Backoff",
    "Duration",
    "InvalidArgumentError",
    "MissingExtraError",
    "NotConfiguredError",
]
