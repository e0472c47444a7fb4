from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.service.settings import Settings
from penstock.testing.faults import FAULTS, VARIABLE, Fault, check_allowed, find_faults, parse_faults


def _settings(**fields: object) -> Settings:
    return Settings(database_url="postgresql://localhost/x", insecure=True, data_dir=Path("x"), **fields)  # type: ignore[arg-type]


def test_a_list_of_faults_is_read_and_written() -> None:
    """
    Every fault has a text that names it, and blanks and empty items do not matter.
    """
    text = "; ".join(f"{name}:orders:poison" for name in FAULTS) + ";"
    faults = parse_faults(text)
    assert faults == [Fault(name, "orders", b"poison") for name in FAULTS]
    assert parse_faults(";".join(map(str, faults))) == faults


@pytest.mark.parametrize("text", ["nothing:orders:poison", "consumer-hung", "consumer-hung:orders", "consumer-hung::x"])
def test_what_is_no_fault_is_refused_with_its_text(text: str) -> None:
    """
    A typing error must not look like a service that withstood a fault.
    """
    with pytest.raises(ConfigError) as caught:
        parse_faults(text)
    assert text.partition(":")[0] in caught.value.message


def test_faults_are_refused_unless_allowed_by_their_own_setting() -> None:
    """
    The service does not start, and says which setting would let it.
    """
    environ = {VARIABLE: "consumer-hung:orders:poison"}
    with pytest.raises(ConfigError, match="PENSTOCK_ENABLE_FAULT_INJECTION=true"):
        check_allowed(environ, _settings(enable_integration_testing=True))
    with pytest.raises(ConfigError, match="single-process"):
        check_allowed(environ, _settings(enable_fault_injection=True, single_process=True))
    with pytest.raises(ConfigError, match="there is no fault"):
        check_allowed({VARIABLE: "x"}, _settings(enable_fault_injection=True))
    check_allowed(environ, _settings(enable_fault_injection=True))
    check_allowed({}, _settings())


def test_a_role_finds_faults_only_where_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is in the environment is not looked at otherwise.
    """
    monkeypatch.setenv(VARIABLE, "consumer-slow:orders:poison")
    assert find_faults(_settings()) is None
    found = find_faults(_settings(enable_fault_injection=True, flush_stall_grace_s=8.0))
    assert found is not None
    assert found.slow_s == pytest.approx(6.8)
