"""What the watchdog counts."""

from __future__ import annotations

import pytest

from worker.broker.watchdog import InARow


@pytest.mark.parametrize(
    ("looks", "ill"),
    [
        ("eee", True),
        ("ee", False),
        ("e.ee", False),
        ("eedd", False),
        ("...", False),
        ("dd.ddd", True),
        ("ededede", False),
    ],
)
def test_the_same_illness_must_be_seen_three_times_in_a_row(looks: str, ill: bool) -> None:
    """A process that was stopped and goes on is seen ill once; two illnesses are not one."""
    row = InARow(3)
    assert any(row.seen(look.strip(".")) for look in looks) is ill
