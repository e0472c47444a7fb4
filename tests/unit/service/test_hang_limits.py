from __future__ import annotations

from pathlib import Path

from penstock.service.lifecycle import Role
from penstock.service.settings import Settings
from penstock.service.supervisor import hang_limit_s


def test_two_strikes_leave_time_for_all_between_them() -> None:
    """
    With default settings two hangs, two starts and a conviction fit into the 45 s that are promised.
    """
    settings = Settings(database_url="postgresql://localhost/x", insecure=True, data_dir=Path("x"))
    first_s = hang_limit_s(settings, Role.ENGINE, was_hung=False)
    second_s = hang_limit_s(settings, Role.ENGINE, was_hung=True)
    assert first_s == settings.engine_hang_s
    assert second_s < first_s
    assert first_s + second_s <= 45 - 10


def test_each_part_has_its_own_limit() -> None:
    """
    As set, by role.
    """
    settings = Settings(
        database_url="postgresql://localhost/x",
        insecure=True,
        data_dir=Path("x"),
        engine_hang_s=4.0,
        receiver_hang_s=5.0,
        web_hang_s=6.0,
    )
    limits = {role: hang_limit_s(settings, role, was_hung=False) for role in Role}
    assert limits == {Role.ENGINE: 4.0, Role.SINGLE: 4.0, Role.RECEIVER: 5.0, Role.WEB: 6.0}
