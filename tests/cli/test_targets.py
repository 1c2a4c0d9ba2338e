"""MODULE:NAME."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from araponga_infra import EventRouter
from araponga_infra.cli.targets import TargetError, load_target


@pytest.fixture(autouse=True)
def imports_undone() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("shop", None)


@pytest.mark.parametrize("spec", ["shop:router", "shop:Holder.router", "shop:make_router"])
def test_what_can_be_named(service: Path, spec: str) -> None:
    assert isinstance(load_target(spec, folder=service), EventRouter)


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("shop", "is not MODULE:NAME"),
        (":router", "is not MODULE:NAME"),
        ("shop:", "is not MODULE:NAME"),
        ("nowhere:router", "no module 'nowhere'"),
        ("shop.inner:router", "no module 'shop.inner'"),
        ("shop:nothing", "shop has no 'nothing'"),
        ("shop:number", "is a int"),
        ("shop:note", "takes arguments"),
        ("shop:with_arguments", "takes arguments"),
    ],
)
def test_what_cannot(service: Path, spec: str, advice: str) -> None:
    with pytest.raises(TargetError, match=advice):
        load_target(spec, folder=service)


def test_errors_inside_the_module_or_the_function_are_the_host_s(service: Path) -> None:
    (service / "broken.py").write_text("import not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        load_target("broken:router", folder=service)
    with pytest.raises(TypeError, match="NoneType"):
        load_target("shop:failing", folder=service)
