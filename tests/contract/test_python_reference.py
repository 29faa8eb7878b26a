"""`docs/python.md` is what the code says: each exported name, its parameters, its docstring."""

from __future__ import annotations

import worker
from tests.python_reference import MARK, PAGE, reference


def test_the_page_is_what_the_docstrings_say() -> None:
    """`python -m tests.python_reference` writes it anew."""
    assert PAGE.read_text().split(MARK)[1].lstrip() == reference()


def test_every_exported_name_is_on_the_page_with_what_it_is() -> None:
    """A heading and a sentence, a table or a signature beneath it; an error has its row."""
    page = PAGE.read_text().splitlines()
    for name in worker.__all__:
        row = next((line for line in page if line.startswith(f"| `{name}` |")), None)
        if row is None:
            at = page.index(f"### {name}")
            assert any(line and not line.startswith("#") for line in page[at + 1 : at + 4]), name
