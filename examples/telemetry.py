"""What the parts report: counted, and one log line for each change of state: python examples/telemetry.py"""

import logging
import sys

from araponga_infra import CachetoolsCacheService, CompositeObserver, CountingObserver, LoggingObserver, Record

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")


class Broken:
    """An observer may fail; nobody who uses a part notices."""

    def observe(self, record: Record) -> None:
        raise ZeroDivisionError(record.name)


counters = CountingObserver()
cache = CachetoolsCacheService(max_entries=2, observer=CompositeObserver(counters, LoggingObserver(), Broken()))

cache.set("territory:1", "Vale do Itamambuca")
for number in (1, 1, 2):
    cache.get(f"territory:{number}")
cache.get_or_set("territory:2", lambda: "Serra do Mar")

snapshot = counters.snapshot()
print(f"hits: {snapshot['cache.hit']}, from memory: {snapshot.of('cache.hit', layer='memory').times}")
print(f"loads: {snapshot['cache.load']}, failed: {snapshot.of('cache.load', failed=True).times}")
