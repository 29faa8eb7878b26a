"""Where a fault proxy cuts a stream: at the same byte however the stream is torn into chunks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig.weather import AfterBytes, AtPattern, Cut


def _through(cut: Cut, chunks: list[bytes]) -> tuple[bytes, bool]:
    """Everything that passes before the cut, or all of it."""
    passed, held = b"", b""
    for chunk in chunks:
        split = cut.split(held, chunk)
        passed, held = passed + split.passed, split.held
        if split.cut:
            return passed, True
    return passed + held, False


@given(
    chunks=st.lists(st.text(alphabet="COMIT;", max_size=12).map(str.encode), max_size=12),
    skip=st.integers(0, 2),
    before=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_pattern_cut_is_exact_for_any_chunking(chunks: list[bytes], skip: int, before: bool) -> None:
    """However the stream is torn, the cut falls at the same byte as in the whole stream."""
    whole = b"".join(chunks)
    at, start = -1, 0
    for _ in range(skip + 1):
        at = whole.find(b"COMMIT", start)
        if at < 0:
            break
        start = at + 6
    expected = (whole, False) if at < 0 else (whole[: at if before else at + 6], True)
    assert _through(AtPattern("to_server", b"COMMIT", skip, before, "reset"), chunks) == expected


@given(chunks=st.lists(st.binary(min_size=1, max_size=8), max_size=8), n_bytes=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_a_byte_cut_is_exact_for_any_chunking(chunks: list[bytes], n_bytes: int) -> None:
    """The same for a count."""
    whole = b"".join(chunks)
    expected = (whole[:n_bytes], True) if len(whole) >= n_bytes else (whole, False)
    assert _through(AfterBytes("to_client", n_bytes, "reset"), chunks) == expected
