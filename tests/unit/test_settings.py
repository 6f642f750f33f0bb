"""nokmem.toml: what it says reaches the build, and a mistake in it is named with its line."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from invoke.context import Context

import tasks
from builders import pipeline, survey
from builders.errors import UsageError
from builders.model.plan import BuildRequest, OwnArchive
from builders.model.settings import VARIABLES, Settings, own_archive, parse
from builders.steps import sources
from builders.steps.sources import Places
from builders.supply import Options
from builders.tools.cache import Cache
from builders.tools.terminal import Terminal

PLACE = Path("/home/user/site/nokmem.toml")
GOOD = f"""
[mirrors]
kubernetes = "https://git.example/kubernetes.git"
go = ["archives", "https://mirror.example/go/"]

[archives.go."1.12.9"]
place = "go1.12.9.tar.gz"
sha256 = "{"a" * 64}"

[archives.runc]
"v1.0.0-rc9" = {{ place = "https://u:p@mirror.example/runc.tar.gz?token=t", sha256 = "{"b" * 64}" }}

[build]
builder = "rootfs"
dist = "out"
"""


def test_what_it_says_is_there_under_its_variables_and_options() -> None:
    found = parse(GOOD, PLACE)
    assert found.mirrors == {
        "NOKMEM_KUBERNETES_REPOSITORY": "https://git.example/kubernetes.git",
        "NOKMEM_GO_MIRROR": "/home/user/site/archives https://mirror.example/go/",
    }
    assert found.archives == (
        own_archive("go", "1.12.9", "go1.12.9.tar.gz", "a" * 64),
        own_archive("runc", "1.0.0-rc9", "runc.tar.gz", "b" * 64),
    )
    assert found.places["a" * 64] == "/home/user/site/go1.12.9.tar.gz"
    assert found.build == {"builder": "rootfs", "dist": "/home/user/site/out"}


def test_the_environment_wins_unless_it_is_empty() -> None:
    mirrors = parse(GOOD, PLACE)
    name = "NOKMEM_KUBERNETES_REPOSITORY"
    assert mirrors.environment({name: "x", "HOME": "/h"})[name] == "x"
    assert mirrors.environment({name: ""})[name] == "https://git.example/kubernetes.git"
    assert Settings().environment({"HOME": "/h"}) == {"HOME": "/h"}


def test_no_password_and_no_query_is_in_an_archives_name() -> None:
    name = own_archive("go", "1.12.9", "https://u:secret@h.example/d/go.tar.gz?t=secret", "").name
    assert name == "go.tar.gz"


MISTAKES = {
    "no TOML": ("[build\nbuilder = 1", "is not TOML", "nokmem.toml", "mend that line"),
    "no such table": ("[mirror]\n", "unknown key 'mirror'", ":1", "mirrors, archives, build"),
    "no such mirror": ("[mirrors]\n\ngit = 'x'", "mirrors.git: unknown", ":3", "kubernetes, runc"),
    "no such option": ("[build]\nbuildr = 'x'", "build.buildr: unknown", ":2", "builder, toolchain"),
    "no such builder": ("[build]\n# a\nbuilder = 'podman'", "build.builder", ":3", "container"),
    "a blank in a mirror": ("[mirrors]\ngo = '/a b'", "mirrors.go", ":2", "reference.md"),
    "an empty list": ("[mirrors]\nrunc = []", "mirrors.runc", ":2", "reference.md"),
    "no hash": (
        "[archives.go.'1.12.9']\nplace = 'x'", "'sha256' is a required", ":1", "reference.md"
    ),
    "half a hash": (
        "[archives.go.'1.12.9']\nplace = 'x'\nsha256 = 'ab'", "1.12.9.sha256", ":3", "reference.md"
    ),
    "too long a number": ("[build]\nmemory = " + "1" * 5000, "is not TOML", "toml", "mend"),
    "no end of brackets": ("a = " + "[" * 100_000, "is not TOML", "nokmem.toml", "mend that line"),
    "a hash and a line's end": (
        f"[archives.go.1]\nplace = 'x'\nsha256 = \"{'a' * 64}\\n\"", "1.sha256", ":3", "reference.md"
    ),
    "a mirror and a line's end": ("[mirrors]\nrunc = \"/x\\n\"", "mirrors.runc", ":2", "reference.md"),
    "a zero byte": ("[mirrors]\nrunc = \"/x\\u0000\"", "mirrors.runc", ":2", "reference.md"),
    "a zero byte in dist": ("[build]\ndist = \"\\u0000\"", "build.dist", ":2", "reference.md"),
    "an archive's URL that is none": (
        f"[archives.go.1]\nplace = 'http://[h/x'\nsha256 = '{'a' * 64}'", "not the URL", "archive", "%xx"
    ),
    "a number": ("[build]\nmemory = 4", "build.memory: 4 is not of type", ":2", "reference.md"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(
    mistake: tuple[str, str, str, str],
) -> None:
    content, fact, place, advice = mistake
    with pytest.raises(UsageError) as caught:
        parse(content, PLACE)
    assert fact in caught.value.fact
    assert caught.value.place.endswith(place)
    assert advice in caught.value.next_step


def test_every_mirror_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[2] / "docs/reference.md").read_text()
    for key, variable in VARIABLES.items():
        assert f"`mirrors.{key}`" in reference and f"`{variable}`" in reference


@pytest.mark.parametrize(
    "content",
    [
        "[mirrors]\ngo = 'https://u:secret@h/x y'",
        "mirrors = 'https://u:secret@h/x'",
        "[archives]\ngo = 'https://u:secret@h/x'",
        "[build]\nbuilder = 'https://u:secret@h/x'",
        f"[archives.go.1]\nplace = 'https://u:12/secret@h'\nsha256 = '{'a' * 64}'",
    ],
)
def test_a_mistake_beside_a_password_is_named_without_it(content: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(content, PLACE)
    assert "secret" not in str(vars(caught.value))


def test_what_is_named_again_is_known_by_what_the_manifest_has() -> None:
    """An archive by its hash, which nobody has to type; a folder by its commit."""
    own = (OwnArchive("kubernetes", "v1.15.3", "k.tar.gz", "1" * 64),)
    request = BuildRequest(
        "v1.15.3", runc="1.0.0-rc9", kubernetes_source="archive", runc_source="dir", own=own
    )
    found = tasks._again(Options(Places({})), request, "near/k.tar.gz", "runc").places
    assert found == Places({}, {"runc": Path("runc")}, {"1" * 64: "near/k.tar.gz"})
    assert tasks._again(Options(Places({})), request, "auto", "auto") == Options(Places({}))
    with pytest.raises(UsageError, match="the source of runc was git, which needs no place"):
        tasks._again(Options(Places({})), BuildRequest("v1.15.3", runc_source="git"), "auto", "x")


def test_a_folder_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    kubelet = pipeline.plan(BuildRequest("v1.15.3", kubernetes_source="dir")).components[1]
    with pytest.raises(UsageError, match="from a folder, and none is named") as caught:
        sources.provider(kubelet, Cache(tmp_path), Places({}), print)
    assert caught.value.place == "--k8s-source"


@pytest.mark.parametrize(("dist", "looked_at"), [("", "{}/out"), ("here", "here")])
def test_doctor_looks_at_the_folder_that_a_build_would_fill(
    dist: str, looked_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nokmem.toml").write_text('[build]\ndist = "out"\n')
    monkeypatch.setenv("NOKMEM_CONFIG", str(tmp_path / "nokmem.toml"))
    monkeypatch.setenv("NOKMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks, "_terminal", lambda: nullcontext(Terminal(ci=True)))
    seen: list[Path] = []

    def look(_: Cache, folder: Path, __: object) -> tuple[()]:
        seen.append(folder)
        return ()

    monkeypatch.setattr(survey, "doctor", look)
    tasks.doctor(Context(), dist=dist)
    assert seen == [Path(looked_at.format(tmp_path))]
