"""`python -m tests.python_reference`: write the reference part of `docs/python.md` from the code.

Every exported name, its parameters and its docstring, as an application sees them; a test compares the page with what
this would write (`tests/contract/test_python_reference.py`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, is_typeddict

from pydantic import BaseModel

import worker
from worker import AsyncStockpot, Settings, Stockpot

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
MARK = "<!-- Below: written by `python -m tests.python_reference` from the docstrings. -->\n"
#: The objects of a producer, by the attribute that has them.
OBJECTS = ("batches", "files", "webhooks", "budgets", "routes")
#: What the gateway and the command line call; no verb of an application.
PRIVATE = {"calls", "keys", "blocking"}


class _Bare:
    """An annotation as it stands in the source."""

    def __init__(self, text: object) -> None:
        self.text = text if isinstance(text, str) else inspect.formatannotation(text)

    def __repr__(self) -> str:
        return self.text.replace("builtins.", "")


def signature(of: Any) -> str:
    """The parameters and the result of a function, without `self`."""
    found = inspect.signature(of)
    parameters = [
        one.replace(annotation=one.annotation if one.annotation is one.empty else _Bare(one.annotation))
        for one in found.parameters.values()
        if one.name != "self"
    ]
    result = found.return_annotation
    return str(
        found.replace(parameters=parameters, return_annotation=result if result is found.empty else _Bare(result))
    ).replace(" -> None", "")


def prose(text: str | None) -> list[str]:
    """A docstring as Markdown: its sections become lists."""
    lines, listing = [], False
    for line in inspect.cleandoc(text or "").splitlines():
        if line in {"Args:", "Raises:", "Attributes:", "Returns:"}:
            listing = True
            lines += [f"*{line}*", ""]
        elif listing and line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        elif listing and line.startswith("     "):
            lines[-1] += f" {line.strip()}"
        else:
            listing = listing and not line
            lines.append(line)
    return [*lines, ""] if lines else []


def module_docstring(name: str) -> str:
    """What is written beneath, or above with `#:`, the assignment of a name that has no docstring of its own."""
    module = importlib.import_module(worker._HOMES[name])
    source = inspect.getsource(module)
    statements = ast.parse(source).body
    for at, one in enumerate(statements):
        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
        if not any(isinstance(target, ast.Name) and target.id == name for target in targets):
            continue
        after = statements[at + 1] if at + 1 < len(statements) else None
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return str(after.value.value)
        above = source.splitlines()[: one.lineno - 1]
        comment: list[str] = []
        while above and above[-1].startswith("#:"):
            comment.insert(0, above.pop().removeprefix("#:").strip())
        return " ".join(comment)
    return ""


def verbs(of: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a class, in the order of the source."""
    seen = [name for base in reversed(of.__mro__) for name in vars(base)]
    for name in dict.fromkeys(seen):
        value = inspect.getattr_static(of, name)
        if not name.startswith("_") and name not in PRIVATE and callable(getattr(of, name)):
            yield name, value.__func__ if isinstance(value, classmethod | staticmethod) else getattr(of, name)


def rows(of: type) -> Iterator[tuple[str, str]]:
    """The fields of a value with their types, and its properties."""
    if is_typeddict(of):
        yield from ((name, _typed(of, name)) for name in of.__annotations__)
        return
    if is_dataclass(of):
        yield from ((one.name, _typed(of, one.name)) for one in fields(of))
    elif issubclass(of, BaseModel):
        yield from ((name, _typed(of, name)) for name in of.model_fields)
    for name, value in vars(of).items():
        if isinstance(value, property) and not name.startswith("_"):
            yield name, f"{_Bare(inspect.signature(value.fget).return_annotation)!r}"  # type: ignore[arg-type]


def _typed(of: type, name: str) -> str:
    for base in of.__mro__ if not is_typeddict(of) else (of,):
        if name in vars(base).get("__annotations__", {}):
            found = vars(base)["__annotations__"][name]
            text = repr(_Bare(getattr(found, "__forward_arg__", found)))
            return ast.unparse(_WithoutChecks().visit(ast.parse(text, mode="eval")))
    raise AssertionError(name)


class _WithoutChecks(ast.NodeTransformer):
    """`Annotated[T, check]` becomes `T`."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node


def table(of: type) -> list[str]:
    """The fields of a value."""
    found = [(name, kind.replace("|", "\\|")) for name, kind in rows(of)]
    return [*(["| field | type |", "|---|---|"] if found else []), *(f"| `{a}` | `{b}` |" for a, b in found), ""]


def producer(of: type, name: str, heading: str, *, full: bool) -> Iterator[str]:
    """The verbs of a producer or of one of its objects."""
    yield from (f"### {heading}", "")
    if full:
        yield from prose(of.__doc__)
    for verb, function in verbs(of):
        kind = "await " if inspect.iscoroutinefunction(function) else ""
        yield from ("```python", f"{kind}{name}.{verb}{signature(function)}", "```", "")
        if full:
            yield from prose(function.__doc__)


def reference() -> str:
    """The whole of it."""
    pot, exported = Stockpot(Settings()), {name: getattr(worker, name) for name in worker._HOMES}
    out = ["## Producers", ""]
    out += ["```python", f"Stockpot{signature(Stockpot.__init__)}", "```", ""]
    out += producer(Stockpot, "pot", "Stockpot", full=True)
    for name in OBJECTS:
        out += producer(type(getattr(pot, name)), f"pot.{name}", f"pot.{name}", full=True)
    pot.close()
    out += ["```python", f"AsyncStockpot{signature(AsyncStockpot.__init__)}", "```", ""]
    awaiting = AsyncStockpot(Settings())
    out += producer(AsyncStockpot, "pot", "AsyncStockpot", full=False)
    for name in OBJECTS:
        out += producer(type(getattr(awaiting, name)), f"pot.{name}", f"AsyncStockpot.{name}", full=False)
    errors = {
        name: value for name, value in exported.items() if inspect.isclass(value) and issubclass(value, Exception)
    }
    options = {name: value for name, value in exported.items() if is_typeddict(value)}
    rest = {
        name: value for name, value in exported.items() if name not in {*errors, *options, "Stockpot", "AsyncStockpot"}
    }
    out += ["## Options", ""]
    for name, value in options.items():
        out += [f"### {name}", "", *prose(value.__doc__), *table(value)]
    out += ["## Errors", "", "| error | is a | when |", "|---|---|---|"]
    for name, value in errors.items():
        kinds = ", ".join(base.__name__ for base in value.__bases__)
        out.append(f"| `{name}` | {kinds} | {(inspect.getdoc(value) or '').splitlines()[0]} |")
    out += ["", "## Values", ""]
    for name, value in rest.items():
        out += [f"### {name}", ""]
        if name == "Settings":
            out += [*prose(value.__doc__), "Each setting: [settings.md](settings.md).", ""]
        elif inspect.isclass(value) and get_origin(value) is None:
            out += [*prose(value.__doc__), *table(value)]
        elif get_origin(value) is Literal:
            out += [", ".join(f"`{one!r}`" for one in get_args(value)), "", *prose(module_docstring(name))]
        elif callable(value) and not get_origin(value):
            out += ["```python", f"{name}{signature(value)}", "```", "", *prose(value.__doc__)]
        else:
            out += prose(module_docstring(name))
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    head = PAGE.read_text().split(MARK)[0]
    PAGE.write_text(head + MARK + "\n" + reference())
