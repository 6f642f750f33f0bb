"""Makes the pictures of the documents from what the real commands print in a real terminal:

    .venv/bin/python docs/pictures/make.py dist/v1.20.2 dist/v1.20.2-stock

The folders are a result and a control, to be verified. The sources of v1.15.3 must not be in the
cache. A line that names a place of this machine ends it: pictures are for everyone.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WIDTH = 100
#: What rich makes of one column, in units of the picture.
COLUMN = 12.2
#: Without the font that rich would have fetched from elsewhere.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


#: A piece of a line that begins with blanks, which some viewers drop.
BLANKS = re.compile(r'x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"([^>]*>)((?:&#160;)+)')


def indented(piece: re.Match[str]) -> str:
    """The same piece without those blanks, as far to the right."""
    x, y, length, rest, blanks = piece.groups()
    shift = blanks.count(";") * COLUMN
    return f'x="{float(x) + shift:g}" {y} textLength="{float(length) - shift:g}"{rest}'


def printed(words: list[str], folder: Path) -> str:
    """What `./run words` prints, in `folder`, in a terminal of WIDTH columns."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    hidden = {"CI", "NO_COLOR", "COLUMNS", "LINES"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment.update(TERM="xterm-256color", COLORTERM="truecolor", LC_ALL="C.UTF-8")
    with subprocess.Popen(
        [ROOT / "run", *words], cwd=folder, env=environment, stdin=its, stdout=its, stderr=its
    ):
        os.close(its)
        found = b""
        try:
            while block := os.read(ours, 65536):
                found += block
        except OSError:  # how a terminal says that its last program has ended
            os.close(ours)
    return found.decode().replace("\r\n", "\n")


def picture(name: str, words: list[str], folder: Path) -> None:
    """One command and what it prints, as docs/pictures/<name>.svg."""
    text = printed(words, folder)
    told = [place for place in (str(ROOT), str(folder), str(Path.home())) if place in text]
    if told:
        raise SystemExit(f"{name}: {told[0]} is a place of this machine")
    console = Console(record=True, width=WIDTH, force_terminal=True, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), (f"./run {' '.join(words)}", "bold")))
    console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
    svg = console.export_svg(title="nokmem", theme=MONOKAI, code_format=FORMAT, unique_id=name)
    svg = BLANKS.sub(indented, svg).replace("Fira Code", "DejaVu Sans Mono")
    lines = [line.rstrip() for line in svg.splitlines()]
    (HERE / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(result: str, control: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        dist = Path(scratch, "dist")
        dist.mkdir()
        names = []
        for place in (result, control):
            folder = Path(place).resolve()
            dist.joinpath(folder.name).symlink_to(folder)
            names.append(f"dist/{folder.name}")
        for name, words in {
            "plan": ["plan", "--k8s", "v1.15.3"],
            "matrix": ["matrix", "--k8s", "v1.20"],
            "verify": ["verify", "--dist", names[0]],
            "control": ["verify", "--dist", names[1]],
            "error": ["build", "--k8s", "v1.15.3", "--offline"],
        }.items():
            picture(name, words, Path(scratch))


if __name__ == "__main__":
    main(*sys.argv[1:])
