"""What commands and groups of them are made of: settings as flags, help in sections, errors as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup

from slotsched import contract
from slotsched.cli.coercion import coerced_plainly
from slotsched.cli.render import say
from slotsched.cli.session import PLACE_FLAGS, SCHEDULER_FLAGS, WEB_FLAGS, Session
from slotsched.errors import UsageError

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter  # vendored: what the methods overridden here take
    from typer._click.formatting import HelpFormatter

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Command(TyperCommand):
    """A command that takes the settings of `settings_flags` as flags beside its own options."""

    settings_flags: tuple[str, ...] = PLACE_FLAGS

    def get_params(self, ctx: Context) -> list[Parameter]:
        return coerced_plainly(super().get_params(ctx))

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _without_settings(ctx, args, self.params, self.settings_flags))

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Arguments, then options; without the types that typer puts behind an argument's name."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "argument":
                sections["Arguments"].append((record[0].partition(" <")[0], record[1]))
            elif record is not None:
                sections["Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class SchedulerCommand(Command):
    """A command that runs a scheduler, or looks at the settings of one."""

    settings_flags = tuple(dict.fromkeys(PLACE_FLAGS + SCHEDULER_FLAGS + WEB_FLAGS))


class WebCommand(Command):
    """The command that serves the web face."""

    settings_flags = PLACE_FLAGS + WEB_FLAGS


class Group(TyperGroup):
    """A group whose help lists its commands in sections, and whose errors are sentences."""

    sections: Mapping[str, Sequence[str]] = {}
    settings_flags: tuple[str, ...] = ()

    def get_params(self, ctx: Context) -> list[Parameter]:
        return coerced_plainly(super().get_params(ctx))

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            say(ctx.get_help())
            raise typer.Exit(contract.EXIT_USAGE)
        return super().parse_args(ctx, _without_settings(ctx, args, self.params, self.settings_flags))

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        widest = max(len(name) for name in self.commands)
        for title, names in self.sections.items():
            commands = [(name, self.commands[name]) for name in names]
            rows = [(f"{name:<{widest}}", command.get_short_help_str(limit=90)) for name, command in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


def _without_settings(ctx: Context, args: list[str], own: Sequence[Parameter], names: Sequence[str]) -> list[str]:
    """The words without those flags of settings that are no options of the command's own; they go to the session."""
    options = {option for parameter in own for option in parameter.opts}
    flags = {f"--{name.replace('_', '-')}": name for name in names}
    rest, found = take_flags(args, {flag: name for flag, name in flags.items() if flag not in options})
    if not ctx.resilient_parsing:
        Session.of(ctx).flags.update(found)
    return rest


def take_flags(args: Sequence[str], flags: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Split `--flag VALUE` and `--flag=VALUE` off the words of a command line, up to a `--`.

    flags: name of the setting by flag. Returns the other words and the values by name. Raises UsageError.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif flag not in flags:
            rest.append(word)
        elif equals:
            found[flags[flag]] = value
        else:
            following = next(words, None)
            if following is None:
                raise UsageError(f"Option {flag} requires a value.")
            found[flags[flag]] = following
    return rest, found
