"""The front door, by invoke: the list of tasks, their help, and what is said of words that are no
task and no option, in the voice of the tasks themselves."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap

from invoke.exceptions import Exit, ParseError
from invoke.parser.context import ParserContext, to_flag
from invoke.program import Program
from invoke.terminals import pty_size

from builders.errors import UsageError


class Front(Program):
    """invoke's own program, but for what a person reads. Options stand in --help in the order of
    the task's signature."""

    def print_help(self) -> None:
        print(f"Usage: {self.binary} TASK [--options]\n")
        self.list_tasks()
        print(f"{self.binary} --help TASK says more, and what its options are.")

    def task_list_opener(self, extra: str = "") -> str:  # noqa: ARG002 -- as invoke has it
        return "Tasks"

    def print_task_help(self, name: str) -> None:
        context = self.parser.contexts[name]
        options = [context.help_for(to_flag(one)) for one in context.args]
        print(f"Usage: {self.binary} {name}{' [--options]' if options else ''}\n")
        for paragraph in (inspect.getdoc(self.collection[name]) or "").split("\n\n"):
            print(textwrap.fill(paragraph, pty_size()[0] - 1, break_on_hyphens=False) + "\n")
        if options:
            self.print_columns(options)

    def parse_core(self, argv: list[str] | None) -> None:
        try:
            super().parse_core(argv)
        except ParseError as error:
            self._refuse(error)

    def parse_tasks(self) -> None:
        try:
            super().parse_tasks()
        except ParseError as error:
            self._refuse(error)

    def parse_cleanup(self) -> None:
        try:
            super().parse_cleanup()
        except ParseError as error:
            self._refuse(error)

    def _refuse(self, error: ParseError) -> None:
        """Say it as any other failure is said."""
        from builders.tools.terminal import Terminal

        context: ParserContext | None = error.context
        here = f"{self.binary} {context.name}" if context and context.name else self.binary
        fact, near = str(error).rstrip("!"), ""
        if unknown := re.fullmatch(r"No idea what ['\"](.*)['\"] is", fact):
            option = unknown[1].startswith("-")
            known = context.flags if option and context else self.parser.contexts
            near = ", ".join(difflib.get_close_matches(unknown[1], known, n=3))
            fact = f"{unknown[1]!r} is no {'option' if option else 'task'}"
            if context and context.name:
                fact += f" of {context.name}" if option else f" and no option of {context.name}"
        elif lacking := re.match(r"Flag <Argument: ([\w-]+)", fact):
            fact = f"{to_flag(lacking[1])} needs a value"
        Terminal(ci=False).error(
            UsageError.kind,
            fact,
            here,
            (f"nearest: {near}; " if near else "") + f"{here} --help names them all",
            (),
        )
        raise Exit(code=UsageError.exit_code) from error
