"""The node script keeps to what EL7 has: bash 4.2, coreutils 8.22, util-linux 2.23, systemd 219, and an awk
that is any awk. What is newer runs here, and dies there."""

from __future__ import annotations

import re

import pytest

from rollout.script import script
from tests.rollout import MANIFEST

#: pattern -> since when, and a line that it must find
NEWER = {
    r"\b(declare|local|typeset)( -\w+)* -\w*n\w* ": ("bash 4.3", "local -n it=$1"),
    r"\bwait (-\w+ )*-n\b": ("bash 4.3", "wait -n"),
    r"\[\[? -v \w+\[": ("bash 4.3", "[[ -v a[1] ]]"),
    r"\w\[-\d+\]\+?=": ("bash 4.3", "a[-1]=x"),
    r"\bunset [^;&|]*\[-\d": ("bash 4.3", "unset 'a[-1]'"),
    r"%\([^)]*\)T": ("bash 4.3, without its argument", "printf '%(%s)T'"),
    r"\b(mapfile|readarray) (-\w+ )*-d\b": ("bash 4.4", "mapfile -d '' a"),
    r"\$\{!?\w+(\[[^]]*\])?@[A-Za-z]\}": ("bash 4.4", 'echo "${x@Q}"'),
    r"\blocal -(;|$| )": ("bash 4.4", "local -; set -x"),
    r"\bshopt -[su] .*(inherit_errexit|globasciiranges|localvar_|patsub_)": (
        "bash 4.3 and later", "shopt -s inherit_errexit",
    ),
    r"\$\{?(EPOCHSECONDS|EPOCHREALTIME|BASH_ARGV0|SRANDOM)\b": ("bash 5", "now=$EPOCHSECONDS"),
    r"\$\{ |\$\{\|": ("bash 5.3", "x=${ date; }"),
    r"\bsync +[^;&|\s]": ("coreutils 8.24", "sync file"),
    r"\bstatus=progress\b": ("coreutils 8.24", "dd status=progress"),
    r"\b(head|tail|cut|comm|uniq|wc) (-\w+ )*(-z|--zero-terminated|--total)\b": (
        "coreutils 8.25", "head -z -n 1",
    ),
    r"\benv (-\w+ )*-S\b": ("coreutils 8.30", "env -S 'a b'"),
    r"\bb2sum\b|\bbasenc\b": ("coreutils 8.26", "b2sum file"),
    r"\bgrep\b.* --no-ignore-case\b": ("grep 3.5", "grep --no-ignore-case x"),
    r"\bsed (-\w+ )*--debug\b": ("sed 4.6", "sed --debug"),
    r"\bxargs\b.* -o\b": ("findutils 4.6", "xargs -o sh"),
    r"\bfind\b.* -files0-from\b": ("findutils 4.9", "find -files0-from x"),
    r"\bsystemctl\b.*(--value\b| -P\b)": ("systemd 230", "systemctl show --value -p MainPID kubelet"),
    r"\bsystemctl\b.* --now\b": ("systemd 220", "systemctl disable --now kubelet"),
    r"\bsystemctl (edit|revert|clean)\b": ("systemd 220 and later", "systemctl revert x"),
    r"\bsystemd-run\b.*(--wait|--pipe|--collect|--working-directory)\b": (
        "systemd 232 and later", "systemd-run --wait true",
    ),
    r"\bjournalctl\b.*(--grep|--output-fields| -g | -S | --cursor-file)": (
        "systemd 236 and later", "journalctl --grep x",
    ),
    r"\btimedatectl show\b": ("systemd 239", "timedatectl show"),
    r"\bcurl\b.*(--fail-with-body|--retry-connrefused|--json|--tls-max)\b": (
        "curl 7.52 and later; EL7 has 7.29", "curl --retry-connrefused x",
    ),
}  # fmt: skip
#: Words of awks that are not POSIX's.
AWK = {
    r"\b(gensub|asort|asorti|strftime|systime|mktime|patsplit|PROCINFO|IGNORECASE|RT|FPAT)\b": (
        "systime()"
    ),
    r"\bdelete [a-z]+( *[;}]|$)": "delete seen;",
    r"\\[yBsSwW<>]": "/\\ywords\\y/",
    r"BEGINFILE|ENDFILE|@include|\bswitch *\(": "BEGINFILE { x = 1 }",
    r"/dev/std(err|out)": 'print > "/dev/stderr"',
}
#: Arrays that are never empty where they are used whole: in bash 4.2 an empty one is unbound.
FILLED = {
    "places": "four words",
    "rpms": "two words",
    "KUBELET_ARGV": "of a kubelet that preflight saw run",
    "ENGINE_UNITS": "counted first",
}  # fmt: skip
WHOLE = re.compile(r"\$\{(\w+)\[[@*]\](:\d+)?\}")


def code() -> list[str]:
    """Its lines, without what only speaks."""
    return [line for line in script(MANIFEST).splitlines() if not line.lstrip().startswith("#")]


def awks() -> list[str]:
    """Its awk programs."""
    text = "\n".join(code())
    return re.findall(r"\bawk [^'\n]*'([^']*)'", text)


@pytest.mark.parametrize("pattern", NEWER)
def test_nothing_is_newer_than_el7(pattern: str) -> None:
    since, example = NEWER[pattern]
    assert re.search(pattern, example), "the check finds what it is for"
    assert not [line for line in code() if re.search(pattern, line)], since


@pytest.mark.parametrize("pattern", AWK)
def test_awk_is_any_awk(pattern: str) -> None:
    assert re.search(pattern, AWK[pattern])
    assert len(awks()) > 8
    assert not [text for text in awks() if re.search(pattern, text)]


def guarded(line: str) -> list[str]:
    """The arrays that a line uses whole without a word for none."""
    found = []
    for use in WHOLE.finditer(line):
        before = line[: use.start()]
        if not re.search(rf"\$\{{{use[1]}\[[@*]\](:\d+)?[+-]\"?$", before):
            found.append(use[1])
    return found


def test_no_array_is_used_whole_that_may_be_empty() -> None:
    assert guarded('for x in "${a[@]}"; do') == ["a"] == guarded('echo ${a[*]:1} "${#a[@]}"')
    assert guarded('for x in ${a[@]+"${a[@]}"} "${b[*]-}"; do') == []
    found = {name for line in code() for name in guarded(line)}
    assert found <= FILLED.keys(), found - FILLED.keys()
