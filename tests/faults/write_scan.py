"""Which public methods of the store's parts send a write, read off the source: the table of writes has to have all.

A method writes if it calls one of the driver's methods that do, or one of the store's own functions that does. Whose
method is meant is told by what `__init__` puts into the attribute, so nothing here is guessed from a name alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import slotsched.store

DRIVER_WRITES = frozenset(
    {
        *("insert_one", "insert_many", "update_one", "update_many", "replace_one", "delete_one", "delete_many"),
        *("bulk_write", "find_one_and_update", "find_one_and_replace", "find_one_and_delete"),
        *("create_index", "create_indexes", "drop_index", "drop_indexes", "drop", "rename"),
    }
)
Trees = Mapping[str, ast.Module]  # by module name
_Key = tuple[str, str]  # (class or module, function)


def store_trees() -> dict[str, ast.Module]:
    """The store as it is."""
    folder = Path(slotsched.store.__file__).parent
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}


def writing_methods(trees: Trees) -> set[str]:
    """`tasks.enqueue` for every public method of a part of `Store` that writes; its own by their name alone."""
    package = _Package(trees)
    writers = package.writers()
    parts = {"": "Store", **{name: kind for name, kind in package.types["Store"].items() if not name.startswith("_")}}
    return {
        f"{part}.{method}".lstrip(".")
        for part, kind in parts.items()
        for method in package.methods[kind]
        if not method.startswith("_") and (kind, method) in writers
    }


@dataclass
class _Package:
    trees: Trees
    methods: dict[str, dict[str, ast.FunctionDef]] = field(default_factory=dict)  # by class
    types: dict[str, dict[str, str]] = field(default_factory=dict)  # by class: the classes of attributes
    functions: dict[_Key, ast.FunctionDef] = field(default_factory=dict)
    imports: dict[str, dict[str, str]] = field(default_factory=dict)  # by module: from which module a name is

    def __post_init__(self) -> None:
        for module, tree in self.trees.items():
            self.imports[module] = dict(_imports(tree))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    self.functions[module, node.name] = node
                if isinstance(node, ast.ClassDef):
                    self.methods[node.name] = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
                    self.functions |= {(node.name, name): one for name, one in self.methods[node.name].items()}
        for name, methods in self.methods.items():
            self.types[name] = dict(self._attributes(methods["__init__"])) if "__init__" in methods else {}

    def _attributes(self, init: ast.FunctionDef) -> Iterator[tuple[str, str]]:
        given = {one.arg: one.annotation.id for one in init.args.args if isinstance(one.annotation, ast.Name)}
        for node in ast.walk(init):
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
                continue
            made = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(made, ast.Name) and (kind := given.get(made.id, made.id)) in self.methods:
                yield node.targets[0].attr, kind

    def writers(self) -> set[_Key]:
        module_of = {name: module for module, tree in self.trees.items() for name in _classes(tree)}
        calls = {
            key: set(self._calls(key[0], module_of.get(key[0], key[0]), node)) for key, node in self.functions.items()
        }
        found = {key for key, called in calls.items() if ("driver", "write") in called}
        while more := {key for key, called in calls.items() if key not in found and called & found}:
            found |= more
        return found

    def _calls(self, owner: str, module: str, function: ast.FunctionDef) -> Iterator[_Key]:
        for node in ast.walk(function):
            match node:
                case ast.Call(func=ast.Attribute(attr=name)) if name in DRIVER_WRITES:
                    yield "driver", "write"
                case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                    yield owner, name
                case ast.Call(func=ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=part), attr=name)):
                    yield self.types.get(owner, {}).get(part, ""), name
                case ast.Call(func=ast.Attribute(value=ast.Name(id=other), attr=name)) if other in self.trees:
                    yield other, name
                case ast.Call(func=ast.Name(id=name)):
                    yield self.imports[module].get(name, module), name


def _classes(tree: ast.Module) -> list[str]:
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slotsched.store."):
            module = str(node.module).removeprefix("slotsched.store.")
            yield from ((alias.asname or alias.name, module) for alias in node.names)
