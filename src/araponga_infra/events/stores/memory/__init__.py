"""The store in memory: bounded, ordered, gone with the process."""

from araponga_infra.events.stores.memory.source import InMemoryEventStore

__all__ = ["InMemoryEventStore"]
