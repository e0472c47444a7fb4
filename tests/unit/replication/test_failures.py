from __future__ import annotations

import pytest

from penstock.errors import (
    ConnectionLostError,
    MisconfiguredSourceError,
    Policy,
    SlotInUseError,
    SlotLostError,
    SourceError,
)
from penstock.replication.failures import (
    MESSAGE_CHARS_MAX,
    Backoff,
    ServerRefusal,
    Stage,
    judge_connect,
    judge_refusal,
    wal_level_too_low,
)


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        ('FATAL:  password authentication failed for user "x"', MisconfiguredSourceError, "password"),
        ("fe_sendauth: no password supplied", MisconfiguredSourceError, "password"),
        ('FATAL:  role "x" does not exist', MisconfiguredSourceError, "user"),
        ('FATAL:  role "x" is not permitted to log in', MisconfiguredSourceError, "user"),
        ('FATAL:  database "x" does not exist', MisconfiguredSourceError, "Create it"),
        ('FATAL:  no pg_hba.conf entry for replication connection from host "1.2.3.4", user "x", no encryption', MisconfiguredSourceError, "pg_hba.conf"),
        ("FATAL:  must be superuser or replication role to start walsender", MisconfiguredSourceError, "ALTER ROLE"),
        ("FATAL:  permission denied to start WAL sender\nDETAIL:  Only roles with …", MisconfiguredSourceError, "ALTER ROLE"),
        ("server does not support SSL, but SSL was required", MisconfiguredSourceError, "sslmode"),
        ("SSL error: certificate verify failed", MisconfiguredSourceError, "CA file"),
        ('server certificate for "a" does not match host name "b"', MisconfiguredSourceError, "CA file"),
        ('could not translate host name "x" to address: Name or service not known', MisconfiguredSourceError, "host"),
        ("FATAL:  unsupported startup parameter: replication", MisconfiguredSourceError, "pooler"),
        ("FATAL:  the database system is starting up", ConnectionLostError, "starting up"),
        ("FATAL:  the database system is shutting down", ConnectionLostError, "shutting down"),
        ("FATAL:  sorry, too many clients already", ConnectionLostError, "too many clients"),
        ("FATAL:  remaining connection slots are reserved for …", ConnectionLostError, "reserved"),
        ("FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)", ConnectionLostError, "Raise max_wal_senders"),
        ("connection refused\n\tIs the server running?", ConnectionLostError, "connection refused Is the server"),
        ("anything unknown", ConnectionLostError, "anything unknown"),
    ],
)  # fmt: skip
def test_connecting_is_judged_by_text(text: str, expected: type[SourceError], words: str) -> None:
    """
    Only what a person must mend is fatal; each sentence names the fix or repeats the server's words.
    """
    error = judge_connect(text)
    assert type(error) is expected
    assert words in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("sqlstate", "message", "stage", "expected"),
    [
        ("55006", "replication slot is active for PID 1", Stage.START, SlotInUseError),
        ("55006", "…", Stage.SET_UP, SlotInUseError),
        ("55000", "logical decoding requires wal_level >= logical", Stage.SET_UP, MisconfiguredSourceError),
        ("55000", "cannot read from logical replication slot", Stage.START, SlotLostError),
        ("55000", "can no longer access replication slot", Stage.STREAM, SlotLostError),
        ("55000", "something else", Stage.SET_UP, ConnectionLostError),
        ("42704", 'replication slot "x" does not exist', Stage.START, SlotLostError),
        ("42704", 'publication "x" does not exist', Stage.STREAM, SlotLostError),
        ("42704", "…", Stage.SET_UP, ConnectionLostError),
        ("42501", "must be superuser or replication role", Stage.SET_UP, MisconfiguredSourceError),
        ("42501", "…", Stage.STREAM, ConnectionLostError),
        ("28P01", "…", Stage.SET_UP, MisconfiguredSourceError),
        ("3D000", "…", Stage.SET_UP, MisconfiguredSourceError),
        ("57P01", "terminating connection", Stage.STREAM, ConnectionLostError),
        ("53400", "all replication slots are in use", Stage.SET_UP, ConnectionLostError),
        ("53100", "disk full", Stage.STREAM, ConnectionLostError),
        ("57014", "canceled", Stage.STREAM, ConnectionLostError),
        ("", "server closed the connection unexpectedly", Stage.STREAM, ConnectionLostError),
    ],
)
def test_refusals_are_judged_by_sqlstate(
    sqlstate: str, message: str, stage: Stage, expected: type[SourceError]
) -> None:
    """
    The same code means different things at different stages; it is kept.
    """
    error = judge_refusal(ServerRefusal(sqlstate, message), stage)
    assert type(error) is expected
    assert error.sqlstate == (sqlstate or None)


def test_a_low_wal_level_names_the_command() -> None:
    """
    One sentence to run.
    """
    error = wal_level_too_low("replica")
    assert error.policy is Policy.STOP
    assert "ALTER SYSTEM SET wal_level = 'logical'" in error.message
    assert "'replica'" in error.message


def test_long_texts_are_cut() -> None:
    """
    A server that talks does not fill the log.
    """
    assert len(judge_connect("x" * 10_000).message) < MESSAGE_CHARS_MAX + 100


def test_delays_double_and_begin_again() -> None:
    """
    From one second to ten, and from the start after five seconds of streaming.
    """
    backoff, lost = Backoff(), ConnectionLostError("x")
    assert [backoff.delay_s(lost, 0.0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay_s(lost, 4.9) == 10
    assert [backoff.delay_s(lost, 5.0), backoff.delay_s(lost, 0.0)] == [1, 2]


def test_a_slot_in_use_is_tried_again_soon() -> None:
    """
    Its delays are short and leave the others alone.
    """
    backoff, lost, used = Backoff(), ConnectionLostError("x"), SlotInUseError("x")
    backoff.delay_s(lost, 0.0)
    assert [backoff.delay_s(used, 0.0) for _ in range(5)] == [0.2, 0.4, 0.8, 1, 1]
    assert backoff.delay_s(lost, 0.0) == 2
    assert backoff.delay_s(used, 0.0) == 0.2
