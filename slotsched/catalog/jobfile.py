"""One job file and its sidecar, as bytes, to a `Job` or to the list of what is wrong with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slotsched.catalog.arguments import check_arguments, variable_names
from slotsched.catalog.facts import NAMES, Problem, read_facts
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
    try:
        job = _Reader(candidate, problems).read()
    except OSError as error:  # the file went away between two reads
        gone = Broken(name=candidate.name, path=candidate.shown_path, line=None, message=f"cannot be read: {error}")
        return Reading(problems=(gone,))
    return Reading(problems=tuple(problems)) if problems else Reading(job=job)


class _Reader:
    """Collects the problems of one candidate while it puts the job together."""

    def __init__(self, candidate: Candidate, problems: list[Broken]) -> None:
        self._candidate = candidate
        self._problems = problems

    def read(self) -> Job | None:
        """The job; None where it is none or cannot be used, which the problems then say. Raises OSError."""
        candidate = self._candidate
        header, in_sidecar = self._header()
        where = (candidate.sidecar_path if in_sidecar else candidate.path) or candidate.shown_path
        source = self._source(has_header=header is not None)
        function = source is not None and source.parameters is not None
        if not function and (header is None or header.facts is None):
            return None
        self._check_name()
        facts = self._facts(header, where, in_sidecar=in_sidecar)
        self._check_file(facts, header, where)
        parameters = self._parameters(facts, header, source, where)
        self._check_key(facts, parameters, header, where)
        if self._problems:
            return None
        return Job(
            name=candidate.name,
            hash=self._hash(with_sidecar=in_sidecar),
            facts=self._completed(facts, source),
            path=candidate.root / candidate.path if candidate.path else None,
            function=function,
            parameters=parameters,
        )

    def _problem(self, path: str, line: int | None, message: str) -> None:
        self._problems.append(Broken(name=self._candidate.name, path=path, line=line, message=message))

    # --- header and source --------------------------------------------------------------------------

    def _header(self) -> tuple[Header | None, bool]:
        """The header with `[tool.slotsched]`, and whether it is the sidecar. A `main` needs none."""
        candidate = self._candidate
        block = self._read(candidate.content, candidate.path, read_block)
        sidecar = self._read(candidate.sidecar, candidate.sidecar_path, read_sidecar)
        if sidecar is None or sidecar.facts is None:
            return block, False
        if block is not None and block.facts is not None:
            line = sidecar.line("tool", "slotsched")
            self._problem(
                candidate.sidecar_path or "", line, f"facts here and in {candidate.path}; keep one of the two"
            )
        return sidecar, True

    def _read(
        self, content: Content | None, path: str | None, parse: Callable[[bytes], Header | None]
    ) -> Header | None:
        if content is None or content.data is None or path is None:
            return None
        try:
            return parse(content.data)
        except HeaderError as error:
            if error.ours or (content is self._candidate.content and self._has_main()):
                self._problem(path, error.line, str(error))
            return None

    def _has_main(self) -> bool:
        """Whether a file that cannot be parsed looks as if it had a `main`."""
        content = self._candidate.content
        return bool(self._candidate.is_python and content and content.data and _MAIN.search(content.data))

    def _source(self, *, has_header: bool) -> Source | None:
        content, path = self._candidate.content, self._candidate.path
        if content is None or path is None or not self._candidate.is_python:
            return None
        if content.data is None or content.complaint:
            if content.data is None or has_header or self._has_main():
                self._problem(path, None, content.complaint or "cannot be read")
            return None
        try:
            return read_source(content.data)
        except SignatureError as error:
            if has_header or self._has_main():
                self._problem(path, error.line, str(error))
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
        tool = header.table.get("tool")
        for key in tool if isinstance(tool, dict) else ():
            if key != "slotsched" and nearest(key, ["slotsched"]):
                message = f'unknown table "tool.{key}", did you mean "tool.slotsched"?'
                self._problem(where, header.line("tool", key), message)

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
        """Whether there is something to run, and a way to run it."""
        content = self._candidate.content
        if content is None:
            if facts.command is None and header is not None:
                self._problem(where, header.line("tool", "slotsched"), "no command, and no executable file beside it")
            return
        if facts.command is not None and header is not None:
            line = header.line("tool", "slotsched", "command")
            self._problem(where, line, "command is for a sidecar without a script; here the script is what runs")
        if not self._candidate.is_python:
            self._check_executable(content)
            if facts.python is not None and header is not None:
                self._problem(where, header.line("tool", "slotsched", "python"), "python is for .py files")

    def _check_executable(self, content: Content) -> None:
        path, data = self._candidate.shown_path, content.data or b""
        if content.complaint:
            self._problem(path, None, content.complaint)
        elif not content.executable:
            self._problem(path, None, f"not executable; chmod +x {path}")
        elif not data.startswith(b"#!") and b"\0" not in data:
            self._problem(path, 1, 'no "#!" line that says what runs it, such as #!/bin/sh')

    def _completed(self, facts: Facts, source: Source | None) -> Facts:
        """With the docstring as description, and a command relative to its sidecar made absolute."""
        if source is not None and not facts.description:
            facts = replace(facts, description=source.docstring)
        command = facts.command
        if command is None or "/" not in command[0] or command[0].startswith("/"):
            return facts
        folder = (self._candidate.root / self._candidate.shown_path).parent
        return replace(facts, command=(str(folder / command[0]), *command[1:]))

    # --- parameters ---------------------------------------------------------------------------------

    def _parameters(
        self, facts: Facts, header: Header | None, source: Source | None, where: str
    ) -> tuple[Parameter, ...] | None:
        signature = source.parameters if source else None
        table = header.facts if header is not None and isinstance(header.facts, dict) else {}
        if header is None or "args" not in table:
            return signature
        if signature is not None:
            line = header.line("tool", "slotsched", "args")
            self._problem(where, line, "args: the signature of main says what the arguments are")
            return signature
        declared, problems = read_declared(table["args"])
        for path, message in (*problems, *_declared_problems(declared, facts)):
            self._problem(where, header.line("tool", "slotsched", "args", *path), message)
        return declared

    def _check_key(
        self, facts: Facts, parameters: Sequence[Parameter] | None, header: Header | None, where: str
    ) -> None:
        key, names = facts.concurrency_key, [parameter.name for parameter in parameters or ()]
        if header is None or key is None or parameters is None or key in names:
            return
        line = header.line("tool", "slotsched", "concurrency_key")
        self._problem(where, line, f'concurrency_key: there is no argument "{key}"{suggestion(key, names)}')

    def _hash(self, *, with_sidecar: bool) -> str:
        """SHA-256 of the script's bytes, followed by the sidecar's."""
        digest = hashlib.sha256()
        for content in (self._candidate.content, self._candidate.sidecar if with_sidecar else None):
            if content is not None:
                content.feed(digest)
        return digest.hexdigest()


def _declared_problems(declared: Sequence[Parameter], facts: Facts) -> Iterator[Problem]:
    """Defaults that do not fit, and variables that two things would set."""
    for parameter in declared:
        if parameter.default is not None:
            try:
                check_arguments("", [parameter], {parameter.name: parameter.default})
            except InvalidArguments as error:
                yield (parameter.name,), f"args.{parameter.name}: the default {str(error).partition(': ')[2]}"
    try:
        variables = variable_names(parameter.name for parameter in declared)
    except InvalidArguments as error:
        yield (), f"args: {error}"
        return
    for name, variable in variables.items():
        if variable in facts.env:
            yield (name,), f"args.{name}: env sets its variable {variable} too"
