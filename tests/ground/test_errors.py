from __future__ import annotations

import inspect
import pickle

import pytest

import araponga_infra
from araponga_infra import ArapongaInfraError, InvalidArgumentError, MissingExtraError
from araponga_infra.extras import import_extra

EVERY_ERROR = sorted(
    (member for _, member in inspect.getmembers(araponga_infra, inspect.isclass) if issubclass(member, BaseException)),
    key=lambda error: error.__name__,
)


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_public_error_has_the_one_root(error: type[BaseException]) -> None:
    assert issubclass(error, ArapongaInfraError)
    assert error.__doc__


def test_errors_pickle_with_their_fields() -> None:
    error = MissingExtraError("postgres", "a PostgreSQL URL")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, copy.extra) == (MissingExtraError, error.args, "postgres")


def test_the_built_in_kinds_still_catch_them() -> None:
    assert issubclass(InvalidArgumentError, ValueError)
    assert issubclass(MissingExtraError, ImportError)


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'araponga_infra\[otel\]'"):
        import_extra("surely_not_installed.metrics", extra="otel", needed_for="the observer")


def test_an_installed_module_with_a_broken_import_is_another_fault(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_extra.py").write_text("import surely_not_installed_either")  # type: ignore[operator]
    with pytest.raises(ModuleNotFoundError) as raised:
        import_extra("broken_extra", extra="otel", needed_for="the observer")
    assert not isinstance(raised.value, MissingExtraError)
