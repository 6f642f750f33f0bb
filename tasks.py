"""The command line. Arguments, environment and clock come in, text and an exit code go out.

Everything heavy is imported inside a task, so that listing the tasks costs nothing.

Exit codes: 0 done, 1 unforeseen, 2 usage, 3 unknown release, 4 machine lacks something,
5 source unavailable, 6 integrity, 7 toolchain, 8 compile, 9 proof, 10 busy, 11 facts,
12 package, 13 publish, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

if TYPE_CHECKING:
    from builders.model.plan import BuildRequest, OwnArchive
    from builders.model.settings import Settings
    from builders.steps.contents import Row
    from builders.supply import Options
    from builders.tools.builder import Limits
    from builders.tools.cache import Cache
    from builders.tools.terminal import Terminal

ROOT = Path(__file__).parent
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DIST = "dist"
#: Bytes; no engine starts a container with less than 6 MB, no compiler lives in less than this.
LEAST_MEMORY = 64 << 20
#: What to build: the options that `plan`, `build` and `fetch` share.
WHAT = {
    "k8s": "Kubernetes release, such as v1.15.3",
    "variant": "nokmem, or stock: the control, built the same but with accounting",
    "target": "the nodes to build for",
    "runc": "runc release, such as 1.0.0-rc9, or a pair: same-age, article or current",
    "k8s_source": "auto, debian, git, a repository's folder, an archive's file or URL",
    "k8s_sha256": "the hash of that archive",
    "runc_source": "auto, debian, git, a repository's folder, an archive's file or URL",
    "runc_sha256": "the hash of that archive",
    "toolchain": "auto, el7 or debian",
    "go": "auto, official, distribution, or a version such as 1.12.9",
    "kubelet_tags": "build tags of kubelet beside nokmem, such as providerless",
    "runc_tags": "build tags of runc beside nokmem, instead of seccomp",
    "patches": "folder with a series of your own, applied after the project's",
    "stamp": "let kubelet's --version show the id of its build",
}

BUNDLE = "take what it needs from this bundle and the cache, contact nobody"

#: Options have one spelling, the long one: a script should read like a sentence.
command = functools.partial(task, auto_shortflags=False)


@dataclass(frozen=True)
class What:
    """The options that say what to build: the words of `plan`, `build` and `fetch` alike."""

    variant: str = "nokmem"
    target: str = "el7"
    runc: str = ""
    k8s_source: str = "auto"
    k8s_sha256: str = ""
    runc_source: str = "auto"
    runc_sha256: str = ""
    toolchain: str = ""
    go: str = "auto"
    kubelet_tags: str = ""
    runc_tags: str = "seccomp"
    patches: str = ""
    stamp: bool = False

    @functools.cached_property
    def settings(self) -> Settings:
        return _settings()

    @property
    def own_patches(self) -> Path | None:
        word = self.patches or self.settings.build.get("patches", "")
        return Path(word) if word else None

    def request(self, k8s: str) -> BuildRequest:
        from builders.model.plan import BuildRequest

        kubernetes, own_kubernetes, _ = _source("kubernetes", self.k8s_source, self.k8s_sha256)
        runc, own_runc, _ = _source("runc", self.runc_source, self.runc_sha256)
        return BuildRequest(
            k8s,
            self.variant,
            self.target,
            self.runc,
            kubernetes,
            runc,
            self.toolchain or self.settings.build.get("toolchain", "auto"),
            self.go,
            tuple(self.kubelet_tags.split()),
            tuple(self.runc_tags.split()),
            (*own_kubernetes, *own_runc, *self.settings.archives),
            self.stamp,
        )

    def options(
        self,
        builder: str,
        limits: Limits,
        keep: bool = False,
        offline: bool = False,
        rebuild: bool = False,
        bundle: str = "",
    ) -> Options:
        from builders.steps.sources import Places
        from builders.supply import Options

        folders, archives = {}, dict(self.settings.places)
        for component, word, sha256 in (
            ("kubernetes", self.k8s_source, self.k8s_sha256),
            ("runc", self.runc_source, self.runc_sha256),
        ):
            kind, own, place = _source(component, word, sha256)
            if kind == "dir":
                folders["kubelet" if component == "kubernetes" else component] = Path(place)
            archives.update({archive.sha256: place for archive in own})
        return Options(
            Places(self.settings.environment(os.environ), folders, archives),
            builder or self.settings.build.get("builder", "auto"),
            limits,
            keep,
            offline or bool(bundle),
            rebuild,
            self.own_patches,
            Path(bundle) if bundle else None,
        )


def asks_what(body: Callable[..., None]) -> Callable[..., None]:
    """Give a task the options of What, each by its name; they reach it as one value, `what`."""
    words = {field.name: field.default for field in dataclasses.fields(What)}

    @functools.wraps(body)
    def asked(context: Context, **given: Any) -> None:
        what = What(**{name: given.pop(name) for name in words})
        body(context, what=what, **given)

    context, *others = inspect.signature(body).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(n, kind, default=default) for n, default in words.items()]
    kept = [one.replace(kind=kind) for one in others if one.name != "what"]
    first, *rest = kept  # --k8s comes first in --help
    asked.__signature__ = inspect.Signature([context, first, *own, *rest])  # type: ignore[attr-defined]
    return asked


@command(
    help={
        **WHAT,
        "format": "text or json",
    }
)
@asks_what
def plan(
    _: Context,
    what: What,
    k8s: str = "",
    format: str = "text",  # noqa: A002 -- the option's name
) -> None:
    """Print what a build would do. Contacts nobody.

    Every source, hash, flag and deviation. Where something is left to
    "auto", the first choice is shown, and what else a build may take.

    Exit codes: 2 usage, 3 unknown release, 5 no source known.
    """
    with _terminal() as terminal:
        from datetime import datetime, timezone

        from builders.errors import UsageError
        from builders.model.releases import Facts
        from builders.model.resolve import choices, compiler_name, resolve

        if format not in ("text", "json"):
            raise UsageError(
                f"{format!r} is not a format", place="--format", next_step="use text or json"
            )
        request = what.request(k8s)
        facts = Facts(own_patches=what.own_patches)
        decided = resolve(request, facts)
        if format == "json":
            terminal.text(decided.to_json().rstrip("\n"))
            return
        first, *others = (compiler_name(*one) for one in choices(request, facts).compiler)
        time = datetime.fromtimestamp(decided.epoch, timezone.utc)
        key = decided.toolchain.key[:16]
        components: dict[str, tuple[str, ...]] = {}
        for one in decided.components:
            components[one.name] = (
                f"{one.version} from {one.source.provider} {one.source.revision}",
                f"Go {one.go}, {one.linking}, tags {' '.join(one.tags)}",
                *(
                    f"patch {p['name'].partition('-')[0]}: {p['subject']}"
                    for p in one.source.patches
                ),
                *([f"adopts running containers as {one.build}"] if one.build else []),
            )
        terminal.facts(
            {
                "kubernetes": (f"{decided.kubernetes}, commit {decided.kubernetes_commit}",),
                "variant": (f"{decided.variant}, by {decided.mechanism}",),
                "target": (f"{decided.target.name}, glibc {decided.target.glibc}",),
                "toolchain": (f"{first}, key {key}", *(f"or {other}" for other in others)),
                "clock": (f"{time:%Y-%m-%d %H:%M:%S} UTC, epoch {decided.epoch}",),
            },
            components,
            {"deviates": decided.deviations} if decided.deviations else {},
        )


@command(
    help={
        "format": "text, markdown or json",
        "k8s": "only this release, or this minor, such as v1.20",
        "proofs": "only what was really built, with source, Go, date and hash",
    }
)
def matrix(
    _: Context,
    k8s: str = "",
    format: str = "text",  # noqa: A002 -- the option's name
    proofs: bool = False,
) -> None:
    """Print every known release and what was proven of it.

    Its Go, its runc, how nokmem gets in, and when it was really built.

    Exit codes: 2 usage, 3 unknown release.
    """
    with _terminal() as terminal:
        import dataclasses
        import json

        from builders import survey
        from builders.errors import UnknownReleaseError, UsageError

        rows = [dataclasses.asdict(row) for row in survey.matrix()]
        spare: tuple[str, ...] = (
            "vendored runc",
            "source here",
            "Go",
            "runc proven",
            "runc beside",
        )
        names = {
            "kubernetes": "Kubernetes", "go": "Go", "vendored_runc": "vendored runc",
            "nokmem": "nokmem by", "runc": "runc beside", "sources": "source here",
            "proven": "proven", "runc_proven": "runc proven",
        }  # fmt: skip
        if proofs:
            words = ("component", "release", "source", "Go", "proven", "sha256", "remark")
            spare = ("sha256", "source", "Go")
            names = dict(zip(words, words, strict=True))
            rows = [dict(zip(names, row, strict=True)) for row in survey.proofs()]
        if k8s:
            name = "release" if proofs else "kubernetes"
            rows = [row for row in rows if f"{row[name]}.".startswith(f"{k8s}.")]
        if not rows:
            raise UnknownReleaseError(
                f"there is no row about Kubernetes {k8s}",
                place="--k8s",
                next_step="write v1.20 or v1.20.2; `matrix` alone has every row",
            )
        cells = [[row[name] or "-" for name in names] for row in rows]
        if format == "json":
            terminal.text(json.dumps(rows, indent=2))
        elif format == "markdown":
            for line in (list(names.values()), ["---"] * len(names), *cells):
                terminal.text(f"| {' | '.join(line)} |")
        elif format == "text":
            terminal.table(tuple(names.values()), cells, spare)
        else:
            raise UsageError(
                f"{format!r} is not a format",
                place="--format",
                next_step="use text, markdown or json",
            )


@command(
    help={
        **WHAT,
        "builder": "auto, container or rootfs",
        "dist": "folder that receives <release>/",
        "memory": "limit of the build container, such as 4g",
        "cpus": "cores that the build may use, such as 2",
        "keep": "keep the build room to look into; its entry is printed",
        "offline": "use the cache alone; what is missing is named all at once",
        "from_bundle": BUNDLE,
        "rebuild": "build anew what stands in dist already",
        "profile": "say what each phase took, beside the time before",
    }
)
@asks_what
def build(
    _: Context,
    what: What,
    k8s: str = "",
    builder: str = "",
    dist: str = "",
    memory: str = "",
    cpus: str = "",
    keep: bool = False,
    offline: bool = False,
    from_bundle: str = "",
    rebuild: bool = False,
    profile: bool = False,
) -> None:
    """Compile kubelet and runc, prove them, fill dist/.

    Both without kernel-memory accounting; they stand in dist/<release>/ then.

    Exit codes: 2 usage, 3 unknown release, 4 machine, 5 unavailable, 6 integrity,
    7 toolchain, 8 compile, 9 proof, 10 busy.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.tools.builder import Limits
        from builders.tools.terminal import elapsed

        said = what.settings.build
        limits = Limits(
            _bytes(memory or said.get("memory", "")), _cores(cpus or said.get("cpus", ""))
        )
        options = what.options(builder, limits, keep, offline, rebuild, from_bundle)
        folder = Path(dist or said.get("dist", DIST))
        built = pipeline.build(what.request(k8s), options, folder, _cache(), terminal)
        if profile:
            before = dict(built.profile_before)
            terminal.table(
                ("phase", "  took", "before"),
                (
                    (
                        title,
                        f"{elapsed(took):>6}",
                        f"{elapsed(before[title]) if title in before else '-':>6}",
                    )
                    for title, took in built.profile or built.profile_before
                ),
                ("before",),
            )
        terminal.sentence(f"{built.place}: kubelet, runc; {built.checks} checks passed")


@command(
    help={
        **WHAT,
        "k8s": "Kubernetes releases, with commas between them: v1.15.3,v1.20.2",
        "builder": "auto, container or rootfs",
        "offline": "only say what is missing",
        "from_bundle": "take all that this bundle holds, contact nobody; --k8s may be left out",
    }
)
@asks_what
def fetch(
    _: Context,
    what: What,
    k8s: str = "",
    builder: str = "",
    offline: bool = False,
    from_bundle: str = "",
) -> None:
    """Fill the cache with all that builds need.

    `build --offline` works then.

    Exit codes: 2 usage, 3 unknown release, 4 machine, 5 unavailable,
    6 integrity, 7 toolchain.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.tools.builder import Limits

        versions = [] if from_bundle and not k8s else k8s.split(",")
        requests = [what.request(version.strip()) for version in versions]
        options = what.options(builder, Limits(), offline=offline, bundle=from_bundle)
        for decided in pipeline.fetch(requests, options, _cache(), terminal):
            sources = " and ".join(
                f"{c.name} {c.version} from {c.source.provider}" for c in decided.components
            )
            terminal.sentence(
                f"{decided.kubernetes}: {sources}, Go {decided.toolchain.go[0].version}"
            )
        if from_bundle:
            terminal.sentence(f"{from_bundle}: what it holds is in the cache")


@command(
    help={
        "check": "apply each release's series to its real tree",
        "test": "run the patches' own Go tests in the tree of one --k8s",
        "k8s": "releases, with commas between them, instead of the first and last of each minor",
        "k8s_source": WHAT["k8s_source"],
        "k8s_sha256": WHAT["k8s_sha256"],
        "patches": WHAT["patches"],
        "offline": "use the cache alone",
        "format": "text or markdown",
    }
)
def patches(
    _: Context,
    check: bool = False,
    test: bool = False,
    k8s: str = "",
    k8s_source: str = "auto",
    k8s_sha256: str = "",
    patches: str = "",
    offline: bool = False,
    format: str = "text",  # noqa: A002 -- the option's name
) -> None:
    """List the patches and the releases they serve.

    With --check, apply them to each release's real tree. With --test,
    run their own Go tests in the patched tree, where it is compiled.

    Exit codes: 1 one does not apply, 2 usage, 3 unknown release,
    9 a test fails, 11 a malformed series.
    """
    with _terminal() as terminal:
        from builders import pipeline, survey
        from builders.errors import UsageError
        from builders.tools.builder import Limits

        if test and (check or not k8s or "," in k8s):
            raise UsageError(
                "the tests run in the tree of one release",
                place="--test",
                next_step="./run patches --test --k8s v1.20.2",
            )
        if format not in ("text", "markdown"):
            raise UsageError(
                f"{format!r} is not a format", place="--format", next_step="use text or markdown"
            )
        what = What(
            k8s_source=k8s_source, k8s_sha256=k8s_sha256, patches=patches, toolchain="debian"
        )
        if test:
            options = what.options("", Limits(), offline=offline)
            report = pipeline.test_patches(what.request(k8s), options, _cache(), terminal)
            columns: tuple[str, ...] = ("package", "its tests passed in")
            rows: list[tuple[str, ...]] = [(one.package, one.took) for one in report.tested]
        elif not check:
            columns = ("component", "patch", "serves", "what it does")
            rows = survey.patch_series(what.own_patches)
        else:
            versions = [v.strip() for v in k8s.split(",")] if k8s else survey.ends_of_minors()
            found = pipeline.check_patches(
                [what.request(version) for version in versions],
                what.options("", Limits(), offline=offline), _cache(), terminal,
            )  # fmt: skip
            columns = ("Kubernetes", "patches", "on its real tree")
            rows = [
                (r.kubernetes, " ".join(p.partition("-")[0] for p in r.patches) or "-", r.result)
                for r in found
            ]
        if format == "markdown":
            for line in (columns, ["---"] * len(columns), *rows):
                terminal.text(f"| {' | '.join(line)} |")
        else:
            terminal.table(columns, rows)
        if test:
            added, own = report.costs["adoption"], report.costs["upstream"]
            terminal.text(
                f"a look at a container: adoption adds {added:.0f} ns to upstream's {own:.0f} ns, "
                f"{added / own:.2f}"
            )
        if check and not all(row.applied for row in found):
            raise Exit(code=1)


@command(
    help={
        "dist": "a folder that a build has made, such as dist/v1.20.2",
        "from_bundle": "a bundle instead: each file of it, and its dist folders",
    }
)
def verify(_: Context, dist: str = "", from_bundle: str = "") -> None:
    """Prove a dist folder again.

    Files, hashes, architecture, libraries, version, nokmem.

    Exit codes: 2 usage, 3 unknown release, 5 no such bundle, 6 integrity,
    9 proof.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.errors import UsageError

        if from_bundle and dist:
            raise UsageError(
                "what is proven is either a dist folder or a bundle",
                place="--dist, --from-bundle",
                next_step="./run verify --from-bundle nokmem.tar",
            )
        if from_bundle:
            about, found = pipeline.verify_bundle(Path(from_bundle), _cache(), terminal)
            terminal.table(("", "what", "found"), (("pass", *row) for row in found))
            for words in about.made_for:
                terminal.sentence(f"made for: {words}")
            terminal.sentence(f"{from_bundle}: whole, each file is as its index says")
            return
        described, report = pipeline.verify(_folder(dist))
        terminal.table(
            ("", "binary", "check", "found"),
            (
                ("pass" if check.passed else "FAIL", check.binary, check.name, check.found)
                for check in report.checks
            ),
        )
        if not report.passed:
            error = pipeline.proof_error(report, dist)
            error.detail = ()  # the table has just said it
            if described.data["variant"] == "stock":
                error.next_step = "nothing: by its manifest this is the control, which must fail"
            raise error
        terminal.sentence(f"{dist}: {len(report.checks)} checks passed")


@command(
    help={
        "dist": "a folder that a build has made, such as dist/v1.20.2",
        "release": "the packages' release instead of 1, such as 2.site",
        "sign": "the key of your GnuPG keyring to sign with, by its fingerprint",
        "builder": "auto, container or rootfs",
        "offline": "take everything from the cache, contact nobody",
        "from_bundle": BUNDLE,
    }
)
def package(
    _: Context,
    dist: str = "",
    release: str = "",
    sign: str = "",
    builder: str = "",
    offline: bool = False,
    from_bundle: str = "",
) -> None:
    """Make the RPMs of a proven dist folder.

    They are put into it, its manifest names them. None if `verify` refuses it.

    Exit codes: 2 usage, 4 machine, 5 unavailable, 7 toolchain, 9 proof, 10 busy,
    12 package.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.tools.builder import Limits

        options = What().options(builder, Limits(), offline=offline, bundle=from_bundle)
        made = pipeline.package(_folder(dist), release, sign, options, _cache(), terminal)
        for one in made:
            by = f"signed by {one.signed_by}" if one.signed_by else "not signed"
            terminal.sentence(f"{one.path}: {one.size / 1e6:.1f} MB, {by}")


@command(
    help={
        "dist": "a folder that a build has made, such as dist/v1.20.2",
        "k8s_source": "the same source again, where it was a folder or an archive's file or URL",
        "runc_source": "likewise",
        "patches": "folder with the series of your own that was applied",
        "builder": "auto, container or rootfs",
        "offline": "take everything from the cache, contact nobody",
        "from_bundle": BUNDLE,
    }
)
def reproduce(
    _: Context,
    dist: str = "",
    k8s_source: str = "auto",
    runc_source: str = "auto",
    patches: str = "",
    builder: str = "",
    offline: bool = False,
    from_bundle: str = "",
) -> None:
    """Build a dist folder again and compare.

    From its manifest alone; of packages, all but the signatures.

    Exit codes: as build and package; 9 where a byte differs.
    """
    with _terminal() as terminal:
        import tempfile

        from builders import pipeline
        from builders.errors import ProofError
        from builders.steps import manifest
        from builders.tools.builder import Limits

        place = _folder(dist)
        options = What(patches=patches).options(
            builder, Limits(), offline=offline, bundle=from_bundle
        )
        options = _again(options, manifest.read(place).request, k8s_source, runc_source)
        with tempfile.TemporaryDirectory(prefix="nokmem-again-") as work:
            rows = pipeline.reproduce(place, Path(work), options, _cache(), terminal)
        columns = ("", "file", "sha256", "again")
        said = {True: "same", False: "DIFFERS"}
        terminal.table(columns, ((said[r.same], r.name, r.there[:16], r.again[:16]) for r in rows))
        others = [row for row in rows if not row.same]
        if others:
            raise ProofError(
                f"{', '.join(row.name for row in others)}: not the same again",
                place=dist,
                next_step="" if others[0].why else "apt-get install diffoscope explains it",
                detail=others[0].why,
            )
        terminal.sentence(f"{dist}: all {len(rows)} files are the same again")


@command(
    help={
        "dist": "dist folders with packages, separated by commas",
        "folder": "the repository",
        "url": "where nodes will find that folder, such as https://yum.example/nokmem; "
        "without it, as before",
        "sign": "the key of your GnuPG keyring that signed the packages",
    }
)
def repo(_: Context, dist: str = "", folder: str = "repo", url: str = "", sign: str = "") -> None:
    """Add packages of dist folders to a yum repository.

    What is there stays; readers see the old index or the new one.

    Exit codes: 2 usage, 4 machine, 9 proof, 10 busy, 12 package.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.steps.repository import address
        from builders.tools.builder import Limits

        dists = [_folder(word.strip()) for word in dist.split(",")]
        where = address(Path(folder), url)
        options = What().options("", Limits())
        added, count = pipeline.repo(dists, Path(folder), where, sign, options, terminal)
        said = "signed" if sign else "not signed"
        terminal.sentence(f"{folder}: {count} packages, {added} of them new; {said}; {where}")


@command(
    help={
        **WHAT,
        "k8s": "Kubernetes releases to build there, with commas between them: v1.15.3,v1.20.2",
        "dist": "proven dist folders to bring along, separated by commas",
        "output": "the bundle",
    }
)
@asks_what
def bundle(
    _: Context, what: What, k8s: str = "", dist: str = "", output: str = "nokmem.tar"
) -> None:
    """Pack all that a machine without network needs.

    The project, its Python packages, sources, Go and toolchain of builds, and
    dist folders; one file, for `--from-bundle`.

    Exit codes: 2 usage, 3 unknown release, 4 machine, 5 unavailable, 6 integrity,
    9 proof, 12 a signature.
    """
    with _terminal() as terminal:
        from builders import pipeline
        from builders.errors import UsageError
        from builders.tools.builder import Limits
        from builders.tools.terminal import size

        if not k8s and not dist:
            raise UsageError(
                "nothing is named that the bundle is for",
                place="--k8s, --dist",
                next_step="./run bundle --k8s v1.20.2 --dist dist/v1.20.2 --output nokmem.tar",
            )
        versions = [version.strip() for version in k8s.split(",")] if k8s else []
        made = pipeline.bundle(
            [what.request(version) for version in versions],
            [_folder(word.strip()) for word in dist.split(",")] if dist else [],
            Path(output), ROOT, what.options("", Limits()), _cache(), terminal,
        )  # fmt: skip
        for words in made.about.made_for:
            terminal.sentence(f"for: {words}")
        terminal.sentence(f"{output}: {size(made.size)}, sha256 {made.sha256}")


@command(
    help={
        "to": "a folder, s3://bucket/prefix, https://host/path, github:owner/name@tag or "
        "oci://registry/name:tag",
        "dist": "a folder that a build has made, such as dist/v1.20.2",
        "repo": "a folder with a yum repository, instead",
        "dry_run": "only say what would be sent, kept or refused",
    }
)
def publish(
    _: Context, to: str = "", dist: str = "", repo: str = "", dry_run: bool = False
) -> None:
    """Put a proven dist folder where others get it.

    Or a yum repository. What is there already is kept, what is there with other
    content is never replaced, and what makes the rest visible is sent last.

    Exit codes: 2 usage, 4 machine, 9 proof, 10 busy, 13 publish.
    """
    with _terminal() as terminal:
        from contextlib import closing

        from builders import pipeline
        from builders.errors import UsageError
        from builders.steps.publish import refuse
        from builders.tools import targets
        from builders.tools.terminal import size

        if bool(dist) == bool(repo):
            raise UsageError(
                "what is published is either a dist folder or a repository",
                place="--dist, --repo",
                next_step="./run publish --dist dist/v1.20.2 --to s3://bucket/prefix",
            )
        with closing(targets.named(to, os.environ)) as target:
            rows, changed = pipeline.publish(
                Path(dist or repo), target, terminal, is_repository=bool(repo), dry_run=dry_run
            )
            terminal.table(
                ("", "    size", "file"),
                ((row.fate, f"{size(row.item.size):>8}", row.item.place) for row in rows),
            )
            if dry_run:
                refuse(rows, target)
            sent = sum(row.fate == "sent" for row in rows)
            if dry_run:
                said = f"would send {sent} of {len(rows)} files"
            elif changed:
                said = f"{sent} of {len(rows)} files sent, all are there"
            else:
                said = f"nothing to send, all {len(rows)} files are there"
            terminal.sentence(f"{target.place}: {said}")


@command(help={"dist": "folder that would receive <release>/"})
def doctor(_: Context, dist: str = "") -> None:
    """Say what this machine can do, and why not.

    Builders, sources, disk, memory.

    Exit codes: 4 this machine cannot build.
    """
    with _terminal() as terminal:
        from builders import survey
        from builders.errors import MachineError
        from builders.steps import examine

        said = _settings()
        folder = Path(dist or said.build.get("dist", DIST))
        findings = survey.doctor(_cache(), folder, said.environment(os.environ))
        lacking = examine.lacking(findings)
        terminal.table(
            ("", "what", "found"),
            (
                ("ok" if row.ok else "no" if row in lacking else "-", row.name, row.found)
                for row in findings
            ),
        )
        missing = [row for row in findings if not row.ok]
        if missing:
            terminal.text("")
            terminal.table(("what", "next step"), ((row.name, row.next_step) for row in missing))
        terminal.text("")
        if lacking:
            raise MachineError(
                "this machine cannot build yet",
                place=", ".join(row.name for row in lacking),
                next_step="mend what is listed above, then run doctor again",
            )
        silent = any(row.optional for row in missing)
        terminal.sentence(
            "this machine can build" + (", from the sources that are ok" if silent else "")
        )


@command(default=True, help={"files": "name every file instead of their sum"})
def show(_: Context, files: bool = False) -> None:
    """Say what the cache keeps, and what is still needed."""
    with _terminal() as terminal:
        from builders import survey

        cache = _cache()
        rows = _rows(survey.cache_rows(cache), files)
        terminal.text(f"{cache.root}")
        terminal.table(ROWS, rows)


@command(
    help={
        "everything": "remove what is still needed too",
        "dry_run": "only say what would go",
    }
)
def prune(_: Context, everything: bool = False, dry_run: bool = False) -> None:
    """Remove what no known release needs any more.

    From the cache, and from the engine.

    Exit codes: 10 a build is running.
    """
    with _terminal() as terminal:
        from builders import survey
        from builders.tools.terminal import size

        gone = survey.prune(_cache(), everything=everything, dry_run=dry_run)
        terminal.table(ROWS, _rows(gone, False))
        total = size(sum(row.size for row in gone))
        what = "1 thing" if len(gone) == 1 else f"{len(gone)} things"
        terminal.sentence(f"{'would remove' if dry_run else 'removed'} {what}, {total}")


@command(
    help={
        "write": "write what was found instead of only comparing",
        "kubernetes": "a repository of kubernetes, to read the facts of its releases again",
        "runc": "a repository of opencontainers/runc, likewise",
        "golang": "a repository of docker-library/golang, for the hashes of Go's archives",
    }
)
def pins(
    _: Context, write: bool = False, kubernetes: str = "", runc: str = "", golang: str = ""
) -> None:
    """Read the pinned facts anew, print what differs.

    Without a repository: toolchain and distribution sources, against the lock.
    Given repositories: the evidence in them, against the data.

    Exit codes: 1 they differ, 2 no repository, 4 no apt, 5 unavailable,
    6 integrity.
    """
    with _terminal() as terminal:
        import difflib

        from builders import survey

        if kubernetes or runc or golang:
            origin = "upstream"
            found = survey.reread(*(Path(x) if x else None for x in (kubernetes, runc, golang)))
        else:
            origin = "the archive"
            found = dict([survey.relock(_settings().environment(os.environ))])
        differ = False
        for path, text in found.items():
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            name = str(path.relative_to(ROOT))
            difference = difflib.unified_diff(
                old.splitlines(),
                text.splitlines(),
                f"{name} (written)",
                f"{name} ({origin.removeprefix('the ')})",
                lineterm="",
            )
            for line in difference:
                terminal.text(line)
            if write:
                path.write_text(text, encoding="utf-8")
            terminal.say(f"{name}: {'as' if old == text else 'differs from'} {origin}")
            differ = differ or old != text
        if differ and not write:
            raise Exit(code=1)


@command(
    help={
        "everything": "all levels, and what cannot run is a failure",
        "level": "only one level: unit, integration or e2e",
        "select": "only tests whose names match (pytest -k)",
    }
)
def test(_: Context, everything: bool = False, level: str = "", select: str = "") -> None:
    """Run unit and integration tests.

    With --everything the real builds too.

    Exit codes: pytest's own, 2 usage.
    """
    from builders.tools import process

    levels = ("unit", "integration", "e2e")
    if level and level not in levels:
        raise Exit(f"usage: {level!r} is not a level: use one of {', '.join(levels)}", code=2)
    chosen = (level,) if level else levels if everything else levels[:2]
    words = [_tool("pytest"), *(f"tests/{name}" for name in chosen)]
    words += ["--everything"] if everything else []
    words += ["-k", select] if select else []
    raise Exit(code=process.attached(words, cwd=ROOT))


@command()
def lint(_: Context) -> None:
    """Check style, types, imports, scripts, CI files.

    Dockerfiles too, and that the lowest supported Python suffices.

    Exit codes: 1 a check failed, 4 shellcheck is not installed.
    """
    from builders.tools import process

    shellcheck = process.find("shellcheck")
    if shellcheck is None:
        raise Exit(f"shellcheck is missing: {process.install_hint('shellcheck')}", code=4)
    scripts = ["run", ".ci/run", *(str(p.relative_to(ROOT)) for p in ROOT.glob("[!.]*/**/*.sh"))]
    ours = ("tasks.py", "builders", "rollout")
    dockerfiles = [str(p.relative_to(ROOT)) for p in ROOT.glob("dockerfiles/*/Dockerfile")]
    schema = [_tool("check-jsonschema"), "--quiet", "--builtin-schema"]
    commands = (
        [_tool("ruff"), "check", "."],
        [_tool("ruff"), "format", "--check", "."],
        [_tool("mypy")],
        [_tool("lint-imports")],
        [_tool("vermin"), "--no-tips", "--target=3.10-", "--violations", *ours],
        [shellcheck, *scripts],
        [_tool("hadolint"), *dockerfiles],
        [*schema, "vendor.github-workflows", "docs/ci/github.yml"],
        [*schema, "vendor.gitlab-ci", "--data-transform=gitlab-ci", "docs/ci/gitlab.yml"],
    )  # fmt: skip
    failed = [
        Path(command[0]).name for command in commands if process.attached(command, cwd=ROOT) != 0
    ]
    if failed:
        raise Exit(f"lint: {', '.join(failed)} found something", code=1)


@command()
def audit(_: Context) -> None:
    """Ask what vulnerabilities our packages have.

    OSV is asked for the packages in requirements/dev.txt; run.txt has no other.

    Exit codes: 1 a vulnerability is known, 4 pip-audit is not installed,
    5 the service does not answer.
    """
    with _terminal() as terminal:
        from builders.tools import advisories

        requirements = ROOT / "requirements/dev.txt"
        count, found = advisories.known(_tool("pip-audit"), requirements, os.environ)
        if found:
            rows = [(a.package, a.version, a.id, " ".join(a.fixed) or "none yet") for a in found]
            terminal.table(("package", "version", "vulnerability", "mended in"), rows)
            raise Exit(code=1)
        terminal.sentence(f"{count} packages, no vulnerability is known of any")


def _tool(name: str) -> str:
    """A program of the environment that runs this, or a word on how to get it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise Exit(f"{name} is not in {path.parent}: ./run test, lint and audit bring it", code=4)
    return str(path)


ROWS = ("kind", "    size", "needed", "name")


def _rows(rows: Iterable[Row], files: bool) -> list[tuple[str, str, str, str]]:
    """Rows as text; files summed up unless asked for one by one."""
    from builders.tools.terminal import size

    def row(kind: str, count: int, needed: bool, name: str) -> tuple[str, str, str, str]:
        short = name if files or len(name) != 64 else name[:16]  # a key, as the plan shows it
        return kind, f"{size(count):>8}", "yes" if needed else "no", short

    found = [row(r.kind, r.size, r.needed, r.name) for r in rows if files or r.kind != "file"]
    for needed in (True, False):
        group = [r for r in rows if r.kind == "file" and r.needed is needed]
        if group and not files:
            found.append(row("file", sum(r.size for r in group), needed, f"{len(group)} files"))
    return found


def _source(component: str, word: str, sha256: str) -> tuple[str, tuple[OwnArchive, ...], str]:
    """The provider that a --...-source names, the archive, where it is one, and its place."""
    import re

    from builders.errors import UsageError
    from builders.model.plan import PROVIDERS
    from builders.model.settings import own_archive

    option = "--k8s-sha256" if component == "kubernetes" else "--runc-sha256"
    sha256 = sha256.lower()
    place, file, folder = bool(word) and word not in PROVIDERS, False, False
    with suppress(OSError):  # what is too long for a name is no place
        file, folder = Path(word).is_file(), Path(word).is_dir()
    archive = place and ("://" in word or file)
    if archive and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(
            f"an archive needs its sha256{f', {sha256!r} is none' if sha256 else ''}",
            place=option,
            next_step="give the 64 hexadecimal digits that its publisher names; the address of a "
            f"repository goes into NOKMEM_{component.upper()}_REPOSITORY",
        )
    if sha256 and not archive:
        raise UsageError(
            f"there is no archive for this hash: {word!r} is no file and no URL",
            place=option,
            next_step=f"name the archive with {option.replace('sha256', 'source')}",
        )
    if archive:
        return "archive", (own_archive(component, "", word, sha256),), word
    if place and folder:
        return "dir", (), word
    return word, (), ""


def _again(options: Options, request: BuildRequest, kubernetes: str, runc: str) -> Options:
    """The options with the places of those sources of which a manifest has only what they are."""
    from builders.errors import UsageError

    folders, archives = dict(options.places.folders), dict(options.places.archives)
    for option, word, component, version, kind in (
        ("--k8s-source", kubernetes, "kubelet", request.kubernetes, request.kubernetes_source),
        ("--runc-source", runc, "runc", request.runc, request.runc_source),
    ):
        own = request.archive(component.replace("kubelet", "kubernetes"), version)
        if word in ("auto", kind):
            continue
        if kind == "dir":
            folders[component] = Path(word)
        elif kind == "archive" and own:
            archives[own.sha256] = word
        else:
            raise UsageError(
                f"by its manifest the source of {component} was {kind}, which needs no place",
                place=option,
                next_step="leave it out",
            )
    places = dataclasses.replace(options.places, folders=folders, archives=archives)
    return dataclasses.replace(options, places=places)


def _settings() -> Settings:
    """What nokmem.toml says: the one that NOKMEM_CONFIG names, else the one in this folder."""
    from builders.errors import UsageError
    from builders.model.settings import Settings, parse

    named = os.environ.get("NOKMEM_CONFIG")
    place = Path(named or "nokmem.toml").absolute()
    try:
        return parse(place.read_text(encoding="utf-8"), place)
    except FileNotFoundError as error:
        if not named:
            return Settings()
        raise UsageError(
            "there is no such file", place=f"NOKMEM_CONFIG={named}", next_step="mend the variable"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"this is not UTF-8: {error.reason}", place=str(place), next_step="save it as UTF-8"
        ) from error


def _bytes(text: str) -> int | None:
    import re

    from builders.errors import UsageError

    if not text:
        return None
    match = re.fullmatch("([0-9]{1,6})([mgMG])", text)
    size = int(match[1]) << (20 if match[2] in "mM" else 30) if match else 0
    if size < LEAST_MEMORY:
        raise UsageError(
            f"{text!r} is not a size of at least {LEAST_MEMORY >> 20}m",
            place="--memory",
            next_step="write 4g or 900m",
        )
    return size


def _cores(text: str) -> float | None:
    import re

    from builders.errors import UsageError

    if not text:
        return None
    count = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else 0
    if not 0.1 <= count <= 1024:
        raise UsageError(
            f"{text!r} is not a count of cores from 0.1 to 1024",
            place="--cpus",
            next_step="write 2",
        )
    return count


def _cache() -> Cache:
    from builders.tools.cache import Cache

    return Cache.default(os.environ)


def _interrupt(number: int, _frame: object) -> None:
    """The first signal ends what is under way; the second leaves the cleaning alone; from the third
    on each ends the process, and the next run cleans up."""
    for one in SIGNALS:
        if signal.getsignal(one) is _interrupt:
            signal.signal(one, _patience)
    raise KeyboardInterrupt(signal.Signals(number).name)


def _patience(_number: int, _frame: object) -> None:
    for one in SIGNALS:
        if signal.getsignal(one) is _patience:
            signal.signal(one, signal.SIG_DFL)


def _folder(dist: str) -> Path:
    from builders.errors import UsageError

    if not dist:
        raise UsageError("no folder is named", place="--dist", next_step="write dist/v1.20.2")
    return Path(dist)


@contextmanager
def _terminal() -> Iterator[Terminal]:
    """A terminal, and the way from errors and signals to exit codes. From here on nothing that is
    made can be written by others, whatever the umask was."""
    from builders.errors import INTERRUPTED_EXIT_CODE, MachineError, NokmemError
    from builders.tools.terminal import Terminal

    terminal = Terminal(ci=bool(os.environ.get("CI")), ascii=bool(sys.flags.utf8_mode))
    os.umask(os.umask(0o077) | 0o022)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, _interrupt)
    try:
        yield terminal
    except NokmemError as error:
        terminal.error(error.kind, error.fact, error.place, error.next_step, error.detail)
        raise Exit(code=error.exit_code) from error
    except OSError as error:
        place = str(error.filename or error.strerror)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some room" if full else "look at the owner and the rights of that place"
        terminal.error("machine", error.strerror or str(error), place, advice, ())
        raise Exit(code=MachineError.exit_code) from error
    except KeyboardInterrupt as error:
        terminal.error("interrupted", str(error) or "SIGINT", "", "run the same command again", ())
        raise Exit(code=INTERRUPTED_EXIT_CODE) from error
    finally:
        sys.stdout.flush()


namespace = Collection(
    plan,
    matrix,
    build,
    fetch,
    patches,
    verify,
    reproduce,
    package,
    repo,
    bundle,
    publish,
    doctor,
    pins,
    test,
    lint,
    audit,
)
namespace.add_collection(Collection("cache", show, prune))

if __name__ == "__main__":
    from builders.tools.front import Front

    Front(namespace=namespace, name="nokmem", binary="./run").run()
