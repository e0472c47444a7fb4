from __future__ import annotations

import sys
from pathlib import Path

import pytest

from penstock.api.authorising import import_authorize
from penstock.errors import ConfigError
from penstock.service.settings_sources import OPEN_TO_ALL, read

FLAGS = {"database_url": "postgresql://localhost/shop"}


def test_a_callable_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As `module:name`, also as an attribute of something in it.
    """
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    name = "rules_of_this_test"
    (tmp_path / f"{name}.py").write_text(
        "class Rules:\n    @staticmethod\n    def decide(request, shape):\n        return None\n\nword = 'x'\n"
    )
    try:
        assert import_authorize(f"{name}:Rules.decide") is sys.modules[name].Rules.decide
        for path, words in (
            (f"{name}:nothing", "is not to be had"),
            (f"{name}:word", "not a callable"),
            ("no_such_module_anywhere:x", "is not to be had"),
            (name, "module:name"),
            (f"{name}:", "module:name"),
            (":x", "module:name"),
        ):
            with pytest.raises(ConfigError, match=words):
                import_authorize(path)
    finally:
        sys.modules.pop(name, None)


def test_a_guard_takes_the_place_of_a_secret() -> None:
    """
    With `authorize` neither a secret nor the word that there is none is needed, and nobody is warned; without, one is.
    """
    loaded = read({**FLAGS, "authorize": "rules:decide"}, {}, "", folder=Path("/x"), token="t")
    assert loaded.settings.authorize == "rules:decide"
    assert loaded.settings.secret is None
    assert OPEN_TO_ALL not in loaded.warnings
    assert OPEN_TO_ALL in read({**FLAGS, "insecure": "true"}, {}, "", folder=Path("/x"), token="t").warnings
    with pytest.raises(ConfigError, match="PENSTOCK_SECRET"):
        read(FLAGS, {}, "", folder=Path("/x"), token="t")
