"""`completion SHELL`: the script a shell reads, and the answers it asks for.

Own scripts rather than typer's: an argument of ours is `key=value`, which bash cuts at the `=`, and typer's answers
load rich, which alone takes longer than a completion may.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from slotsched.cli.render import put, put_lines

if TYPE_CHECKING:
    from typer.core import TyperGroup

REQUEST = "_SLOTSCHED_COMPLETE"


class Shell(StrEnum):
    """The shells that can be completed in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_BASH = """\
_slotsched_complete() {
    local current="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n' word
    local -a words
    IFS=$' \\t\\n' read -ra words <<< "$current"
    [[ "$current" == *[[:space:]] ]] && words+=("")
    word="${words[-1]}"
    COMPREPLY=($(_SLOTSCHED_COMPLETE=values "${COMP_WORDS[0]}" "${words[@]:1}" 2>/dev/null))
    [[ "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _slotsched_complete slotsched
"""
_ZSH = """\
#compdef slotsched
_slotsched() {
    local -a answers
    local line
    for line in "${(@f)$(_SLOTSCHED_COMPLETE=described "${words[1]}" "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n "$line" ]] && answers+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( ${#answers} )); then _describe -V slotsched answers; else _files; fi
}
compdef _slotsched slotsched
"""
_FISH = """\
function __slotsched_complete
    set -l words (commandline -opc) (commandline -ct)
    _SLOTSCHED_COMPLETE=described $words[1] $words[2..-1] 2>/dev/null
end
complete -c slotsched -a '(__slotsched_complete)'
"""
SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell.

    For bash: source <(slotsched completion bash). Commands, options, jobs, and the arguments of a job are completed.
    """
    put(SCRIPTS[shell].rstrip())


def answer(root: TyperGroup, words: Sequence[str]) -> int:
    """Print what could stand in place of the last word; one a line, with its help after a tab if asked."""
    described = os.environ[REQUEST] == "described"
    put_lines(f"{value}\t{text}" if described else value for value, text in candidates(root, words))
    return 0


def candidates(root: TyperGroup, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(value, help) of everything the last word could become."""
    from typer._click.shell_completion import _resolve_context, _resolve_incomplete  # vendored: no public name

    *before, incomplete = words or [""]
    context = _resolve_context(root, {}, "slotsched", before)
    wanted, incomplete = _resolve_incomplete(context, before, incomplete)
    for item in wanted.shell_complete(context, incomplete):
        yield str(item.value), (item.help or "").partition("\n")[0]
