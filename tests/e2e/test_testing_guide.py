from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

GUIDE: Final = Path(__file__).parents[2] / "docs" / "guides" / "testing.md"
# Nothing of this suite's own settings, which users do not have.
PLAIN: Final = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:schemathesis", "-W", "error")


def samples() -> dict[str, str]:
    """
    The guide's pieces of Python, by the name of the file that they say they are; the last is a program.
    """
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return {block.partition("\n")[0].removeprefix("# "): block for block in blocks}


def write_samples(pytester: pytest.Pytester, *names: str) -> None:
    for name in names:
        pytester.makepyfile(**{name.removesuffix(".py"): samples()[name]})


def test_the_fixtures_are_there_where_penstock_is_installed(pytester: pytest.Pytester) -> None:
    """
    Nobody names the plugin, and tests that do not use it import nothing of Penstock besides.
    """
    installed = {entry.value for entry in entry_points(group="pytest11") if entry.name == "penstock"}
    assert installed == {"penstock.testing.plugin"}, "the environment is older than pyproject.toml: run `make setup`"
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            ours = {name for name in sys.modules if name.partition(".")[0] in {"penstock", "psycopg"}}
            assert ours == {"penstock", "penstock.testing", "penstock.testing.plugin"}
        """
    )
    pytester.runpytest_subprocess(*PLAIN).assert_outcomes(passed=1)


def test_the_samples_of_the_guide_pass(pytester: pytest.Pytester) -> None:
    """
    In random order and in another process, as users like to run them, with one service for all.
    """
    pytester.makeini("[pytest]\npenstock_scope = session\n")
    write_samples(pytester, "test_orders.py", "test_total.py", "test_failures.py")
    pytester.runpytest_subprocess(*PLAIN, "-n", "1", "-p", "randomly").assert_outcomes(passed=3)


def test_the_sample_with_a_marker_passes(pytester: pytest.Pytester) -> None:
    """
    The test has a service of its own, whose shape is lost, and comes again.
    """
    write_samples(pytester, "test_marked.py")
    pytester.runpytest_subprocess(*PLAIN).assert_outcomes(passed=1)


def test_the_sample_without_pytest_works(tmp_path: Path) -> None:
    """
    It prints what it should and leaves no process behind.
    """
    (program,) = [text for name, text in samples().items() if not name.endswith(".py")]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("1 row\n", "")


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        ('penstock_service.inject("engine-kiled")', "there is no fault 'engine-kiled'; there are engine-killed"),
        ('penstock_service.inject("consumer-killed")', "write consumer-killed:TABLE:WORD"),
    ],
)
def test_faults_that_are_none_are_refused(test: str, complaint: str) -> None:
    """
    The message says which there are, and nothing is started for it.
    """
    from penstock.errors import ConfigError  # noqa: PLC0415  the plugin's tests look at what is imported
    from penstock.testing.service import ThrowawayService  # noqa: PLC0415

    service = ThrowawayService("postgresql://127.0.0.1:9/nowhere")
    try:
        with pytest.raises(ConfigError) as refused:
            eval(test, {"penstock_service": service})
        assert complaint in refused.value.message
    finally:
        service.close()
