"""What a person sees, by rich: live phases on a terminal, time-stamped lines elsewhere."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.text import Text

HEARTBEAT = 15.0
#: Columns that the last cell of a row must have; with less it stands below the row.
ROOM = 30
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
VERDICTS = {"ok": "green", "no": "bold red", "-": "yellow", "pass": "green", "FAIL": "bold red"}


class Phase:
    """One phase under way: a count of things and the last of them."""

    def __init__(self, title: str, unit: str, terminal: Terminal) -> None:
        self.title = title
        self.unit = unit
        self.count = 0
        self.last = ""
        self.note = ""
        self.started = time.monotonic()
        self._terminal = terminal
        self._beat = self.started

    def step(self, last: str = "", amount: int = 1) -> None:
        """Count `amount` more; `last` names the newest."""
        self.count += amount
        self.last = last
        self._pulse()

    def line(self, text: str) -> None:
        """A line of output; it shows that work goes on where nothing is counted yet."""
        if not self.count or self.unit == "bytes":
            self.last = text.strip()
        self._pulse()

    def _pulse(self) -> None:
        now = time.monotonic()
        if not self._terminal.live and now - self._beat >= HEARTBEAT:
            self._beat = now
            self._terminal.plain(f"{self.title}: {self.summary()}")

    def summary(self) -> str:
        """Elapsed time and, where things are counted, how many."""
        words = [elapsed(time.monotonic() - self.started)]
        if self.count and self.unit == "bytes":
            words.append(size(self.count))
        elif self.count:
            words.append(f"{self.count} {self.unit if self.count > 1 else self.unit[:-1]}")
        if self.note:
            words.append(self.note)
        return ", ".join(words)

    def row(self) -> Text:
        """What is seen of it while it lasts."""
        row = Text.assemble((f"{self.title}  ", "bold"), (self.summary(), "cyan"))
        return row.append(f"  {self.last}" if self.last else "", "dim")


class _Frame:
    """The live lines: redrawn several times a second, so that time is seen to pass."""

    def __init__(self, phases: list[Phase]) -> None:
        self._phases = phases

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame = FRAMES[int(time.monotonic() * 10) % len(FRAMES)]
        for phase in tuple(self._phases):
            row = Text.assemble((f"{frame} ", "cyan"), phase.row())
            # Room for the ^C that a terminal echoes; one line more would not be wiped.
            row.truncate(options.max_width - 3, overflow="ellipsis")
            yield row


class Terminal:
    """Stdout for results, stderr for what happens on the way."""

    def __init__(self, *, ci: bool) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False)
        self.live = self.err.file.isatty() and not self.err.is_dumb_terminal and not ci
        #: What each phase that is over took, in seconds, in the order in which they ended.
        self.times: list[tuple[str, float]] = []
        self._phases: list[Phase] = []
        self._display: Live | None = None
        self._lock = threading.Lock()

    def plain(self, text: str) -> None:
        """A line with the time of day."""
        self.err.print(f"{time.strftime('%H:%M:%S')} {escape(text)}", soft_wrap=True)

    def say(self, text: str) -> None:
        """A remark on the way."""
        if self.live:
            self._note(Text("  "), text, "dim")
        else:
            self.plain(text)

    @contextmanager
    def phase(self, title: str, unit: str = "") -> Iterator[Phase]:
        """Show a phase while it lasts and one line when it is over; several may go on at once."""
        phase = Phase(title, unit, self)
        if not self.live:
            self.plain(f"{title}: begins")
        self._begin(phase)
        try:
            yield phase
        except BaseException:
            self._end("✗", "red", phase)
            raise
        self._end("✓", "green", phase)

    def _begin(self, phase: Phase) -> None:
        with self._lock:
            self._phases.append(phase)
            if self.live and self._display is None:
                self._display = Live(
                    _Frame(self._phases), console=self.err, refresh_per_second=8, transient=True
                )
                self._display.start()

    def _end(self, mark: str, style: str, phase: Phase) -> None:
        with self._lock:
            self._phases.remove(phase)
            self.times.append((phase.title, time.monotonic() - phase.started))
            if self._display is not None and not self._phases:
                self._display.stop()
                self._display = None
        if self.live:
            self._note(Text.assemble((mark, style), f" {phase.title}  "), phase.summary(), "dim")
        else:
            word = "done" if mark == "✓" else "failed"
            self.plain(f"{phase.title}: {word}, {phase.summary()}")

    def error(
        self, kind: str, fact: str, place: str, next_step: str, detail: Sequence[str]
    ) -> None:
        """One failure: the lines that led to it, the fact, the place, the next step. The place, a
        path or a command, is not broken: whoever copies it gets it whole."""
        for line in detail:
            self._note(Text("  │ ", "dim"), line, "dim", "  │ ")
        self._note(Text(f"{kind}: ", "bold red"), fact, "bold")
        if place:
            self.err.print(Text.assemble(("  where ", "cyan"), place), soft_wrap=True)
        if next_step:
            self._note(Text("  next  ", "cyan"), next_step, "", " " * 8)

    def _note(self, head: Text, text: str, style: str, indent: str = "  ") -> None:
        """Words for stderr after a head, whole in a pipe, broken between words in a window."""
        if self.err.file.isatty():
            first = " " * head.cell_len
            lines = textwrap.wrap(
                text,
                max(self.err.width, ROOM),
                initial_indent=first,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            text = "\n".join(lines).removeprefix(first)
        self.err.print(Text.assemble(head, (text, style)), soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str] = ()
    ) -> None:
        """Aligned columns. In a window too narrow for them the `spare` ones go, in that order, and
        then a last cell that is too long stands below its row. A column without a name holds
        verdicts."""
        found = [dict(zip(columns, row, strict=True)) for row in (columns, *rows)]
        widths = {name: max(len(row[name]) for row in found) for name in columns}
        kept, gone = list(columns), []
        for name in spare:
            if self._room(kept, widths) < 0:
                kept.remove(name)
                gone.append(name)
        tight = self._room(kept, widths) < 0
        for number, row in enumerate(found):
            line = Text("", "bold" if number == 0 else "")
            for name in kept[:-1]:
                style = "" if name else VERDICTS.get(row[name], "")
                line.append(f"{row[name]:<{widths[name]}}  ", style)
            indent, last = line.cell_len, row[kept[-1]]
            if tight and indent + len(last) > self.out.width:
                indent = 4
                line.rstrip()
                line.append("\n" + " " * indent)
            self._fold(line, last, indent, indent)
        if gone:
            self.say(f"without {', '.join(gone)}: a wider window shows that too")

    def _room(self, names: Sequence[str], widths: Mapping[str, int]) -> int:
        """Columns that a window has beyond what a table needs at least."""
        *first, last = names
        needs = sum(widths[name] + 2 for name in first) + min(widths[last], ROOM)
        return self.out.width - needs if self.out.file.isatty() else 0

    def _fold(self, line: Text, text: str, begins: int, goes_on: int) -> None:
        """A line for stdout that ends with a text, which begins at one column and goes on, in lines
        below, at another."""
        if self.out.file.isatty():
            width = max(self.out.width, goes_on + 1)
            first, rest = " " * begins, " " * goes_on
            lines = textwrap.wrap(
                text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
            )
            text = "\n".join(lines).removeprefix(first)
        line.append(text)
        line.rstrip()
        self.out.print(line)

    def facts(self, *groups: Mapping[str, Sequence[str]]) -> None:
        """Names and their values, group by group. A pipe has the name on each line."""
        width = max(len(name) for group in groups for name in group) + 2
        for group in groups:
            if group and group is not groups[0]:
                self.text("")
            for name, values in group.items():
                for number, value in enumerate(values):
                    shown = name if number == 0 or not self.out.file.isatty() else ""
                    head = Text("").append(f"{shown:<{width}}", "cyan")
                    self._fold(head, value, width, width + 2)

    def text(self, text: str) -> None:
        """A result as it is, without markup or wrapping."""
        self.out.out(text, highlight=False)


def elapsed(seconds: float) -> str:
    """4.2s, 1m 05s, 2h 03m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return (
            f"{int(seconds) // 60}m {int(seconds) % 60:02d}s"
            if seconds >= 60
            else f"{int(seconds)}s"
        )
    return f"{int(seconds) // 3600}h {int(seconds) % 3600 // 60:02d}m"


def size(count: int) -> str:
    """Bytes for people: 1.2 GB, 345 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"
