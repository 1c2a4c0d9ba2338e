"""What every cache promises, as tests: subclass the contract, give it your implementation, and pytest runs them.

    class TestMyCache(CacheContract):
        @pytest.fixture
        def cache(self):
            with MyCache() as cache:
                yield cache

One suite serves sync and async caches; it needs pytest and anyio.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import math
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import pytest

from araponga_infra.caching import (
    FOREVER,
    MISSING,
    CachePolicy,
    Loaded,
    RecursiveLoadError,
    UncacheableValueError,
    key,
)
from araponga_infra.errors import ClosedError, InvalidArgumentError

__all__ = ["CacheContract", "SharedCacheContract", "Uniform"]

T = TypeVar("T")


class Uniform:
    """A sync or an async cache behind one async face, so that one suite serves both."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.is_async: bool = inspect.iscoroutinefunction(cache.get)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.cache, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call

    async def get_or_set(self, key: Any, load: Any, *args: Any, **kwargs: Any) -> Any:
        """With a plain `load`, made async for an async cache."""
        if not self.is_async:
            return self.cache.get_or_set(key, load, *args, **kwargs)
        factory = _as_async(load) if callable(load) else load
        return await self.cache.get_or_set(key, factory, *args, **kwargs)

    async def at_once(self, calls: int, key: Any, load: Callable[[], Any], **kwargs: Any) -> list[Any]:
        """As many calls of `get_or_set` at the same time, in threads or in tasks; errors are among the results."""
        if self.is_async:
            tasks = [self.get_or_set(key, load, **kwargs) for _ in range(calls)]
            return await asyncio.gather(*tasks, return_exceptions=True)
        gate = threading.Barrier(calls)

        def call() -> Any:
            gate.wait(timeout=30)
            return self.cache.get_or_set(key, load, **kwargs)

        return await asyncio.gather(*[_in_thread(call) for _ in range(calls)], return_exceptions=True)

    async def in_background(self, call: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """A call that goes on beside the test: a task, in a thread when the cache is sync."""
        if self.is_async:
            return asyncio.create_task(_awaited(call))
        return _in_thread(lambda: Drive.run(call))


async def _awaited(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


def _in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """A thread of its own: the default executor has too few for what waits here."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return done


def _as_async(load: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def loaded() -> Any:
        result = load()
        return await result if inspect.isawaitable(result) else result

    loaded.__annotations__ = dict(getattr(load, "__annotations__", {}))
    return loaded


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Place:
    id: int
    name: str


@dataclasses.dataclass
class Basket:
    items: list[str]


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int


class Pair(NamedTuple):
    left: int
    right: str


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    content: T


VALUES: list[tuple[Any, Any]] = [
    (None, type(None)),
    (Place(1, "Vale"), Place),
    (Place(1, "Vale"), Place | None),
    (Basket(["a"]), Basket),
    (Point(1, 2), Point),
    (Pair(1, "b"), Pair),
    (Box(Place(1, "x")), Box[Place]),
    (Colour.RED, Colour),
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), datetime),
    (date(2026, 1, 2), date),
    (timedelta(days=1, microseconds=5), timedelta),
    (UUID(int=7), UUID),
    (Decimal("1.10"), Decimal),
    (b"\x00\xff", bytes),
    ({1, 2}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    ((1, "a", (2.5,)), tuple[int, str, tuple[float]]),
    ([Place(1, "a"), Place(2, "b")], list[Place]),
    ({UUID(int=1): [Decimal(2)]}, dict[UUID, list[Decimal]]),
    ({"nested": [1, None, {"deep": True}]}, dict[str, Any]),
]


class CacheContract:
    """What one cache promises. Give it a fixture `cache`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.anyio

    @pytest.fixture
    def uniform(self, cache: Any) -> Uniform:
        return Uniform(cache)

    async def test_a_miss_is_the_default(self, uniform: Uniform) -> None:
        assert await uniform.get("nothing") is None
        assert await uniform.get("nothing", 5) == 5
        assert await uniform.get("nothing", default=MISSING) is MISSING

    async def test_none_is_a_value(self, uniform: Uniform) -> None:
        await uniform.set("absent", None)
        assert await uniform.get("absent", default=MISSING) is None
        assert await uniform.exists("absent")

    @pytest.mark.parametrize(("value", "kind"), VALUES, ids=lambda v: str(v)[:40])
    async def test_a_value_comes_back_as_its_type(self, uniform: Uniform, value: Any, kind: Any) -> None:
        await uniform.set("value", value)
        for _ in range(2):
            found = await uniform.get("value", MISSING, type=kind)
            assert found == value
            assert type(found) is type(value)

    @pytest.mark.parametrize(("value", "kind"), VALUES, ids=lambda v: str(v)[:40])
    async def test_the_caller_that_loads_gets_the_same_types(self, uniform: Uniform, value: Any, kind: Any) -> None:
        for _ in range(3):
            found = await uniform.get_or_set("loaded", lambda: value, type=kind)
            assert found == value
            assert type(found) is type(value)

    async def test_without_a_type_everybody_gets_json_builtins(self, uniform: Uniform) -> None:
        results = [await uniform.get_or_set("builtin", lambda: Place(1, "x")) for _ in range(2)]
        assert results == [{"id": 1, "name": "x"}] * 2
        assert await uniform.get("builtin") == {"id": 1, "name": "x"}

    async def test_the_annotation_of_the_factory_is_the_type(self, uniform: Uniform) -> None:
        def load() -> Place | Loaded[Place] | None:
            return Place(1, "x")

        for _ in range(2):
            assert await uniform.get_or_set("annotated", load) == Place(1, "x")

    async def test_what_a_caller_changes_reaches_nobody(self, uniform: Uniform) -> None:
        def load() -> Basket:
            return Basket(["a"])

        original = Basket(["a"])
        await uniform.set("set", original)
        original.items.append("later")
        for _ in range(2):
            for name in ("set", "loaded"):
                basket = await uniform.get_or_set(name, load)
                assert basket == Basket(["a"])
                basket.items.append("mine")
            (await uniform.get("set")).clear()

    async def test_a_wrong_type_is_a_miss(self, uniform: Uniform) -> None:
        await uniform.set("number", 5)
        assert await uniform.get("number", MISSING, type=Place) is MISSING
        assert await uniform.get_or_set("number", lambda: Place(1, "x"), type=Place) == Place(1, "x")
        assert await uniform.get("number", type=Place) == Place(1, "x")

    async def test_set_replaces_and_delete_removes(self, uniform: Uniform) -> None:
        await uniform.set("k", 1)
        await uniform.set("k", 2)
        assert await uniform.get("k") == 2
        await uniform.delete("k")
        assert not await uniform.exists("k")
        await uniform.delete("k")

    async def test_many_at_once(self, uniform: Uniform) -> None:
        await uniform.set_many({"a:1": 1, "b:2": 2, ("c", 3): 3})
        assert await uniform.get_many(["a:1", "b:2", ("c", 3), "d:4"]) == {"a:1": 1, "b:2": 2, ("c", 3): 3}
        await uniform.delete_many(["a:1", ("c", 3)])
        assert await uniform.get_many(["a:1", "b:2", "c:3"], type=int) == {"b:2": 2}
        await uniform.set_many({})
        await uniform.delete_many([])
        assert await uniform.get_many([]) == {}

    async def test_patterns(self, uniform: Uniform) -> None:
        await uniform.set_many({"territory:42": 1, "territory:7:summary": 2, "territories": 3, "post:42": 4})
        await uniform.delete_by_pattern("territory:*")
        assert set(await uniform.get_many(["territory:42", "territory:7:summary", "territories", "post:42"])) == {
            "territories",
            "post:42",
        }
        await uniform.delete_by_pattern("post:4[0-5]")
        await uniform.delete_by_pattern("territori?s")
        assert await uniform.get_many(["territories", "post:42"]) == {}

    async def test_any_character_is_safe_in_a_key_and_in_a_pattern(self, uniform: Uniform) -> None:
        names = [
            "a*b",
            "axb",
            "a b",
            "a\nb",
            "a[b",
            "a]b",
            "a{b}",
            "a\\b",
            "a?b",
            "á:ção",
            "a%20b",
            "a=20b",
            "x" * 5000,
        ]
        await uniform.set_many({name: name for name in names})
        assert await uniform.get_many(names) == {name: name for name in names}
        await uniform.delete_by_pattern("a\\*b")
        assert sorted(await uniform.get_many(names)) == sorted(set(names) - {"a*b"})
        await uniform.delete_by_pattern("a?b")
        assert set(await uniform.get_many(names)) == {"a{b}", "á:ção", "a%20b", "a=20b", "x" * 5000}
        await uniform.delete_by_pattern("x*")
        assert not await uniform.exists("x" * 5000)

    async def test_tags(self, uniform: Uniform) -> None:
        await uniform.set("a", 1, tags=("news", "front"))
        await uniform.set("b", 2, tags=("news",))
        await uniform.set("c", 3)
        await uniform.delete_by_tag("front")
        assert set(await uniform.get_many(["a", "b", "c"])) == {"b", "c"}
        await uniform.delete_by_tag("news")
        await uniform.set("d", 4, tags=("news",))
        assert set(await uniform.get_many(["a", "b", "c", "d"])) == {"c", "d"}

    async def test_the_load_may_choose_tags_and_not_to_be_stored(self, uniform: Uniform) -> None:
        assert await uniform.get_or_set("tagged", lambda: Loaded(1, tags=("late",)), tags=("early",)) == 1
        assert await uniform.get_or_set("tagged", lambda: 2) == 1
        await uniform.delete_by_tag("late")
        assert await uniform.get_or_set("tagged", lambda: 3) == 3
        assert await uniform.get_or_set("passing", lambda: Loaded(1, store=False)) == 1
        assert not await uniform.exists("passing")

    async def test_clear(self, uniform: Uniform) -> None:
        await uniform.set_many({"a": 1, "b:1": 2})
        await uniform.clear()
        assert await uniform.get_many(["a", "b:1"]) == {}
        await uniform.set("a", 3)
        assert await uniform.get("a") == 3

    async def test_a_region_is_a_typed_view(self, uniform: Uniform) -> None:
        places = Uniform(uniform.cache.region("place", Place | None, ttl=timedelta(minutes=10)))
        assert await places.get_or_set(1, lambda: Place(1, "x")) == Place(1, "x")
        assert await places.get_or_set(2, lambda: None) is None
        assert await places.get(2, MISSING) is None
        assert await uniform.get(key("place", 1), type=Place) == Place(1, "x")
        assert await places.get_many([1, 2, 3]) == {1: Place(1, "x"), 2: None}
        await places.delete(1)
        assert not await places.exists(1)
        await uniform.set("places:1", 5)
        await places.clear()
        assert await places.get(2, MISSING) is MISSING
        assert await uniform.get("places:1") == 5
        await places.set(3, Place(3, "y"))
        assert await places.get(3) == Place(3, "y")

    async def test_callers_at_once_share_one_load(self, uniform: Uniform) -> None:
        loads: list[int] = []

        def load() -> int:
            loads.append(1)
            return len(loads)

        assert await uniform.at_once(50, "cold", load) == [1] * 50
        assert await uniform.get("cold") == 1

    async def test_a_failing_load_fails_all_who_wait_with_one_error(self, uniform: Uniform) -> None:
        loads: list[int] = []
        release = threading.Event()

        def load() -> int:
            loads.append(1)
            release.wait(0.2)
            raise LookupError("no such place")

        errors = await uniform.at_once(20, "failing", load)
        assert {type(error) for error in errors} == {LookupError}
        assert len({id(error) for error in errors}) <= len(loads)
        assert await uniform.get_or_set("failing", lambda: 7) == 7

    async def test_a_load_that_asks_for_its_own_key_is_refused(self, uniform: Uniform) -> None:
        def load() -> Any:
            return uniform.get_or_set("self", load) if uniform.is_async else uniform.cache.get_or_set("self", load)

        with pytest.raises(RecursiveLoadError):
            await uniform.get_or_set("self", load)

    async def test_a_load_may_ask_for_another_key(self, uniform: Uniform) -> None:
        def inner() -> int:
            return 1

        def outer() -> Any:
            return uniform.get_or_set("inner", inner) if uniform.is_async else uniform.cache.get_or_set("inner", inner)

        assert await uniform.get_or_set("outer", outer, type=int) == 1

    async def test_a_delete_during_a_load_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.delete("row:1"))

    async def test_a_set_during_a_load_wins(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.set("row:1", "new"), left="new")

    async def test_a_clear_during_a_load_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.clear())

    async def test_a_pattern_during_a_load_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.delete_by_pattern("row:*"))

    async def test_a_region_cleared_during_a_load_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: Uniform(uniform.cache.region("row", str)).clear())

    async def test_a_tag_deleted_during_a_load_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.delete_by_tag("rows"), tags=("rows",))

    async def test_a_tag_that_the_load_names_late_voids_it(self, uniform: Uniform) -> None:
        await self._void(uniform, lambda: uniform.delete_by_tag("rows"), load=lambda: Loaded("old", tags=("rows",)))

    async def _void(
        self,
        uniform: Uniform,
        change: Callable[[], Awaitable[Any]],
        *,
        load: Callable[[], Any] = lambda: "old",
        left: Any = MISSING,
        tags: tuple[str, ...] = (),
    ) -> None:
        """The caller of the voided load gets its value; it is not kept, and who comes after the change loads anew."""

        def load_and_change() -> Any:
            result = load()
            if uniform.is_async:
                return _then(change(), result)
            Drive.run(change)
            return result

        assert await uniform.get_or_set("row:1", load_and_change, tags=tags) == "old"
        assert await uniform.get("row:1", MISSING) == left
        if left is MISSING:
            assert await uniform.get_or_set("row:1", lambda: "new") == "new"

    async def test_a_stale_value_when_the_load_fails(self, uniform: Uniform) -> None:
        policy = CachePolicy(stale_for=60, ttl_jitter=0)
        assert await uniform.get_or_set("stale", lambda: Loaded(1, ttl=0.02), policy=policy) == 1
        await asyncio.sleep(0.06)

        def fail() -> int:
            raise OSError("no database")

        assert await uniform.get("stale", MISSING) is MISSING
        assert await uniform.get_or_set("stale", fail, policy=policy) == 1
        assert await uniform.get_or_set("stale", lambda: 2, policy=policy) == 2

    async def test_bad_input_is_refused_at_the_call(self, uniform: Uniform) -> None:
        for call in (
            lambda: uniform.get(""),
            lambda: uniform.get(5),
            lambda: uniform.get(["a"]),
            lambda: uniform.set("k", 1, ttl=-1),
            lambda: uniform.set("k", 1, ttl=0),
            lambda: uniform.set("k", 1, ttl="1"),
            lambda: uniform.set("k", 1, tags="news"),
            lambda: uniform.get_or_set("k", 5),
            lambda: uniform.get_many("keys"),
            lambda: uniform.delete_by_pattern(""),
            lambda: uniform.get("k", type=Place | Basket),
            lambda: uniform.cache.region("", int),
            lambda: uniform.set("k", 1, tags=3),
            lambda: uniform.set("k", 1, tags=None),
            lambda: uniform.get_many(None),
            lambda: uniform.delete_many(None),
            lambda: uniform.set_many(None),
            lambda: uniform.set_many([1]),
            lambda: uniform.get_or_set("k", lambda: 1, policy=3),
            lambda: uniform.cache.region("row", int, policy=3),
            *_refused_surrogates(uniform),
        ):
            with pytest.raises(InvalidArgumentError):
                await call()

    async def test_what_has_no_json_form_is_refused(self, uniform: Uniform) -> None:
        deep: Any = 1
        for _ in range(70):
            deep = [deep]
        for value in (
            object(),
            lambda: 1,
            "x" * 2_000_000,
            deep,
            math.nan,
            {"a": [None, math.inf]},
            MISSING,
            Loaded(5),
        ):
            with pytest.raises(UncacheableValueError):
                await uniform.set("k", value)
        with pytest.raises(UncacheableValueError):
            await uniform.get_or_set("k", lambda: "text", type=int)
        with pytest.raises(UncacheableValueError):
            await uniform.get_or_set("k", lambda: math.inf)
        with pytest.raises(UncacheableValueError):
            await Uniform(uniform.cache.region("r", int)).set(1, "x")
        assert not await uniform.exists("r:1")
        assert not await uniform.exists("k")

    async def test_a_closed_cache_says_so(self, uniform: Uniform) -> None:
        await uniform.set("k", 1)
        for _ in range(2):
            await (uniform.aclose() if uniform.is_async else uniform.close())
        calls: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: uniform.get("k"),
            lambda: uniform.set("k", 2),
            lambda: uniform.delete("k"),
            lambda: uniform.get_or_set("k", lambda: 3, type=int),
            lambda: Uniform(uniform.cache.region("row", int)).clear(),
        )
        for call in calls:
            with pytest.raises(ClosedError):
                await call()

    async def test_forever_is_a_ttl(self, uniform: Uniform) -> None:
        await uniform.set("k", 1, FOREVER)
        assert await uniform.get("k") == 1


class SharedCacheContract(CacheContract):
    """What caches that share their entries promise. Give it the fixtures `cache` and `other`, two instances."""

    @pytest.fixture
    def second(self, other: Any) -> Uniform:
        return Uniform(other)

    async def test_one_instance_sees_what_the_other_writes(self, uniform: Uniform, second: Uniform) -> None:
        await uniform.set("k", Place(1, "x"))
        assert await second.get("k", type=Place) == Place(1, "x")

    async def test_a_load_in_one_instance_is_waited_for_in_the_other(self, uniform: Uniform, second: Uniform) -> None:
        loads: list[int] = []

        def load() -> Any:
            loads.append(1)
            return _slowly(1) if uniform.is_async else _slow(1)

        first = await uniform.in_background(lambda: uniform.get_or_set("cold", load, type=int))
        third = await second.in_background(lambda: second.get_or_set("cold", load, type=int))
        assert (await first, await third) == (1, 1)
        assert len(loads) == 1

    async def test_a_delete_elsewhere_voids_a_load(self, uniform: Uniform, second: Uniform) -> None:
        def load() -> Any:
            if uniform.is_async:
                return _then(second.delete("k"), "old")
            second.cache.delete("k")
            return "old"

        assert await uniform.get_or_set("k", load) == "old"
        assert await second.get("k", MISSING) is MISSING
        assert await uniform.get("k", MISSING) is MISSING


def _refused_surrogates(uniform: Uniform) -> list[Callable[[], Any]]:
    """Text that UTF-8 cannot carry must not reach a backend, where it could never be sent."""
    return [
        lambda: uniform.get("\ud800"),
        lambda: uniform.exists("\ud800"),
        lambda: uniform.set("\ud800", 1),
        lambda: uniform.delete("\ud800"),
        lambda: uniform.delete_many(["\ud800"]),
        lambda: uniform.delete_by_pattern("\ud800*"),
        lambda: uniform.delete_by_tag("\ud800"),
        lambda: uniform.set("k", 1, tags=("\ud800",)),
        lambda: uniform.get_or_set("k", lambda: Loaded(1, tags=("\ud800",))),
    ]


async def _then(first: Awaitable[Any], result: T) -> T:
    await first
    return result


async def _slowly(result: T) -> T:
    await asyncio.sleep(0.1)
    return result


def _slow(result: T) -> T:
    threading.Event().wait(0.1)
    return result


class Drive:
    """Runs the async face of a sync cache from within a sync load."""

    @staticmethod
    def run(call: Callable[[], Awaitable[Any]]) -> Any:
        steps = call().__await__()
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value
        raise RuntimeError("a sync cache suspended")
