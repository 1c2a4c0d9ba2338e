"""The store in Redis: streams and sorted sets, moved by scripts that each do one thing whole; two shells."""

from araponga_infra.events.stores.redis.source import RedisStreamEventStore

__all__ = ["RedisStreamEventStore"]
