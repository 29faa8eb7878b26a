"""The header in which a file's name goes to the client."""

from __future__ import annotations

import pytest

from worker.gateway.file_wire import attachment


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("prompts (1).jsonl", 'attachment; filename="prompts (1).jsonl"'),
        ("ü.jsonl", "attachment; filename=\"_.jsonl\"; filename*=UTF-8''%C3%BC.jsonl"),
        ('a"; filename="b', "attachment; filename=\"a_; filename=_b\"; filename*=UTF-8''a%22%3B%20filename%3D%22b"),
        ("a\\b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%5Cb"),
        ("a\r\nset-cookie: b", "attachment; filename=\"a__set-cookie: b\"; filename*=UTF-8''a%0D%0Aset-cookie%3A%20b"),
        ("\ud800", "attachment; filename=\"_\"; filename*=UTF-8''%3F"),
    ],
)
def test_a_file_keeps_its_name_and_no_name_is_more_than_one(name: str, header: str) -> None:
    assert attachment(name) == header
