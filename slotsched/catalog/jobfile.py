"""One job file and its sidecar, as bytes, to a `Job` or to the list of what is wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slotsched.catalog.arguments import check_arguments, variable_names
from slotsched.catalog.facts import NAMES, read_facts
from slotsched.catalog.header import Header, HeaderError, read_block, read_sidecar
from slotsched.catalog.reading import Content
from slotsched.catalog.signature import SignatureError, Source, read_declared, read_source
from slotsched.catalog.values import nearest, shown, suggestion
from slotsched.errors import InvalidArguments
from slotsched.model import Broken, Facts, Job, Parameter

NAME = re.compile(r"[a-z0-9_-]+(?:/[a-z0-9_-]+)*")
_BLOCK_KEYS = ("dependencies", "requires-python", "tool")
_MAIN = re.compile(rb"^(?:async[ \t]+)?def[ \t]+main\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file that may be a job. path: relative to the jobs folder. Either content may be missing, not both."""

    name: str
    root: Path
    path: str | None = None
    content: Content | None = None
    sidecar_path: str | None = None
    sidecar: Content | None = None

    @property
    def shown_path(self) -> str:
        return self.path or self.sidecar_path or self.name

    @property
    def is_python(self) -> bool:
        return self.path is not None and self.path.endswith(".py")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a candidate turned out to be: neither job nor problems where it is just some file."""

    job: Job | None = None
    problems: tuple[Broken, ...] = ()


def read_candidate(candidate: Candidate) -> Reading:
    """The job a file holds, or its problems, or neither where it is no job at all."""
    problems: list[Broken] = []
    reader = _Reader(candidate, problems)
    try:
        job = reader.read()
    except OSError as error:  # the file went away between two reads
        return Reading(problems=(Broken(name=candidate.name, path=candidate.shown_path, line=None, message=str(error)),))
    return Reading(problems=tuple(problems)) if problems else Reading(job=job)


class _Reader:
    """Collects the problems of one candidate while it puts the job together."""

    def __init__(self, candidate: Candidate, problems: list[Broken]) -> None:
        self._candidate = candidate
        self._problems = problems

    def read(self) -> Job | None:
        candidate = self._candidate
        header, in_sidecar = self._header()
        source = self._source(has_header=header is not None)
        if header is None and (source is None or source.parameters is None) and not self._problems:
            return None
        self._check_name()
        where = candidate.sidecar_path if in_sidecar else candidate.path
        where = where or candidate.shown_path
        facts = self._facts(header, where, in_sidecar=in_sidecar)
        self._check_file(facts, header, where)
        parameters = self._parameters(header, source, where)
        function = source is not None and source.parameters is not None
        if header is not None and not function and not self._problems:
            self._check_environment(facts, parameters, header, where)
        if self._problems:
            return None
        if source and source.docstring and not facts.description:
            facts = replace(facts, description=source.docstring)
        return Job(
            name=candidate.name,
            hash=self._hash(with_sidecar=in_sidecar),
            facts=self._placed(facts),
            path=candidate.root / candidate.path if candidate.path else None,
            function=function,
            parameters=parameters,
        )

    def _problem(self, path: str, line: int | None, message: str) -> None:
        self._problems.append(Broken(name=self._candidate.name, path=path, line=line, message=message))

    # --- header and source --------------------------------------------------------------------------

    def _header(self) -> tuple[Header | None, bool]:
        """The header with `[tool.slotsched]` and whether it is the sidecar. A `main` needs none."""
        block, sidecar = self._read_header(own=False), self._read_header(own=True)
        if block and block.facts is not None and sidecar and sidecar.facts is not None:
            line = sidecar.line("tool", "slotsched")
            self._problem(self._candidate.sidecar_path or "", line, "facts here and in the script; keep one of the two")
        if sidecar is not None and sidecar.facts is not None:
            return sidecar, True
        if block is not None and (block.facts is not None or self._has_main()):
            return block, False
        return None, False

    def _read_header(self, *, own: bool) -> Header | None:
        candidate = self._candidate
        content, path = (
            (candidate.sidecar, candidate.sidecar_path) if own else (candidate.content, candidate.path)
        )
        if content is None or content.data is None or path is None:
            return None
        try:
            return read_sidecar(content.data) if own else read_block(content.data)
        except HeaderError as error:
            if error.ours or (not own and self._has_main()):
                self._problem(path, error.line, str(error))
            return None

    def _has_main(self) -> bool:
        candidate = self._candidate
        return bool(candidate.is_python and candidate.content and _MAIN.search(candidate.content.data or b""))

    def _source(self, *, has_header: bool) -> Source | None:
        candidate = self._candidate
        if not candidate.is_python or candidate.content is None or candidate.path is None:
            return None
        content = candidate.content
        if content.data is None or content.complaint:
            if content.data is None or has_header or self._has_main():
                self._problem(candidate.path, None, content.complaint or "cannot be read")
            return None
        try:
            return read_source(candidate.content.data)
        except SignatureError as error:
            if has_header or self._has_main():
                self._problem(candidate.path, error.line, str(error))
            return None

    # --- facts --------------------------------------------------------------------------------------

    def _facts(self, header: Header | None, where: str, *, in_sidecar: bool) -> Facts:
        if header is None:
            return Facts()
        self._check_around(header, where, in_sidecar=in_sidecar)
        if header.facts is None:
            return Facts(dependencies=self._dependencies(header, where))
        if not isinstance(header.facts, dict):
            self._problem(where, header.line("tool", "slotsched"), "tool.slotsched is not a table")
            return Facts()
        facts, problems = read_facts(header.facts)
        for path, message in problems:
            self._problem(where, header.line("tool", "slotsched", *path), message)
        return replace(facts, dependencies=self._dependencies(header, where))

    def _check_around(self, header: Header, where: str, *, in_sidecar: bool) -> None:
        """What stands outside `[tool.slotsched]`: facts put there by mistake do nothing, so they are errors."""
        allowed = ("tool",) if in_sidecar else _BLOCK_KEYS
        for key in header.table:
            if key in NAMES:
                self._problem(where, header.line(key), f'"{key}" belongs under [tool.slotsched]')
            elif key not in allowed:
                self._problem(where, header.line(key), f'unknown key "{key}"{suggestion(key, allowed)}')
        for key in header.table.get("tool", {}) if isinstance(header.table.get("tool"), dict) else ():
            if key != "slotsched" and nearest(key, ["slotsched"]):
                self._problem(where, header.line("tool", key), f'unknown table "tool.{key}", did you mean "tool.slotsched"?')

    def _dependencies(self, header: Header, where: str) -> tuple[str, ...]:
        value = header.table.get("dependencies", [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self._problem(where, header.line("dependencies"), f"dependencies: {shown(value)} is not a list of texts")
            return ()
        return tuple(value)

    def _check_name(self) -> None:
        if not NAME.fullmatch(self._candidate.name):
            path = self._candidate.shown_path
            self._problem(path, None, f"the name {shown(self._candidate.name)} may only have a-z 0-9 _ - in it")

    def _check_file(self, facts: Facts, header: Header | None, where: str) -> None:
        """Whether there is something to run."""
        candidate, content = self._candidate, self._candidate.content
        if content is None:
            if facts.command is None and header is not None:
                self._problem(where, header.line("tool", "slotsched"), "no command, and no executable file beside it")
            return
        if facts.command is not None and header is not None:
            line = header.line("tool", "slotsched", "command")
            self._problem(where, line, "command is for a sidecar without a script; the script itself is what runs")
        if content.complaint and not candidate.is_python:
            self._problem(candidate.shown_path, None, content.complaint)
        elif not candidate.is_python and not content.executable:
            self._problem(candidate.shown_path, None, f"not executable; chmod +x {candidate.path}")
        elif facts.python is not None and not candidate.is_python and header is not None:
            self._problem(where, header.line("tool", "slotsched", "python"), "python is for .py files")

    def _placed(self, facts: Facts) -> Facts:
        """A command given relative to its sidecar, made absolute: tasks start in a folder of their own."""
        command = facts.command
        if command is None or "/" not in command[0] or command[0].startswith("/"):
            return facts
        folder = (self._candidate.root / self._candidate.shown_path).parent
        return replace(facts, command=(str(folder / command[0]), *command[1:]))

    # --- parameters ---------------------------------------------------------------------------------

    def _parameters(self, header: Header | None, source: Source | None, where: str) -> tuple[Parameter, ...] | None:
        table = header.facts if header is not None and isinstance(header.facts, dict) else {}
        signature = source.parameters if source else None
        if "args" not in table or header is None:
            return signature
        if signature is not None:
            line = header.line("tool", "slotsched", "args")
            self._problem(where, line, "args: the signature of main says what the arguments are")
            return signature
        declared, problems = read_declared(table["args"])
        problems += _declared_problems(declared)
        for path, message in problems:
            self._problem(where, header.line("tool", "slotsched", "args", *path), message)
        return declared

    def _check_environment(self, facts: Facts, parameters: tuple[Parameter, ...] | None, header: Header, where: str) -> None:
        """An argument's variable that `env` sets too would be lost."""
        for name, variable in variable_names([parameter.name for parameter in parameters or ()]).items():
            if variable in facts.env:
                line = header.line("tool", "slotsched", "env", variable)
                self._problem(where, line, f'env: {variable} is the variable of the argument "{name}"')

    def _hash(self, *, with_sidecar: bool) -> str:
        """SHA-256 of the script's bytes, followed by the sidecar's."""
        digest = hashlib.sha256()
        for content in (self._candidate.content, self._candidate.sidecar if with_sidecar else None):
            if content is not None:
                content.feed(digest)
        return digest.hexdigest()


def _declared_problems(declared: tuple[Parameter, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Defaults that do not fit, and names that meet in one variable."""
    for parameter in declared:
        if parameter.default is not None:
            try:
                check_arguments("", [parameter], {parameter.name: parameter.default})
            except InvalidArguments as error:
                yield (parameter.name,), f"args.{parameter.name}: the default does not fit: {error}"
    try:
        variable_names(parameter.name for parameter in declared)
    except InvalidArguments as error:
        yield (), f"args: {error}"
