"""The manual pages, from what `--help` says: `man.py DIRECTORY` writes meshd.1, one for each verb (meshd-ca-init.1),
and meshd-proxy.1. What is in them is what the programs know of themselves, so it cannot be another."""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from meshd import __version__
from meshd.cli import cli
from proxy.main import parser as proxy_parser

ABOUT = "meshd manual"


def escaped(text: str) -> str:
    """As roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"(?m)^\.", r"\\&.", text)


class Page:
    """One page, as it grows."""

    def __init__(self, name: str, about: str) -> None:
        date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "0"))))
        self.name = name
        self._lines = [f'.TH {name.upper()} 1 {date} "meshd {__version__}" "{ABOUT}"']
        self.section("NAME")
        self.text(f"{name} - {about}")

    def section(self, title: str) -> None:
        self._lines.append(f".SH {title}")

    def text(self, text: str) -> None:
        """Paragraphs; one that begins with \\b is kept as it is laid out."""
        for paragraph in text.strip().split("\n\n"):
            if paragraph.startswith("\b"):
                self._lines += [".PP", ".nf", escaped(paragraph[1:].strip("\n")), ".fi"]
            else:
                self._lines += [".PP", escaped(" ".join(paragraph.split()))]

    def item(self, term: str, text: str) -> None:
        self._lines += [".TP", rf"\fB{escaped(term)}\fR", escaped(" ".join(text.split()))]

    def write(self, directory: Path) -> None:
        text = re.sub(r"(?m)^(\.SH .*)\n\.PP$", r"\1", "\n".join(self._lines))  # a section begins a paragraph
        (directory / f"{self.name}.1").write_text(f"{text}\n", encoding="utf-8")


def commands(command: click.Command, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, with the words that one types."""
    yield tuple(names), command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=names[-1])
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*names, name))


def page(names: Sequence[str], command: click.Command) -> Page:
    """The page of one command."""
    context = click.Context(command, info_name=" ".join(names))
    first, _, rest = (command.help or "").partition("\n\n")
    made = Page("-".join(names), " ".join(first.split()).rstrip("."))
    made.section("SYNOPSIS")
    made.text(" ".join([*names, *command.collect_usage_pieces(context)]))
    if rest:
        made.section("DESCRIPTION")
        made.text(rest)
    made.section("OPTIONS")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            made.item(*record)
    if isinstance(command, click.Group):
        made.section("COMMANDS")
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            made.item("-".join([*names, name]) + "(1)", below.get_short_help_str(200))
    return made


def page_of_parser(parser: argparse.ArgumentParser) -> Page:
    """The page of a program that reads its command line with argparse."""
    made = Page(parser.prog, (parser.description or "").rstrip("."))
    made.section("SYNOPSIS")
    made.text(parser.format_usage().removeprefix("usage: "))
    made.section("OPTIONS")
    for action in parser._actions:
        value = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
        if action.choices is not None:
            value = " {" + ",".join(map(str, action.choices)) + "}"
        made.item(", ".join(action.option_strings) + value, action.help or "")
    if parser.epilog:
        made.section("NOTES")
        made.text(parser.epilog)
    return made


def main() -> None:
    """The program."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for names, command in commands(cli, ("meshd",)):
        page(names, command).write(directory)
    page_of_parser(proxy_parser()).write(directory)


main()
