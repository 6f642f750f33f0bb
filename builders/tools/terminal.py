"""What a person sees, by rich: live phases on a terminal, time-stamped lines elsewhere."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

HEARTBEAT = 15.0
#: Columns of a table that no person's window bounds: rows stay whole for grep.
PIPED_WIDTH = 400


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
        if self.count:
            words.append(
                f"{self.count / 1e6:.0f} MB"
                if self.unit == "bytes"
                else f"{self.count} {self.unit}"
            )
        if self.note:
            words.append(self.note)
        return ", ".join(words)

    def __rich__(self) -> RenderableType:
        row = Text.assemble((f"{self.title}  ", "bold"), (self.summary(), "cyan"))
        if self.last:
            row.append(f"  {self.last}", "dim")
        row.no_wrap, row.overflow = True, "ellipsis"
        return row


class _Frame:
    """The live lines: redrawn several times a second, so that time is seen to pass."""

    def __init__(self, phases: list[Phase]) -> None:
        self._phases = phases
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for phase in tuple(self._phases):
            grid.add_row(self._spinner, phase)
        return grid


class Terminal:
    """Stdout for results, stderr for what happens on the way."""

    def __init__(self, *, ci: bool) -> None:
        self.out = Console(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = PIPED_WIDTH
        self.err = Console(stderr=True, highlight=False)
        self.live = self.err.is_terminal and not ci
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
            self.err.print(Padding(Text(text, "dim"), (0, 0, 0, 2)))
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
            self.err.print(
                Text.assemble((mark, style), f" {phase.title}  ", (phase.summary(), "dim"))
            )
        else:
            word = "done" if mark == "✓" else "failed"
            self.plain(f"{phase.title}: {word}, {phase.summary()}")

    def error(
        self, kind: str, fact: str, place: str, next_step: str, detail: Sequence[str]
    ) -> None:
        """One failure: the lines that led to it, the fact, the place, the next step."""
        for line in detail:
            self.err.print(Text(f"  │ {line}", "dim"), soft_wrap=True)
        parts = [((f"{kind}: ", "bold red"), (self._filled(f"{kind}: ", fact), "bold"))]
        for label, text in (("where", place), ("next", self._filled("        ", next_step))):
            if text:
                parts.append(((f"  {label:<6}", "cyan"), (text, "")))
        for words in parts:
            self.err.print(Text.assemble(*words), soft_wrap=True)

    def _filled(self, before: str, text: str) -> str:
        """A sentence that follows `before`, broken between words where a person's window ends."""
        if not self.err.is_terminal:
            return text
        lines = textwrap.fill(
            before + text,
            self.err.width,
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        return lines[len(before) :]

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns, the last one taking what room is left."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
        for column in columns[:-1]:
            table.add_column(column, no_wrap=True)
        table.add_column(columns[-1], overflow="fold")
        for row in rows:
            table.add_row(*(mark(cell) for cell in row))
        self._print(table)

    def facts(self, pairs: Mapping[str, str]) -> None:
        """Names and values, one a line."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs.items():
            table.add_row(name, Text(value))
        self._print(table)

    def _print(self, table: Table) -> None:
        """A table; without the blanks at line ends where nobody sees columns."""
        if self.out.is_terminal:
            self.out.print(table, soft_wrap=False)
            return
        with self.out.capture() as capture:
            self.out.print(table, soft_wrap=False)
        for line in capture.get().splitlines():
            self.text(line.rstrip())

    def text(self, text: str) -> None:
        """A result as it is, without markup or wrapping."""
        self.out.out(text, highlight=False)


def mark(cell: str) -> Text:
    """A cell; the words that carry a verdict get its colour."""
    colours = {"ok": "green", "no": "red", "pass": "green", "FAIL": "bold red", "warn": "yellow"}
    return Text(cell, colours.get(cell, ""))


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
