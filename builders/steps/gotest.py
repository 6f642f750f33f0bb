"""A patched tree -> what Go's own tests say of the patches in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from builders.errors import ProofError
from builders.model.plan import WORK, ComponentPlan
from builders.tools.builder import Session

MODULE = "k8s.io/kubernetes"
#: A line of `go test`: "ok", the package, seconds; "(cached)" where nothing changed.
PASSED = re.compile(r"ok\s+(\S+)\s+(\(cached\)|[\d.]+s)( \[no tests to run\])?")
#: The patch's own package, which knows nothing of Kubernetes: all of it, and with the race
#: detector. The packages that call it: the tests of the calls.
OWN, CALLERS = "pkg/kubelet/adoption", ("config", "kuberuntime", "prober", "")
MEASURES = "./pkg/kubelet/kuberuntime"
#: A line of `go test -bench`: what is measured, how often, nanoseconds each.
MEASURED = re.compile(r"Benchmark\w+/(\w+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op")
#: Where upstream's build has its GOPATH: what is found in another Go compiles anew.
GOPATH = "_output/local/go"
#: No build of its own needs the tag by which upstream leaves test code out.
LEFT_OUT = "notest"


@dataclass(frozen=True)
class Tested:
    """One package whose tests passed, and what Go said of the time it took."""

    package: str
    took: str


@dataclass(frozen=True)
class Report:
    """All packages whose tests passed, and what one look at a container costs in nanoseconds, by
    whose doing: "upstream" and "adoption"."""

    tested: tuple[Tested, ...]
    costs: Mapping[str, float]


def run(component: ComponentPlan, session: Session, on_line: Callable[[str], None]) -> Report:
    """Run the tests and the benchmark that the patches bring, in the room where the patched tree
    lies.

    ProofError with the last lines where one fails, or where one of the packages has none.
    """
    gopath = f"{component.folder}/{GOPATH}"
    folder = f"{gopath}/src/{MODULE}"
    environment = {
        **component.environment,
        "GOFLAGS": "",
        "GO111MODULE": "off",  # a GOPATH with vendor/, as every release to 1.22 can be built
        "GOPATH": gopath,
        "PWD": folder,  # Go believes it, and so sees the GOPATH and not what the link points to
    }
    tags = " ".join(tag for tag in component.tags if tag != LEFT_OUT)
    # vet would read all of Kubernetes, for packages that are upstream's
    test = ["go", "test", "-vet=off", "-tags", tags]
    callers = [f"./pkg/kubelet/{name}" for name in CALLERS]
    found: list[Tested] = []
    costs: dict[str, float] = {}
    for argv in (
        ["install", "-d", os.path.dirname(folder)],
        ["ln", "-s", component.folder, folder],
        ["go", "test", "-race", f"./{OWN}"],
        [*test, "-run", "^TestAdoption", *callers],
        [*test, "-run", "^$", "-bench", "^BenchmarkAdoption", MEASURES],
    ):
        place = folder if argv[0] == "go" else WORK
        lines: list[str] = []

        def take(line: str, lines: list[str] = lines) -> None:
            lines.append(line)
            on_line(line)

        result = session.run(argv, environment=environment, folder=place, on_line=take)
        measured = [match for match in map(MEASURED.match, lines) if match]
        passed = [match for match in map(PASSED.fullmatch, lines) if match and not measured]
        empty = [match[1] for match in passed if match[3]]
        if not result.ok or empty:
            raise ProofError(
                f"{component.name} {component.version}: the patches' own tests fail"
                if not empty
                else f"{component.name} {component.version}: no test ran in {', '.join(empty)}",
                place=" ".join(argv),
                next_step="mend the patch; its Go files are below patches/kubernetes/adoption",
                detail=result.tail,
            )
        found += [Tested(match[1], match[2]) for match in passed]
        costs.update((match[1], float(match[2])) for match in measured)
    return Report(tuple(found), costs)
