from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from penstock.errors import ConnectionLostError, MisconfiguredSourceError, SlotInUseError
from penstock.postgres.lsn import EndLsn
from penstock.replication.failures import ServerRefusal
from penstock.replication.handshake import (
    SESSION_SETTINGS,
    Answer,
    Ask,
    Introduction,
    Names,
    Rows,
    introduce,
    quote_literal,
    start_command,
)
from penstock.replication.state import ReceiverPhase

NAMES = Names("slot", "pub")
OURS = ("logical", "pgoutput", "db", "0/10", "reserved", "f", None)
WHOLE = ("t", "t", "t", "t")
OLD = "0/10"
NEW = "0/20"


@dataclass
class ScriptedServer:
    """
    Answers commands by how they begin; what it is told to refuse it refuses once for each refusal.
    """

    version: str = "150018"
    wal_level: str = "logical"
    publication: tuple[str, ...] | None = WHOLE
    slot: tuple[str | None, ...] | None = OURS
    refusals: dict[str, list[ServerRefusal]] = field(default_factory=dict)
    asked: list[Ask] = field(default_factory=list)

    def answer(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        sql = ask.sql
        for beginning, refusals in self.refusals.items():
            if sql.startswith(beginning) and refusals:
                return refusals.pop(0)
        match sql.split()[0], sql:
            case "IDENTIFY_SYSTEM", _:
                return Rows((("7000", "3", "0/30", "db"),))
            case "CREATE", _:
                self.publication = WHOLE
            case "DROP_REPLICATION_SLOT", _:
                self.slot = None
            case "CREATE_REPLICATION_SLOT", _:
                return Rows((("slot", NEW, None, "pgoutput"),))
            case _, text if "server_version_num" in text:
                return Rows(((self.version, self.wal_level, "6000", "4242"),))
            case _, text if "FROM pg_catalog.pg_publication" in text:
                return Rows(() if self.publication is None else (self.publication,))
            case _, text if "FROM pg_catalog.pg_replication_slots" in text:
                return Rows(() if self.slot is None else (self.slot,))
        return Rows((("",),))

    def converse(self, names: Names = NAMES, remake_reason: str = "") -> Introduction:
        dialogue = introduce(names, remake_reason)
        try:
            ask = next(dialogue)
            while True:
                ask = dialogue.send(self.answer(ask))
        except StopIteration as done:
            introduction: Introduction = done.value
            return introduction

    @property
    def commands(self) -> list[str]:
        """
        The first words of what changed something.
        """
        words = [" ".join(ask.sql.split()[:2]) for ask in self.asked]
        return [word for word in words if word.startswith(("CREATE", "DROP"))]


def refusal(sqlstate: str) -> ServerRefusal:
    return ServerRefusal(sqlstate, "no")


def test_an_old_slot_is_taken_as_it_is() -> None:
    """
    Nothing is created; what the server said is handed on.
    """
    server = ScriptedServer()
    introduction = server.converse()
    identity = introduction.start.identity
    assert server.commands == []
    assert (identity.system_id, identity.timeline, identity.slot_name) == ("7000", 3, "slot")
    assert not identity.is_new
    assert identity.consistent_point is None
    assert identity.confirmed == EndLsn.parse(OLD)
    assert identity.reason == ""
    assert introduction.wal_sender_timeout_s == 6.0
    assert introduction.server_version == 150018
    assert introduction.backend_pid == 4242
    assert introduction.start.options == {"proto_version": "1", "publication_names": "pub", **SESSION_SETTINGS}


def test_settings_and_lock_come_first() -> None:
    """
    Before anything is looked at, the session's settings hold and the lock is ours; only lock and slot may wait.
    """
    server = ScriptedServer(slot=None)
    server.converse()
    texts = [ask.sql for ask in server.asked]
    settings = next(index for index, text in enumerate(texts) if "set_config" in text)
    lock = next(index for index, text in enumerate(texts) if "pg_advisory_lock" in text)
    publication = next(index for index, text in enumerate(texts) if "pg_publication" in text)
    assert settings < lock < publication
    assert "hashtext('slot')" in texts[lock]
    for name, value in SESSION_SETTINGS.items():
        assert f"'{name}', '{value}'" in texts[settings]
    waiting = [ask.phase for ask in server.asked if ask.may_wait]
    assert waiting == [ReceiverPhase.WAITING_FOR_LOCK, ReceiverPhase.CREATING_SLOT]


def test_a_missing_slot_is_created() -> None:
    """
    It begins at its consistent point, and there is a reason.
    """
    server = ScriptedServer(slot=None)
    identity = server.converse().start.identity
    assert server.commands == ['CREATE_REPLICATION_SLOT "slot"']
    assert server.asked[-1].sql == 'CREATE_REPLICATION_SLOT "slot" LOGICAL pgoutput NOEXPORT_SNAPSHOT'
    assert identity.is_new
    assert identity.confirmed == identity.consistent_point == EndLsn.parse(NEW)
    assert "no slot" in identity.reason


def test_a_temporary_slot_is_asked_for() -> None:
    """
    Only when it is wanted.
    """
    server = ScriptedServer(slot=None)
    server.converse(Names("slot", "pub", is_slot_temporary=True))
    assert server.asked[-1].sql == 'CREATE_REPLICATION_SLOT "slot" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT'


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        (("logical", "pgoutput", "db", "0/10", "lost", "f", None), "WAL was removed"),
        (("logical", "pgoutput", "db", None, "lost", "f", None), "WAL was removed"),
        (("logical", "pgoutput", "db", "0/10", "reserved", "f", "idle_timeout"), "idle_timeout"),
    ],
)
def test_an_invalidated_slot_is_replaced(slot: tuple[str | None, ...], words: str) -> None:
    """
    Dropped and created, with the reason.
    """
    server = ScriptedServer(slot=slot)
    identity = server.converse().start.identity
    assert server.commands == ['DROP_REPLICATION_SLOT "slot"', 'CREATE_REPLICATION_SLOT "slot"']
    assert identity.is_new
    assert words in identity.reason


def test_a_slot_that_could_not_decode_is_replaced() -> None:
    """
    Whoever saw it fail says why; that it is gone meanwhile is fine.
    """
    server = ScriptedServer(refusals={"DROP_REPLICATION_SLOT": [refusal("42704")]})
    identity = server.converse(remake_reason="it failed").start.identity
    assert identity.is_new
    assert identity.reason == "it failed"


def test_a_missing_publication_replaces_the_slot_first() -> None:
    """
    The old slot goes before the publication comes, so that a crash in between leaves no slot that cannot decode.
    """
    server = ScriptedServer(publication=None)
    identity = server.converse().start.identity
    assert server.commands == [
        'DROP_REPLICATION_SLOT "slot"',
        "CREATE PUBLICATION",
        'CREATE_REPLICATION_SLOT "slot"',
    ]
    assert "publication pub was missing" in identity.reason


def test_from_18_on_generated_columns_are_published() -> None:
    """
    Older servers do not know the option.
    """
    for version, is_expected in (("170000", False), ("180000", True)):
        server = ScriptedServer(version=version, publication=None)
        server.converse()
        (create,) = [ask.sql for ask in server.asked if ask.sql.startswith("CREATE PUBLICATION")]
        assert create.endswith(" WITH (publish_generated_columns = stored)") is is_expected


def test_a_publication_made_by_another_meanwhile_is_fine() -> None:
    """
    If it is whole.
    """
    server = ScriptedServer(publication=None, slot=None, refusals={"CREATE PUBLICATION": [refusal("42710")]})
    assert server.converse().start.identity.is_new


def test_a_publication_that_may_not_be_made() -> None:
    """
    A person must make it; anything else is retried.
    """
    server = ScriptedServer(publication=None, refusals={"CREATE PUBLICATION": [refusal("42501")]})
    with pytest.raises(MisconfiguredSourceError, match='CREATE PUBLICATION "pub"'):
        server.converse()
    with pytest.raises(ConnectionLostError):
        ScriptedServer(publication=None, refusals={"CREATE PUBLICATION": [refusal("53100")]}).converse()


@pytest.mark.parametrize(
    ("told", "words"), [(("t", "t", "f", "t"), "delete"), (("f", "t", "t", "f"), "insert, truncate")]
)
def test_a_publication_that_leaves_something_out(told: tuple[str, ...], words: str) -> None:
    """
    It is named, with the command that mends it, and the slot stays.
    """
    server = ScriptedServer(publication=told)
    with pytest.raises(MisconfiguredSourceError, match=f"leaves out {words}.*ALTER PUBLICATION"):
        server.converse()
    assert server.commands == []


@pytest.mark.parametrize(
    "slot",
    [
        ("physical", None, None, None, "reserved", "f", None),
        ("logical", "wal2json", "db", "0/10", "reserved", "f", None),
        ("logical", "pgoutput", "other", "0/10", "lost", "f", None),
    ],
)
@pytest.mark.parametrize("publication", [None, WHOLE])
def test_a_foreign_slot_is_never_dropped(slot: tuple[str | None, ...], publication: tuple[str, ...] | None) -> None:
    """
    Not even when the publication is missing or we saw something fail.
    """
    server = ScriptedServer(slot=slot, publication=publication)
    with pytest.raises(MisconfiguredSourceError, match="somebody else"):
        server.converse(remake_reason="it failed")
    assert server.commands == []


@pytest.mark.parametrize(
    "slot",
    [
        ("logical", "pgoutput", "db", "0/10", "reserved", "t", None),
        ("logical", "pgoutput", "db", None, None, "f", None),
    ],
    ids=["temporary", "unfinished"],
)
def test_a_slot_that_another_is_making_is_waited_for(slot: tuple[str | None, ...]) -> None:
    """
    Temporary or half-made, it belongs to a connection that lives.
    """
    with pytest.raises(SlotInUseError):
        ScriptedServer(slot=slot).converse()


def test_a_slot_in_use_cannot_be_dropped() -> None:
    """
    Somebody streams from it: try again.
    """
    server = ScriptedServer(refusals={"DROP_REPLICATION_SLOT": [refusal("55006")]})
    with pytest.raises(SlotInUseError):
        server.converse(remake_reason="it failed")


def test_an_interrupted_wait_for_the_lock_goes_on() -> None:
    """
    Cancelled or timed out, it is asked for again; anything else ends the conversation.
    """
    lock = "SELECT pg_catalog.pg_advisory_lock"
    server = ScriptedServer(refusals={lock: [refusal("57014"), refusal("55P03"), refusal("57014")]})
    server.converse()
    assert sum(ask.sql.startswith(lock) for ask in server.asked) == 4
    with pytest.raises(ConnectionLostError):
        ScriptedServer(refusals={lock: [refusal("57P01")]}).converse()


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (ScriptedServer(version="130011"), "14 or newer"),
        (ScriptedServer(wal_level="replica"), "wal_level"),
        (ScriptedServer(version="fifteen"), "lead to Postgres"),
        (ScriptedServer(slot=("logical", "pgoutput", "db", "nowhere", "reserved", "f", None)), "lead to Postgres"),
        (ScriptedServer(slot=("logical",)), "lead to Postgres"),
        (ScriptedServer(refusals={"CREATE_REPLICATION_SLOT": [refusal("42501")]}, slot=None), "REPLICATION"),
    ],
)
def test_servers_that_do_not_do(server: ScriptedServer, words: str) -> None:
    """
    Too old, without logical WAL, or not Postgres at all.
    """
    with pytest.raises(MisconfiguredSourceError, match=words):
        server.converse()


def test_an_answer_without_a_value_is_none() -> None:
    """
    A NULL where there must be a value ends the conversation.
    """
    dialogue = introduce(NAMES)
    next(dialogue)
    with pytest.raises(MisconfiguredSourceError):
        dialogue.send(Rows((("7000", "3", "0/30", None),)))


def test_names_are_quoted() -> None:
    """
    Whatever is in them.
    """
    assert quote_literal("a'b") == "'a''b'"
    assert start_command(Names("s", "p\"'q")) == (
        "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p\"\"''q\"')"
    )


def test_the_stream_is_asked_for_whole_commits_only() -> None:
    """
    In no version of the protocol that sends transactions before they commit, nor prepared ones: nothing is owed for them.
    """
    command = start_command(NAMES)
    assert "(proto_version '1'," in command
    assert not any(word in command for word in ("streaming", "two_phase", "messages"))
    slot = ScriptedServer(slot=None)
    slot.converse()
    created = next(ask.sql for ask in slot.asked if ask.sql.startswith("CREATE_REPLICATION_SLOT"))
    assert "TWO_PHASE" not in created.upper()
