"""What a build needs, and which of the places that may have it gives it.

A plan decides what; where several places can give the same, here the first that answers is
taken, and the plan made definite with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from builders.errors import UnavailableError, UsageError
from builders.model.plan import BuildPlan, BuildRequest, ComponentPlan, ToolchainPlan
from builders.model.releases import Facts
from builders.model.resolve import choices, compiler_name, resolve
from builders.steps import sources, toolchain
from builders.steps.sources import GoArchives, Places, Provider
from builders.tools.builder import Builder, Limits
from builders.tools.cache import Cache
from builders.tools.terminal import Phase, Terminal


@dataclass(frozen=True)
class Options:
    """How to build, as opposed to what: none of it may change a byte of the binaries but
    `patches`, a folder with the user's own series, of which the plan has every hash. What a
    `bundle` holds is used beside the cache; nobody is contacted then."""

    places: Places
    builder: str = "auto"
    limits: Limits = field(default_factory=Limits)
    keep: bool = False
    offline: bool = False
    rebuild: bool = False
    patches: Path | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class _Candidate:
    """A request with one source of a component decided, and what that source is."""

    request: BuildRequest
    component: ComponentPlan
    provider: Provider


class Supply:
    """What builds need and where it comes from: fetched, or, offline, in the cache already.

    Without a builder only the sources of components can be settled."""

    def __init__(
        self,
        facts: Facts,
        options: Options,
        cache: Cache,
        terminal: Terminal,
        builder: Builder | None = None,
    ) -> None:
        self.options = options
        self.cache = cache
        self._facts = facts
        self.terminal = terminal
        self._builder = builder
        self.debian = sources.Debian(cache, options.places.environment, terminal.say)
        self.go = GoArchives(cache, options.places, facts.go_source, terminal.say)

    def provider(self, decided: BuildPlan, name: str) -> Provider:
        """The provider of a component of a plan."""
        component = next(c for c in decided.components if c.name == name)
        return sources.provider(component, self.cache, self.options.places, self.terminal.say)

    def settle(self, request: BuildRequest) -> BuildPlan:
        """Turn each "auto" into the first of its choices that answers, and have what it needs.

        Only silence leads on to the next one: a place that has something else than it should is
        an IntegrityError at once.
        """
        return self.settle_all([request])[0]

    def settle_all(self, requests: Iterable[BuildRequest]) -> tuple[BuildPlan, ...]:
        """Settle each. Offline, what is missing for any of them is named all at once."""
        missing: list[str] = []
        settled = tuple(self._settle(request, missing) for request in requests)
        sources.refuse_offline(missing, self.options.bundle)
        return settled

    def _settle(self, request: BuildRequest, missing: list[str]) -> BuildPlan:
        request = self._compiler(request, missing)
        request = self._source("kubelet", request, missing)
        request = self._source("runc", request, missing)
        decided = resolve(request, self._facts)
        if self.options.offline:
            missing += self._missing_toolchain(decided)
            if missing:
                return decided
        for go in decided.toolchain.go:
            if self.go.missing(go):
                with self.terminal.phase(f"fetch Go {go.version}", "bytes") as phase:
                    self.go.fetch(go, partial(_count, phase))
            else:
                self.go.fetch(go, lambda _: None)
        return decided

    def settle_kubernetes(self, request: BuildRequest) -> BuildPlan:
        """Settle the source of Kubernetes alone, and have it."""
        missing: list[str] = []
        request = self._source("kubelet", request, missing)
        sources.refuse_offline(missing, self.options.bundle)
        return resolve(request, self._facts)

    def _missing_toolchain(self, decided: BuildPlan) -> list[str]:
        wanted, missing = decided.toolchain, []
        if self._builder is None or not self._builder.has(wanted.key):
            missing = self.debian.missing_files(wanted.packages)
            missing += [f"the toolchain image {wanted.name}"] if wanted.image is not None else []
        return missing + [name for go in wanted.go for name in self.go.missing(go)]

    def _compiler(self, request: BuildRequest, missing: list[str]) -> BuildRequest:
        """Choose toolchain and Go: the first that answer."""
        tried = [
            dataclasses.replace(request, toolchain=name, go=go)
            for name, go in choices(request, self._facts).compiler
        ]
        reasons: list[str] = []
        for candidate in tried:
            reason = self._why_not_compiler(candidate)
            if reason is None or len(tried) == 1:
                if len(tried) > 1:
                    name = compiler_name(candidate.toolchain, candidate.go)
                    why = f", because {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
                    self.terminal.say(f"toolchain: {name}{why}")
                return candidate
            reasons.append(reason)
        if self.options.offline:
            plan = resolve(tried[-1], self._facts)
            missing += [name for go in plan.toolchain.go for name in self.go.missing(go)]
            return tried[-1]
        raise UnavailableError(
            f"nothing that compiles {request.kubernetes} answers",
            place="toolchain and Go",
            next_step="name a mirror of Go (NOKMEM_GO_MIRROR)" + self._stand_in(request),
            detail=tuple(dict.fromkeys(reasons)),
        )

    def _stand_in(self, request: BuildRequest) -> str:
        """What else would compile it, if the user wants that."""
        own = dataclasses.replace(request, toolchain="debian", go="distribution")
        try:
            resolve(own, self._facts)
        except UsageError:
            return ", or a folder that has it"
        return (
            ", or take the distribution's Go, unproven for this release: "
            "--toolchain debian --go distribution"
        )

    def _why_not_compiler(self, request: BuildRequest) -> str | None:
        plan = resolve(request, self._facts).toolchain
        for go in plan.go:
            if self.options.offline:
                if self.go.missing(go):
                    return f"the archive of Go {go.version} is not in the cache"
            elif (reason := self.go.answer(go)) is not None:
                return f"the archive of Go {go.version} does not answer ({reason})"
        if plan.image is None or self._builder is None or self._builder.has(plan.key):
            return None
        if self.options.offline:
            return f"{plan.name} is not in the cache"
        base = toolchain.base_image(plan.image, self.options.places.environment)
        answer = self._builder.answer(base)
        return f"{plan.name}: {answer}" if answer else None

    def _source(self, name: str, request: BuildRequest, missing: list[str]) -> BuildRequest:
        """Choose a component's source, the first that answers, and fetch it."""
        option = "kubernetes_source" if name == "kubelet" else "runc_source"
        tried = [
            self._candidate(dataclasses.replace(request, **{option: kind}), name)
            for kind in getattr(choices(request, self._facts), option)
        ]
        reasons: list[str] = []
        for one in tried:
            kind = one.component.source.provider
            if self.options.offline and one.provider.missing(one.component):
                reasons.append(f"{kind}: not in the cache")
                continue
            try:
                self._fetch(one)
            except UnavailableError as error:
                if one is tried[-1]:
                    error.detail = (*reasons, *error.detail)
                    raise
                reasons.append(f"{kind}: {error.fact}")
                continue
            if reasons:
                self.terminal.say(f"{name}: from {kind}, because {'; '.join(reasons)}")
            return one.request
        missing += tried[0].provider.missing(tried[0].component)
        return tried[0].request

    def _candidate(self, request: BuildRequest, name: str) -> _Candidate:
        decided = resolve(request, self._facts)
        component = next(c for c in decided.components if c.name == name)
        return _Candidate(request, component, self.provider(decided, name))

    def _fetch(self, one: _Candidate) -> None:
        title = f"fetch {one.component.name} {one.component.version}"
        with self.terminal.phase(title, "bytes") as phase:
            lacks = one.provider.missing(one.component)
            one.provider.fetch(
                one.component, lambda count: phase.step(amount=count), lambda line: phase.line(line)
            )
            phase.note = one.component.source.provider + ("" if lacks else ", nothing downloaded")

    def fetch_toolchain(self, wanted: ToolchainPlan, phase: Phase) -> None:
        """Leave every package of the toolchain in the cache; offline, see that it is there."""
        if self.options.offline:
            missing = self.debian.missing_files(wanted.packages)
            sources.refuse_offline(missing, self.options.bundle)
        self.debian.fetch_files(wanted.packages, lambda count: phase.step(amount=count))


def sweep(cache: Cache, builders: Iterable[Builder]) -> None:
    """Remove what killed runs left: their rooms and containers, and what was on its way."""
    for builder in builders:
        builder.sweep()
    cache.sweep()
    sources.sweep(cache)


def _count(phase: Phase, count: int) -> None:
    phase.step(amount=count)
