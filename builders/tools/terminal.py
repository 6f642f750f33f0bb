"""What a person sees, by rich: live phases on a terminal, time-stamped lines elsewhere."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.text import Text

HEARTBEAT = 15.0
#: Columns that the last cell of a row must have; with less it stands below the row.
ROOM = 30
#: Columns of the longest usual title of a phase, so that their times stand below each other.
TITLE = 25
#: Columns below which nothing is spent on that.
NARROW = 60
VERDICTS = {"ok": "green", "no": "bold red", "-": "yellow", "pass": "green", "FAIL": "bold red"}


class Signs(NamedTuple):
    """What stands for a phase that is done, failed or under way, and before a line of detail."""

    done: str
    failed: str
    turning: str
    bar: str
    cut: Literal["ellipsis", "crop"]


SIGNS = Signs("✓", "✗", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "│", "ellipsis")
ASCII = Signs("+", "x", "|/-\\", "|", "crop")


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
        """Elapsed time and the rest."""
        return ", ".join(word for word in (self.took(), self.rest()) if word)

    def took(self) -> str:
        """Elapsed time."""
        return elapsed(time.monotonic() - self.started)

    def rest(self) -> str:
        """How many, where things are counted, and a note."""
        words = []
        if self.count and self.unit == "bytes":
            words.append(size(self.count))
        elif self.count:
            words.append(f"{self.count} {self.unit if self.count > 1 else self.unit[:-1]}")
        if self.note:
            words.append(self.note)
        return ", ".join(words)

    def row(self) -> Text:
        """What is seen of it while it lasts."""
        title, took = self.columns()
        row = Text.assemble((title, "bold"), (took, "cyan"))
        return row.append("".join(f"  {word}" for word in (self.rest(), self.last) if word), "dim")

    def columns(self) -> tuple[str, str]:
        """Title and time, of the same width in each phase where the window has room for that."""
        if self._terminal.err.width < NARROW:
            return self.title, f"  {self.took()}"
        return f"{self.title:<{TITLE}}", f"{self.took():>8}"


class _Frame:
    """The live lines: redrawn several times a second, so that time is seen to pass."""

    def __init__(self, phases: list[Phase], signs: Signs) -> None:
        self._phases = phases
        self._signs = signs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        frame = self._signs.turning[int(time.monotonic() * 10) % len(self._signs.turning)]
        for phase in tuple(self._phases):
            row = Text.assemble((f"{frame} ", "cyan"), phase.row())
            # Room for the ^C that a terminal echoes; one line more would not be wiped.
            row.truncate(options.max_width - 3, overflow=self._signs.cut)
            yield row


class Terminal:
    """Stdout for results, stderr for what happens on the way. `ascii`: the locale may have no more
    signs than that."""

    def __init__(self, *, ci: bool, ascii: bool = False) -> None:  # noqa: A002 -- what it is called
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False)
        self.live = self.err.file.isatty() and not self.err.is_dumb_terminal and not ci
        self._signs = ASCII if ascii or not self.err.encoding.startswith("utf") else SIGNS
        #: What each phase that is over took, in seconds, in the order in which they ended.
        self.times: list[tuple[str, float]] = []
        self._phases: list[Phase] = []
        self._display: Live | None = None
        self._lock = threading.Lock()

    def plain(self, text: str) -> None:
        """A line with the time of day."""
        self.err.print(f"{time.strftime('%H:%M:%S')} {escape(harmless(text))}", soft_wrap=True)

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
            self._end(phase, failed=True)
            raise
        self._end(phase, failed=False)

    def _begin(self, phase: Phase) -> None:
        with self._lock:
            self._phases.append(phase)
            if self.live and self._display is None:
                self._display = Live(
                    _Frame(self._phases, self._signs),
                    console=self.err,
                    refresh_per_second=8,
                    transient=True,
                )
                self._display.start()

    def _end(self, phase: Phase, *, failed: bool) -> None:
        with self._lock:
            self._phases.remove(phase)
            self.times.append((phase.title, time.monotonic() - phase.started))
            if self._display is not None and not self._phases:
                self._display.stop()
                self._display = None
        if self.live:
            mark = (self._signs.failed, "red") if failed else (self._signs.done, "green")
            title, took = phase.columns()
            self._note(Text.assemble(mark, f" {title}", (f"{took}  ", "dim")), phase.rest(), "dim")
        else:
            self.plain(f"{phase.title}: {'failed' if failed else 'done'}, {phase.summary()}")

    def error(
        self, kind: str, fact: str, place: str, next_step: str, detail: Sequence[str]
    ) -> None:
        """One failure: the lines that led to it, the fact, the place, the next step. The place, a
        path or a command, is not broken: whoever copies it gets it whole."""
        for line in detail:
            bar = f"  {self._signs.bar} "
            self._note(Text(bar, "dim"), line, "dim", bar)
        self._note(Text(f"{kind}: ", "bold red"), fact, "bold")
        if place:
            self.err.print(Text.assemble(("  where ", "cyan"), harmless(place)), soft_wrap=True)
        if next_step:
            self._note(Text("  next  ", "cyan"), next_step, "", " " * 8)

    def _note(self, head: Text, text: str, style: str, indent: str = "  ") -> None:
        """Words for stderr after a head, whole in a pipe, broken between words in a window."""
        text = harmless(text)
        if self.err.file.isatty():
            width = max(self.err.width, ROOM)
            word = len(text.partition(" ")[0])
            fits = head.cell_len + word <= max(width, len(indent) + word)  # or nothing is gained
            first = " " * head.cell_len if fits else indent
            lines = textwrap.wrap(
                text,
                width,
                initial_indent=first,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            text = "\n".join(lines)
            if fits:
                text = text.removeprefix(first)
            else:
                head.rstrip()
                text = "\n" + text
        note = Text.assemble(head, (text, style))
        note.rstrip()
        self.err.print(note, soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], spare: Sequence[str] = ()
    ) -> None:
        """Aligned columns. In a window too narrow for them the `spare` ones go, in that order, then
        a last cell that is too long stands below its row, and in the end each row is a group of
        facts. A last cell with a word too long to stand beside its row, a hash say, stands below it
        in any case. A column without a name holds verdicts."""
        found = [dict(zip(columns, map(harmless, row), strict=True)) for row in (columns, *rows)]
        widths = {name: max(len(row[name]) for row in found) for name in columns}
        kept, gone = list(columns), []
        for name in spare:
            if self._room(kept, widths) < 0:
                kept.remove(name)
                gone.append(name)
        if self.out.file.isatty() and sum(widths[n] + 2 for n in kept[:-1]) > self.out.width:
            self.facts(*({name: [row[name].strip()] for name in columns} for row in found[1:]))
            return
        self._rows(kept, widths, found)
        if gone:
            self.say(f"without {', '.join(gone)}: a wider window shows that too")

    def _rows(
        self, kept: Sequence[str], widths: Mapping[str, int], found: Iterable[Mapping[str, str]]
    ) -> None:
        tight = self._room(kept, widths) < 0
        for number, row in enumerate(found):
            line = Text("", "bold" if number == 0 else "")
            for name in kept[:-1]:
                style = "" if name else VERDICTS.get(row[name], "")
                line.append(f"{row[name]:<{widths[name]}}  ", style)
            indent, last = line.cell_len, row[kept[-1]]
            longest = last if tight else max(last.split(), key=len, default="")
            if self.out.file.isatty() and indent + len(longest) > self.out.width:
                indent = 4
                line.rstrip()
                line.append("\n" + " " * indent)
            self._fold(line, last, indent, indent)

    def _room(self, names: Sequence[str], widths: Mapping[str, int]) -> int:
        """Columns that a window has beyond what a table needs at least."""
        *first, last = names
        needs = sum(widths[name] + 2 for name in first) + min(widths[last], ROOM)
        return self.out.width - needs if self.out.file.isatty() else 0

    def _fold(self, line: Text, text: str, begins: int, goes_on: int) -> None:
        """A line for stdout that ends with a text, which begins at one column and goes on, in lines
        below, at another. A long word, such as a hash, stays whole: whoever copies it gets it."""
        text = harmless(text)
        if self.out.file.isatty():
            width = max(self.out.width, goes_on + 1)
            first, rest = " " * begins, " " * goes_on
            lines = textwrap.wrap(
                text,
                width,
                initial_indent=first,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
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

    def sentence(self, text: str) -> None:
        """A result in words, broken between them in a window."""
        self._fold(Text(""), text, 0, 2)

    def text(self, text: str) -> None:
        """A result as it is, without markup or wrapping."""
        self.out.out(text, highlight=False)


def harmless(text: str) -> str:
    """A text; each sign of it that would steer a terminal or turn what it shows is spelled out."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode()
        for sign in text
    )


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
