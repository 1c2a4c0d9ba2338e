"""The public names are exactly those in `__all__`, and importing them does nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import araponga_infra

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(araponga_infra.__path__, "araponga_infra.")
    if not name.endswith("__main__")
]


def names_in(module: ModuleType) -> set[str]:
    return {
        name for name, member in vars(module).items() if not name.startswith("_") and not isinstance(member, ModuleType)
    }


def test_all_is_exact() -> None:
    assert names_in(araponga_infra) == set(araponga_infra.__all__)


def test_all_names_nothing_twice() -> None:
    assert len(araponga_infra.__all__) == len(set(araponga_infra.__all__))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_names_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    assert not names_in(module) or all(hasattr(module, member) for member in module.__all__)


def test_every_public_name_is_documented() -> None:
    undocumented = [
        name
        for name in araponga_infra.__all__
        if callable(member := getattr(araponga_infra, name)) and not member.__doc__
    ]
    assert undocumented == []


def test_importing_starts_no_thread_opens_no_socket_and_leaves_redis_and_the_extras_alone() -> None:
    check = """
import sys, threading, socket
class NoSocket(socket.socket):
    def __init__(self, *arguments, **options): raise AssertionError("importing opened a socket")
socket.socket = NoSocket
import araponga_infra
assert threading.active_count() == 1, threading.enumerate()
heavy = {"redis", "psycopg", "aiosqlite", "fastapi", "flask", "opentelemetry", "click", "pytest"} & set(sys.modules)
assert not heavy, heavy
"""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
