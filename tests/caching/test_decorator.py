"""`@cached`: called as before, loaded once for each set of arguments."""

from __future__ import annotations

import asyncio
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from araponga_infra.caching import (
    MISSING,
    AsyncCachetoolsCacheService,
    CachePolicy,
    CachetoolsCacheService,
    Loaded,
    cached,
    create_async_cache,
    create_cache,
    key,
)
from araponga_infra.caching.annotations import declared_result
from araponga_infra.errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing import assert_type

pytestmark = pytest.mark.anyio

CREATORS: tuple[Any, ...] = (create_cache, create_async_cache)


@dataclass(frozen=True)
class Place:
    id: int
    name: str


def test_a_plain_function_is_called_once_for_each_set_of_arguments() -> None:
    cache = create_cache()
    calls: list[int] = []

    @cached(cache, ttl=60, name="place")
    def place(number: int, *, name: str = "Vale") -> Place:
        """Finds a place."""
        calls.append(number)
        return Place(number, name)

    assert place(1) == place(number=1) == place(1, name="Vale") == Place(1, "Vale")
    assert place(1, name="Serra") == Place(1, "Serra")
    assert calls == [1, 1]
    assert place.key_of(1) == "place:1:Vale"
    assert (place.__wrapped__.__name__, place.__doc__) == ("place", "Finds a place.")
    assert cache.get(place.key_of(1), type=Place) == Place(1, "Vale")
    place.delete(1)
    assert place(1) == Place(1, "Vale")
    assert calls == [1, 1, 1]
    if TYPE_CHECKING:
        assert_type(place(1), Place)


async def test_an_async_function_shares_loads() -> None:
    calls: list[int] = []

    @cached(create_async_cache(), ttl=60)
    async def place(number: int) -> Place | None:
        calls.append(number)
        await asyncio.sleep(0)
        return Place(number, "x") if number else None

    assert await asyncio.gather(*(place(1) for _ in range(5))) == [Place(1, "x")] * 5
    assert (await place(0), await place(0)) == (None, None)
    assert calls == [1, 0]
    await place.delete(0)
    await place(0)
    assert calls == [1, 0, 0]
    if TYPE_CHECKING:
        assert_type(await place(1), Place | None)


def test_methods_and_keys_of_ones_own() -> None:
    class Service:
        def __init__(self) -> None:
            self.calls = 0

        @cached(create_cache(), key=lambda self, number: key("square", number))
        def square(self, number: int) -> int:
            self.calls += 1
            return number * number

        @cached(create_cache())
        def bare(self) -> int:
            return 1

    service = Service()
    assert [service.square(3), service.square(3), service.calls] == [9, 9, 1]
    if TYPE_CHECKING:
        assert_type(service.square(3), int)
    with pytest.raises(InvalidArgumentError, match="key part"):
        service.bare()


def test_gathered_arguments_are_parts_too() -> None:
    @cached(create_cache(), name="total")
    def total(*numbers: int, **named: int) -> int:
        return sum(numbers) + sum(named.values())

    assert total(1, 2, a=3, b=4) == total(1, 2, b=4, a=3) == 10
    assert total.key_of(1, 2, b=4, a=3) == "total:(1,2):((a,3),(b,4))"


def test_the_colour_of_function_and_cache_must_agree() -> None:
    async def later() -> int:
        return 1

    with pytest.raises(InvalidArgumentError, match="create_async_cache"):
        cached(CachetoolsCacheService())(later)
    with pytest.raises(InvalidArgumentError, match="create_cache"):
        cached(AsyncCachetoolsCacheService())(lambda: 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidArgumentError, match="async"):
        CachetoolsCacheService().get_or_set("k", later)  # type: ignore[unused-coroutine]


def test_an_annotation_out_of_reach_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass(frozen=True)
    class Local:
        number: int

    def reached() -> Local:
        return Local(1)

    def lost() -> Elsewhere:  # type: ignore[name-defined]  # noqa: F821
        return 1

    cache = CachetoolsCacheService()
    assert [cache.get_or_set("reached", reached) for _ in range(2)] == [Local(1)] * 2
    assert [cache.get_or_set("lost", lost) for _ in range(2)] == [1, 1]
    assert ["lost" in record.message for record in caplog.records] == [True]


def test_one_function_text_with_many_types() -> None:
    def factory_of(kind: type[Any], value: Any) -> Any:
        def load() -> kind:  # type: ignore[valid-type]
            assert kind
            return value  # type: ignore[no-any-return]

        return load

    cache = CachetoolsCacheService()
    assert cache.get_or_set("place", factory_of(Place, Place(1, "x"))) == Place(1, "x")
    assert cache.get_or_set("list", factory_of(list, [1])) == [1]


@pytest.mark.parametrize(
    ("annotation", "declared"),
    [
        (Place, Place),
        (Loaded[Place], Place),
        (Place | Loaded[Place] | None, Place | None),
        (None, type(None)),
        (Any, Any),
    ],
)
def test_what_a_factory_declares(annotation: Any, declared: Any) -> None:
    def factory() -> Any: ...

    factory.__annotations__["return"] = annotation
    assert declared_result(factory) == declared


def test_regions_and_gets_are_typed() -> None:
    cache = create_cache()
    region = cache.region("place", Place | None, ttl=60)
    value = region.get_or_set(1, lambda: None)
    found = cache.get("place:1", MISSING, type=Place)
    found_there = region.get(2, MISSING)
    if TYPE_CHECKING:
        from araponga_infra.caching import CacheRegion, Missing

        assert_type(found_there, Place | None | Missing)
        assert_type(region.get(2), Place | None)

        assert_type(region, CacheRegion[Place | None])
        assert_type(value, Place | None)
        assert_type(found, Place | Missing)
        assert_type(cache.get("k", type=list[int]), list[int] | None)
        assert_type(cache.get_or_set("k", lambda: Place(1, "x")), Place)
        assert_type(cache.get_many(["k"], type=Place)["k"], Place)
    assert (value, found) == (None, MISSING)


def test_loads_are_typed_as_what_they_load() -> None:
    def loaded() -> Loaded[int]:
        return Loaded(1)

    def mixed() -> int | Loaded[int]:
        return 1

    def optional() -> int | None:
        return None

    with create_cache() as cache:
        values = (
            cache.get_or_set("loaded", loaded),
            cache.get_or_set("mixed", mixed),
            cache.get_or_set("optional", optional, type=int | None),
        )
    if TYPE_CHECKING:
        assert_type(values, tuple[int, int, int | None])
    assert values == (1, 1, None)


async def test_async_loads_are_typed_as_what_they_load() -> None:
    async def loaded() -> Loaded[int]:
        return Loaded(1)

    async def optional() -> int | None:
        return None

    async with create_async_cache() as cache:
        values = (await cache.get_or_set("a", loaded), await cache.get_or_set("b", optional, type=int | None))
    if TYPE_CHECKING:
        assert_type(values, tuple[int, int | None])
    assert values == (1, None)


untyped_cached: Any = cached
untyped_loaded: Any = Loaded


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: untyped_cached(3),
        lambda: untyped_cached(None),
        lambda: untyped_cached(CachetoolsCacheService),
        lambda: untyped_cached(lambda: 1),
        lambda: untyped_cached(create_cache())(3),
        lambda: untyped_cached(create_cache(), key=3),
        lambda: untyped_cached(create_cache(), -1),
        lambda: untyped_cached(create_cache(), tags="ab"),
        lambda: untyped_cached(create_cache(), policy=3),
        lambda: untyped_cached(create_cache())(functools.partial(int, 3)),
        lambda: untyped_cached(create_cache(), key=lambda: None)(lambda: 1)(),
    ],
)
def test_misuse_is_refused_with_advice(misuse: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"pass|write|put|must be"):
        misuse()


@pytest.mark.parametrize(
    "make",
    [
        lambda: untyped_loaded(1, ttl=-1),
        lambda: untyped_loaded(1, ttl="x"),
        lambda: untyped_loaded(1, ttl=math.nan),
        lambda: untyped_loaded(1, tags="ab"),
        lambda: untyped_loaded(1, tags=3),
        lambda: untyped_loaded(1, tags=None),
        lambda: CachePolicy(soft_timeout=5, hard_timeout=1),
        *(lambda create=create, bad=bad: create(namespace=bad) for create in CREATORS for bad in ("", None, 3, "a b")),
    ],
)
def test_values_that_cannot_be_meant_are_refused_where_they_are_made(make: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        make()
