"""Events, handlers and routers: what is accepted, and what is refused at the call with a message that helps."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import araponga_infra.events as events_room
from araponga_infra.backoff import Backoff
from araponga_infra.concurrency import VersionedSession
from araponga_infra.errors import ArapongaInfraError, InvalidArgumentError
from araponga_infra.events import (
    BackgroundEventProcessor,
    DeadReason,
    DeliveryContext,
    DuplicateHandlerError,
    EventRouter,
    GiveUp,
    HandlerSignatureError,
    InMemoryEventBus,
    InMemoryEventStore,
    PayloadError,
    RetryLater,
    UnknownEventError,
    UnsupportedByStoreError,
    event,
)
from araponga_infra.events.types import codec_of, event_type_of
from araponga_infra.testing.clock import FakeClock
from tests.events.hosts import Followed, Happened

T = TypeVar("T")


class Colour(Enum):
    RED = "red"


@event("tests.rich", version=3)
@dataclass(frozen=True)
class Rich:
    id: UUID
    price: Decimal
    at: datetime
    colour: Colour
    names: tuple[str, ...]
    counts: dict[str, int]
    note: str | None = None


@event("tests.struct")
class AStruct(msgspec.Struct, frozen=True):
    number: int


@event("tests.model")
class AModel(pydantic.BaseModel):
    number: int
    text: str = ""


class Line(pydantic.BaseModel):
    unit_price: Decimal = pydantic.Field(alias="unitPrice")


@event("tests.renamed")
class Renamed(pydantic.BaseModel):
    """Its JSON for others has other names than its fields, in and out, and more than can be read back."""

    model_config = pydantic.ConfigDict(extra="forbid")

    post_id: int = pydantic.Field(default=0, alias="postId")
    title: str = pydantic.Field(validation_alias=pydantic.AliasChoices("t", "name"), serialization_alias="heading")
    lines: list[Line] = []

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def link(self) -> str:
        return f"/posts/{self.post_id}"


@event("tests.camel")
class Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag=True, omit_defaults=True):
    post_id: int
    note: str | None = None


@dataclass(slots=True, kw_only=True)
class Parent:
    at: datetime
    content: bytes


@event("tests.child")
@dataclass(slots=True, kw_only=True)
class Child(Parent):
    later: Later | None = None
    children: list[Child] = dataclasses.field(default_factory=list)
    _secret: int = 0
    size: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.size = len(self.content)


@dataclass
class Later:
    when: time
    lasts: timedelta


NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - as hosts publish them
ODD = [
    Renamed.model_validate({"postId": 7, "t": "Feira", "lines": [{"unitPrice": "1.10"}]}),
    Camel(post_id=1),
    Camel(post_id=1, note="x"),
    Child(at=NAIVE, content=b"\xff\0", _secret=7),
    Child(
        at=datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3))),
        content=b"",
        later=Later(time(1, 2), timedelta(days=1, microseconds=3)),
        children=[Child(at=NAIVE, content=b"inner")],
    ),
]


@pytest.mark.parametrize("value", ODD)
def test_fields_of_any_shape_are_read_as_they_were_published(value: Any) -> None:
    codec = codec_of(type(value))
    assert codec.decode(codec.checked(value)) == value


@event("tests.measured")
@dataclass(frozen=True)
class Measured:
    value: float | None
    more: Any = None


@event("tests.measured_model")
class MeasuredModel(pydantic.BaseModel):
    value: float | None
    more: Any = None


@pytest.mark.parametrize("kind", [Measured, MeasuredModel])
def test_a_number_that_json_has_not_is_refused_and_never_becomes_none(kind: Any) -> None:
    codec = codec_of(kind)
    for number in (float("nan"), float("inf"), float("-inf")):
        for value in (kind(value=number), kind(value=None, more={"deep": [1.0, {"er": (number,)}]})):
            with pytest.raises(PayloadError, match="NaN and infinity have no JSON form"):
                codec.checked(value)
    assert codec.decode(codec.checked(kind(value=None, more=[1.0, None]))) == kind(value=None, more=[1.0, None])


@given(
    st.builds(
        Rich,
        id=st.uuids(),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        at=st.datetimes(timezones=st.just(UTC)),
        names=st.lists(st.text()).map(tuple),
        counts=st.dictionaries(st.text(), st.integers(-(2**53), 2**53)),
    )
)
def test_what_is_published_is_what_is_read(rich: Rich) -> None:
    codec = codec_of(Rich)
    assert codec.decode(codec.checked(rich)) == rich


@pytest.mark.parametrize("value", [AStruct(1), AModel(number=1, text="á"), Happened(1)])
def test_dataclasses_structs_and_models_are_events(value: Any) -> None:
    codec = codec_of(type(value))
    assert codec.decode(codec.checked(value)) == value


def test_the_decorator_stamps_the_class_and_changes_nothing_else() -> None:
    assert event_type_of(Rich).name == "tests.rich"
    assert event_type_of(Rich).version == 3
    assert Happened(1) == Happened(1)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("", 1, "name=''"), ("x" * 300, 1, "1 to 200"), ("a.b", 0, "version=0"), ("a.b", True, "version=True")],
)
def test_bad_names_and_versions_are_refused(name: str, version: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        event(name, version=version)


def test_a_plain_class_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="above @dataclass"):

        @event("tests.plain")
        class Plain: ...


def test_a_subclass_is_an_event_of_its_own_or_none() -> None:
    @dataclass(frozen=True)
    class Derived(Happened): ...

    with pytest.raises(UnknownEventError, match="Derived is not an event"):
        codec_of(Derived)


def test_wrong_field_types_are_found_at_the_publisher_and_not_repeated() -> None:
    processor = BackgroundEventProcessor(consume=False)
    with pytest.raises(PayloadError, match=r"tests\.happened") as caught:
        processor.publish(Happened("hunter2"))  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
    with pytest.raises(PayloadError, match=r"tests\.model") as caught:
        processor.publish(AModel.model_construct(number="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_a_field_without_a_json_form_is_refused_when_it_is_subscribed() -> None:
    @event("tests.odd")
    @dataclass(frozen=True)
    class Odd:
        either: Happened | Followed

    with pytest.raises(PayloadError, match=r"tests\.odd"):
        EventRouter().subscribe(Odd, name="odd")(lambda odd: None)


def test_a_handler_asks_by_annotation_in_any_order() -> None:
    router = EventRouter(prefix="p.")

    @router.subscribe(Happened)
    async def asks(happened: Happened, context: DeliveryContext, *, session: AsyncSession, spare: int = 1) -> None: ...

    (handler,) = router.handlers
    assert (handler.name, handler.context_parameter, handler.session_parameter) == ("p.asks", "context", "session")


def test_methods_partials_and_callable_objects_are_handlers() -> None:
    class Mailer:
        def send(self, happened: Happened) -> None: ...

        async def __call__(self, happened: Happened, context: DeliveryContext) -> None: ...

    def with_more(happened: Happened, more: int) -> None: ...

    router = EventRouter()
    router.subscribe(Happened)(Mailer().send)
    router.subscribe(Happened, name="object")(Mailer())
    router.subscribe(Happened, name="partial")(functools.partial(with_more, more=1))
    assert [(each.name, each.is_async) for each in router.handlers] == [
        ("send", False),
        ("object", True),
        ("partial", False),
    ]


def test_what_may_be_none_is_asked_for_as_well() -> None:
    """The default is for whoever calls the function without a processor; a session that is left out would be missed."""
    router = EventRouter()

    @router.subscribe(Happened)
    def asks(happened: Happened, session: Session | None = None, context: DeliveryContext | None = None) -> None: ...

    (handler,) = router.handlers
    assert (handler.session_parameter, handler.context_parameter) == ("session", "context")


def test_a_generic_event_is_taken_with_and_without_its_argument() -> None:
    @event("tests.boxed")
    @dataclass(frozen=True)
    class Boxed(Generic[T]):
        content: T

    def takes(boxed: Boxed[int]) -> None: ...

    EventRouter().subscribe(Boxed)(takes)
    codec = codec_of(Boxed)
    assert codec.decode(codec.checked(Boxed(3))) == Boxed(3)


def test_names_that_outgrow_their_column_by_prefixes_are_refused() -> None:
    inner, outer = EventRouter(prefix="i" * 200), EventRouter(prefix="o" * 200)
    inner.subscribe(Happened, name="short", aliases=["a" * 200])(lambda happened: None)
    with pytest.raises(InvalidArgumentError, match="more than 400 characters with its prefixes"):
        outer.include(inner)


def test_wrong_signatures_are_refused_naming_handler_and_parameter() -> None:
    def nothing() -> None: ...
    def other_event(followed: Followed) -> None: ...
    def unknown(happened: Happened, mailer: Backoff) -> None: ...
    def sync_wants_async(happened: Happened, session: AsyncSession) -> None: ...
    async def async_wants_sync(happened: Happened, session: Session) -> None: ...
    def two(happened: Happened, one: Session, other: Session) -> None: ...
    def of_another_kind(happened: Happened, session: VersionedSession) -> None: ...
    def generates(happened: Happened) -> Iterator[int]:
        yield 1

    for function, message in (
        (nothing, "'nothing' takes no event"),
        (other_event, "'other_event'.*'followed'.*Followed"),
        (unknown, "'unknown' asks for 'mailer' annotated Backoff"),
        (sync_wants_async, "'sync_wants_async'.*AsyncSession by 'session'"),
        (async_wants_sync, "'async_wants_sync'.*Session by 'session'"),
        (two, "'two' asks for two sessions"),
        (of_another_kind, "'of_another_kind' asks for a VersionedSession by 'session'.*annotate it with Session"),
        (generates, "'generates' is a generator"),
    ):
        with pytest.raises(HandlerSignatureError, match=message):
            EventRouter().subscribe(Happened)(function)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"timeout": timedelta(0)}, "timeout="),
        ({"max_concurrency": 0}, "max_concurrency=0"),
        ({"backoff": 3}, "backoff=3"),
        ({"name": ""}, "name=''"),
        ({"aliases": "old"}, "aliases='old'"),
        ({"aliases": ["handler"]}, "aliases of handler"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    def handler(happened: Happened) -> None: ...

    with pytest.raises(InvalidArgumentError, match=message):
        EventRouter().subscribe(Happened, **options)(handler)


def test_names_are_unique_and_events_of_one_name_are_one_class() -> None:
    router, other = EventRouter(), EventRouter()

    def handler(happened: Happened) -> None: ...

    router.subscribe(Happened)(handler)
    with pytest.raises(DuplicateHandlerError, match="'handler'"):
        router.subscribe(Happened)(handler)
    other.subscribe(Happened, name="new", aliases=["handler"])(handler)
    with pytest.raises(DuplicateHandlerError, match="'handler' is taken"):
        BackgroundEventProcessor(routers=[router, other])

    @event("tests.happened")
    @dataclass(frozen=True)
    class Impostor:
        number: int

    third = EventRouter(prefix="third.")
    third.subscribe(Impostor, name="impostor")(lambda impostor: None)
    with pytest.raises(DuplicateHandlerError, match="two classes"):
        BackgroundEventProcessor(routers=[router, third])
    outer = EventRouter(prefix="outer.")
    outer.include(router)
    assert [each.name for each in outer.handlers] == ["outer.handler"]


def test_what_is_not_a_store_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="store is a str"):
        BackgroundEventProcessor("redis://localhost")  # type: ignore[arg-type]


# -- versions


def versions() -> tuple[type[Any], type[Any]]:
    @event("tests.moved", version=1)
    @dataclass(frozen=True)
    class MovedOnce:
        place: str

    @event("tests.moved", version=3)
    @dataclass(frozen=True)
    class MovedThrice:
        x: int
        y: int

    return MovedOnce, MovedThrice


def test_older_payloads_pass_through_one_upcaster_after_the_other(clock: FakeClock) -> None:
    old, new = versions()
    router, seen, source = EventRouter(), list[Any](), InMemoryEventStore()

    @router.subscribe(new, name="moves")
    def moves(moved: Any) -> None:
        seen.append(moved)

    @router.upcast(new, from_version=1)
    def split(content: dict[str, Any]) -> dict[str, Any]:
        x, y = content["place"].split(",")
        return {"x": x, "y": y}

    @router.upcast(new, from_version=2)
    def to_numbers(content: dict[str, Any]) -> dict[str, Any]:
        return {name: int(value) for name, value in content.items()}

    with BackgroundEventProcessor(source, routers=[router], consume=False, clock=clock) as processor:
        processor.publish(old("3,4"))
        processor.run_until_idle()
    assert seen == [new(3, 4)]


def test_a_rolling_deploy_of_a_new_version(clock: FakeClock) -> None:
    """An old instance leaves a newer version to the new ones; after an hour it says that nobody takes it.

    An hour since it met the event, which may have been published long before it was due.
    """
    old, new = versions()
    old_router, new_router, seen = EventRouter(), EventRouter(), list[Any]()
    old_router.subscribe(old, name="moves")(seen.append)
    new_router.subscribe(new, name="moves")(seen.append)
    source = InMemoryEventStore()
    with (
        BackgroundEventProcessor(source, routers=[old_router], consume=False, clock=clock) as before,
        BackgroundEventProcessor(source, routers=[new_router], consume=False, clock=clock) as after,
    ):
        after.publish(new(1, 2))
        assert before.run_until_idle().completed == 0
        assert after.run_until_idle().completed == 1
        assert seen == [new(1, 2)]
        after.publish(new(5, 6), delay=timedelta(hours=2))
        clock.advance(timedelta(hours=2))
        assert before.run_until_idle().dead == ()
        clock.advance(timedelta(hours=1))
        (dead,) = before.run_until_idle(raise_dead=False).dead
        assert (dead.reason, dead.attempts) == (DeadReason.NEWER_VERSION, 0)
        before.dead_letters.redrive_all()
        assert before.run_until_idle().dead == ()
        clock.advance(5)
        assert after.run_until_idle(skip_delays=False).completed == 1
        before.publish(old("1,2"))
        (dead,) = after.run_until_idle(raise_dead=False).dead
        assert (dead.reason, dead.payload) == (DeadReason.NO_UPCASTER, b'{"place":"1,2"}')


def test_upcasters_that_make_no_sense_are_refused() -> None:
    _, new = versions()
    router = EventRouter()
    with pytest.raises(InvalidArgumentError, match="from_version=3 is not older"):
        router.upcast(new, from_version=3)
    router.upcast(new, from_version=1)(dict)
    with pytest.raises(InvalidArgumentError, match="has one already"):
        router.upcast(new, from_version=1)(dict)

    async def waits(content: dict[str, Any]) -> dict[str, Any]:
        return content

    wrong: tuple[Any, ...] = (waits, None)
    for convert in wrong:
        with pytest.raises(InvalidArgumentError, match="not a plain function"):
            router.upcast(new, from_version=2)(convert)


def test_of_a_router_with_a_duplicate_nothing_is_included() -> None:
    _, new = versions()
    one, other, outer = EventRouter(), EventRouter(), EventRouter()
    for router, convert in ((one, dict), (other, dict.copy)):
        router.upcast(new, from_version=1)(convert)
    for router, names in ((one, ("a", "b")), (other, ("c", "d"))):
        for name in names:
            router.subscribe(new, name=name, aliases=[f"former_{name}"])(lambda moved: None)
    mended = EventRouter()
    for name in ("c", "former_d"):
        mended.subscribe(new, name=name)(lambda moved: None)
    processor, bus = BackgroundEventProcessor(routers=[one]), InMemoryEventBus(routers=[one])
    outer.include(one)
    for includes in (processor.include, bus.include, outer.include):
        with pytest.raises(DuplicateHandlerError, match="has two upcasters"):
            includes(other)
        includes(mended)
    assert [each.name for each in outer.handlers] == ["a", "b", "c", "former_d"]
    assert "handlers=4" in repr(processor)


def test_two_routers_read_an_older_version_in_one_way() -> None:
    _, new = versions()
    one, same, other = EventRouter(), EventRouter(), EventRouter()
    for router, convert in ((one, dict), (same, dict), (other, dict.copy)):
        router.upcast(new, from_version=1)(convert)
    one.include(same)
    BackgroundEventProcessor(routers=[one, same])
    with pytest.raises(DuplicateHandlerError, match=r"version 1 of event 'tests\.moved' has two upcasters"):
        one.include(other)
    with pytest.raises(DuplicateHandlerError, match="has two upcasters"):
        BackgroundEventProcessor(routers=[one, other])


def test_what_cannot_be_read_is_quarantined_and_redriven_after_the_fix(clock: FakeClock) -> None:
    @event("tests.moved", version=1)
    @dataclass(frozen=True)
    class Wider:
        place: str | int

    old, _ = versions()
    narrow, wide, seen, source = EventRouter(), EventRouter(), list[Any](), InMemoryEventStore()
    narrow.subscribe(old, name="moves")(seen.append)
    wide.subscribe(Wider, name="moves")(seen.append)
    with BackgroundEventProcessor(source, routers=[narrow], consume=False, clock=clock) as processor:
        with BackgroundEventProcessor(source, consume=False) as publisher:
            publisher.publish(Wider(7))
        (dead,) = processor.run_until_idle(raise_dead=False).dead
        assert (dead.reason, dead.payload) == (DeadReason.UNDECODABLE, b'{"place":7}')
    with BackgroundEventProcessor(source, routers=[wide], consume=False, clock=clock) as mended:
        mended.dead_letters.redrive_all(reason=DeadReason.UNDECODABLE)
        assert mended.run_until_idle().completed == 1
    assert seen == [Wider(7)]


# -- errors


def test_the_rooms_errors_have_one_root_and_survive_pickling() -> None:
    errors = [each for each in vars(events_room).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(errors) > 10
    for kind in errors:
        assert issubclass(kind, ArapongaInfraError)
        error = kind(3) if kind is RetryLater else kind("why")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.__dict__) == (kind, str(error), error.__dict__)
    with pytest.raises(InvalidArgumentError, match="delay=-1"):
        RetryLater(-1)
    assert GiveUp("no such post").reason == "no such post"


def test_context_outside_a_sql_store_cannot_publish_in_a_session() -> None:
    router, caught = EventRouter(), list[str]()

    @router.subscribe(Happened)
    def follows(happened: Happened, context: DeliveryContext) -> None:
        try:
            context.publish_in(object(), Followed(1))
        except UnsupportedByStoreError as error:
            caught.append(str(error))

    with BackgroundEventProcessor(routers=[router], consume=False) as processor:
        processor.publish(Happened(1))
        processor.run_until_idle()
    assert "SQL store" in caught[0]


def test_no_payload_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    router = EventRouter()

    @event("tests.secret")
    @dataclass(frozen=True)
    class Secret:
        password: str

    @router.subscribe(Secret, max_attempts=2)
    def fails(secret: Secret) -> None:
        raise OSError("no")

    with caplog.at_level(logging.DEBUG), BackgroundEventProcessor(routers=[router], consume=False) as processor:
        processor.publish(Secret("hunter2"))
        report = processor.run_until_idle(raise_dead=False)
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(report)
