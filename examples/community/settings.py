"""Everything that differs between instances and places comes from the environment, and is read once."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from araponga_infra import InfraSettings

SHORTEST_SECRET = 24


def own_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True)
class CommunitySettings:
    """
    Args:
        infra: where database, replicas and Redis are.
        instance: this process's name in the header Araponga-Instance.
        consume: whether this process runs event handlers, or leaves them to workers.
        max_body_bytes: the largest request body.
        ops_token: who knows it may use the page at /ops; None: there is no such page.
    """

    infra: InfraSettings = field(default_factory=InfraSettings.embedded)
    instance: str = field(default_factory=own_name)
    consume: bool = True
    max_body_bytes: int = 64 * 1024
    ops_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, embedded: bool = False) -> Self:
        """ARAPONGA_* (see `InfraSettings`), COMMUNITY_INSTANCE, COMMUNITY_CONSUME (0: no), COMMUNITY_MAX_BODY_BYTES,
        COMMUNITY_OPS_TOKEN."""
        variables = os.environ if environ is None else environ
        return cls(
            infra=InfraSettings.from_env(variables, embedded=embedded),
            instance=variables.get("COMMUNITY_INSTANCE") or own_name(),
            consume=_switch(variables, "COMMUNITY_CONSUME"),
            max_body_bytes=_number(variables, "COMMUNITY_MAX_BODY_BYTES", 64 * 1024),
            ops_token=_secret(variables, "COMMUNITY_OPS_TOKEN"),
        )


def _secret(variables: Mapping[str, str], name: str) -> str | None:
    value = variables.get(name) or None
    if value is not None and len(value) < SHORTEST_SECRET:
        raise ValueError(f"{name} is shorter than {SHORTEST_SECRET} characters: make one by `openssl rand -hex 24`")
    return value


def _switch(variables: Mapping[str, str], name: str) -> bool:
    value = variables.get(name) or "1"
    if value not in ("0", "1"):
        raise ValueError(f"{name}={value!r}: set it to 1 or 0")
    return value == "1"


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    value = variables.get(name) or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{name}={value!r}: set it to a whole number above 0")
    return int(value)
