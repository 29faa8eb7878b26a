"""Crash points: one list, one way to die; each is passed by the product and armed by a test."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.base import crashpoints

ROOT = Path(__file__).parents[2]
#: Who passes a point: the function itself, and `worker.job.settlements`, which passes one with each job of a slice.
PASSING = {"crashpoint", "_pass"}


def trees(*folders: str, naming: set[str] | frozenset[str]) -> Iterator[tuple[str, ast.AST]]:
    """The modules below these folders that name one of these, parsed."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if any(name in text for name in naming):
                yield str(path.relative_to(ROOT)), ast.parse(text)


def passed() -> dict[str, list[str]]:
    """The points that the product passes, each with the modules that do."""
    found = defaultdict(list)
    for module, tree in trees("worker", naming={"crashpoint"}):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PASSING:
                match node.args[0]:
                    case ast.Constant(value=str(name)):
                        found[name].append(module)
                    case ast.Name(id="point") if module == "worker/job/settlements.py":
                        pass
                    case other:
                        raise AssertionError(f"{module}:{node.lineno} passes {ast.unparse(other)}: name the point")
    return found


def armed() -> set[str]:
    """The points that fault and integration tests name, with or without the number of the passing."""
    return {
        node.value.partition(":")[0]
        for _, tree in trees("tests/faults", "tests/integration", naming=crashpoints.POINTS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } & crashpoints.POINTS


def test_every_crash_point_is_passed_by_the_product_and_by_nothing_that_is_not_listed() -> None:
    assert passed().keys() == crashpoints.POINTS


def test_every_crash_point_is_armed_by_a_test() -> None:
    """A point at which no test dies proves nothing."""
    assert crashpoints.POINTS - armed() == set()


def test_the_environment_arms_a_listed_point_and_refuses_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, expected in {
        "call.before": ("call.before", 1, None),
        "call.before:3": ("call.before", 3, None),
        "call.before:job_1": ("call.before", 1, "job_1"),
        "call.before:3:job_1": ("call.before", 3, "job_1"),
        "": None,
    }.items():
        monkeypatch.setenv("STOCKPOT_CRASH_AT", spec)
        assert crashpoints._read() == expected
    monkeypatch.setenv("STOCKPOT_CRASH_AT", "call.befor")
    with pytest.raises(ValueError, match=r"no crash point is called 'call\.befor'; there are .*call\.before"):
        crashpoints._read()
