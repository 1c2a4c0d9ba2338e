"""What host teams import in their tests: a clock that stands still, and checks of what a block asks of the database.

The contract suites, which need pytest, are in `araponga_infra.testing.caching` and `araponga_infra.testing.events`.
"""

from araponga_infra.testing.clock import FakeClock
from araponga_infra.testing.queries import assert_max_queries, no_n_plus_one

__all__ = ["FakeClock", "assert_max_queries", "no_n_plus_one"]
