from __future__ import annotations

import runpy
from pathlib import Path
from typing import Final

import penstock

REPOSITORY: Final = Path(__file__).parents[1]


def test_the_reference_of_python_is_what_the_docstrings_say() -> None:
    """
    docs/reference/python.md is as `make reference` writes it, and has a section for each public name.
    """
    program = runpy.run_path(str(REPOSITORY / "scripts" / "reference"), run_name="reference")
    page = (REPOSITORY / "docs" / "reference" / "python.md").read_text()
    assert page == program["page"](), "run `make reference`"
    assert {f"## {name}" for name in penstock.__all__} <= set(page.splitlines())
