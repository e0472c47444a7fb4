from __future__ import annotations

import signal
import subprocess
import urllib.request
from contextlib import closing

import psycopg
import pytest

from harness.demo import Demo
from harness.waiting import until
from penstock.testing.postgres import find_bundled_binaries

pytestmark = pytest.mark.postgres


def test_the_demo_shows_itself_and_goes_without_a_trace() -> None:
    """
    It says where to look, serves rows there, and ends on Ctrl-C with status 0, nothing left.
    """
    with Demo() as demo:
        invitation = demo.read_invitation()
        with urllib.request.urlopen(invitation.rows, timeout=20) as answer:
            assert b'"operation":"insert"' in answer.read()
        with urllib.request.urlopen(invitation.page, timeout=20) as answer:
            assert b"<!doctype html>" in answer.read()
        assert demo.processes()
        assert list(demo.folder.iterdir()), "its files are somewhere else: what follows would say nothing"
        demo.interrupt()
        assert demo.wait_ended() == 0, demo.output
        assert demo.leftovers() == []
    assert demo.output.endswith("Gone without a trace.\n")
    assert "Traceback" not in demo.output


def test_what_the_demo_says_can_be_copied_into_a_shell() -> None:
    """
    The printed command that changes the table works as it stands, and the change is served.
    """
    with Demo() as demo:
        invitation = demo.read_invitation()
        done = subprocess.run(invitation.psql, shell=True, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(invitation.database) as connection:
            assert connection.execute("SELECT count(*) FROM turbines WHERE name = 'Yours'").fetchone() == (1,)
        demo.interrupt()
        assert demo.wait_ended() == 0, demo.output


async def test_the_demo_can_be_left_while_it_starts() -> None:
    """
    Ctrl-C before anything is served ends it as quietly, nothing left.
    """
    with Demo() as demo:

        async def is_starting() -> bool:
            return bool(list(demo.folder.glob("*/data")))

        async def is_gone() -> bool:
            return not demo.leftovers()

        await until("Postgres has a folder", is_starting)
        demo.interrupt()
        assert demo.wait_ended() == 0, demo.output
        # Whoever outlives the demo removes the folder of a server that was only being made.
        await until("nothing is left", is_gone)
    assert "Traceback" not in demo.output


async def test_a_killed_demo_leaves_nothing() -> None:
    """
    Killed without a chance to clean up, it is cleaned up after by those that outlive it.
    """
    with Demo() as demo:
        demo.read_invitation()
        demo.process.send_signal(signal.SIGKILL)

        async def is_gone() -> bool:
            return not demo.leftovers()

        await until("nothing is left of the killed demo", is_gone)


def test_visitors_cannot_break_the_demo() -> None:
    """
    With every row deleted the fleet comes back, and an open transaction that holds locks does not delay the end.
    """
    with Demo() as demo:
        database = demo.read_invitation().database
        with closing(psycopg.connect(database)) as visitor:
            visitor.execute("DELETE FROM turbines")
            visitor.commit()
            visitor.execute("LISTEN came_back")
            visitor.execute("""
                CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    NOTIFY came_back; RETURN NULL;
                END $$""")
            visitor.execute("CREATE TRIGGER tell AFTER INSERT ON turbines EXECUTE FUNCTION tell()")
            visitor.commit()
            visitor.autocommit = True
            assert next(visitor.notifies(timeout=30), None) is not None, "no turbine came back"
            visitor.autocommit = False
            visitor.execute("LOCK TABLE turbines")
            demo.interrupt()
            assert demo.wait_ended() == 0, demo.output
            assert demo.leftovers() == []
    assert "Traceback" not in demo.output


@pytest.mark.skipif(find_bundled_binaries() is None, reason="the bundled Postgres is not installed")
def test_the_demo_needs_no_installed_postgres() -> None:
    """
    With the bundled server it does the same, on the version that comes along.
    """
    with Demo("--bundled") as demo:
        invitation = demo.read_invitation()
        assert "Postgres 18" in demo.output
        with urllib.request.urlopen(invitation.rows, timeout=20) as answer:
            assert b'"operation":"insert"' in answer.read()
        demo.interrupt()
        assert demo.wait_ended() == 0, demo.output
        assert demo.leftovers() == []
