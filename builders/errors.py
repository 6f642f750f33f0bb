"""Every failure a user can meet: an exit code, the fact, the place, the next step.

Imports nothing of ours, so that every room may raise from here. `tasks.py` turns these into
text and an exit status; nothing else in the project exits.
"""

from __future__ import annotations


class NokmemError(Exception):
    """A failure that was foreseen.

    `fact` is one sentence on what is so, `place` where it was seen (file, URL, command),
    `next_step` what the user can do. `detail` holds lines worth reading, such as the last
    lines of a compiler's output.
    """

    exit_code = 1
    kind = "error"

    def __init__(
        self, fact: str, *, place: str, next_step: str, detail: tuple[str, ...] = ()
    ) -> None:
        super().__init__(fact)
        self.fact = fact
        self.place = place
        self.next_step = next_step
        self.detail = detail


class UsageError(NokmemError):
    """An option or a value that cannot be understood."""

    exit_code = 2
    kind = "usage"


class UnknownReleaseError(NokmemError):
    """A Kubernetes release this project holds no facts about."""

    exit_code = 3
    kind = "unknown release"


class MachineError(NokmemError):
    """The machine lacks a program, a right, memory or disk."""

    exit_code = 4
    kind = "machine"


class UnavailableError(NokmemError):
    """A source did not answer, or answered that it has no such thing."""

    exit_code = 5
    kind = "unavailable"


class IntegrityError(NokmemError):
    """What arrived is not what was pinned, or is not signed by whom it must be."""

    exit_code = 6
    kind = "integrity"


class ToolchainError(NokmemError):
    """The toolchain could not be made."""

    exit_code = 7
    kind = "toolchain"


class CompileError(NokmemError):
    """A component did not compile."""

    exit_code = 8
    kind = "compile"


class ProofError(NokmemError):
    """A binary, or a dist folder, did not pass its checks."""

    exit_code = 9
    kind = "proof"


class BusyError(NokmemError):
    """Another run holds what this one needs."""

    exit_code = 10
    kind = "busy"


class FactsError(NokmemError):
    """The project's own data is malformed: a fault of ours, or of a local edit."""

    exit_code = 11
    kind = "facts"


class PackageError(NokmemError):
    """A package was not made, not signed, or is not what a node could read."""

    exit_code = 12
    kind = "package"


class PublishError(NokmemError):
    """A target refused, did not answer, or holds something else by the same name."""

    exit_code = 13
    kind = "publish"


CATALOGUE: tuple[type[NokmemError], ...] = (
    NokmemError,
    UsageError,
    UnknownReleaseError,
    MachineError,
    UnavailableError,
    IntegrityError,
    ToolchainError,
    CompileError,
    ProofError,
    BusyError,
    FactsError,
    PackageError,
    PublishError,
)
INTERRUPTED_EXIT_CODE = 130
