"""The container builder: a Docker engine, local or remote, by docker-py.

Nothing is bind-mounted and nothing is privileged: files travel as tar streams, the work
folder is an anonymous volume that goes with its container, Go's build cache a named one.
"""

from __future__ import annotations

import grp
import io
import os
import pwd
import re
import stat
import tarfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import docker
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import APIError, BuildError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount
from docker.utils.socket import frames_iter
from urllib3.exceptions import HTTPError

from builders.errors import (
    IntegrityError,
    MachineError,
    NokmemError,
    ToolchainError,
    UnavailableError,
)
from builders.tools import memory, rootfs
from builders.tools.builder import BUILDER_ID, GO_CACHE, WORK, Kept, Limits, Recipe
from builders.tools.cache import Cache, surely
from builders.tools.download import scrubbed
from builders.tools.process import TAIL_LINES, OnLine, Result

LABEL = "io.nokmem"
SOCKET = "unix:///var/run/docker.sock"
VOLUME = "nokmem-go-"
#: Hex digits of a toolchain's key in the names of its image and its volume.
KEY_LENGTH = 16
CHUNK = 2 << 20
CONFLICT = 409
#: docker-py speaks nothing older; Docker 19.03 is the oldest with this API.
MINIMUM_API = (1, 40)
PROBE_TIMEOUT = 10
ENGINE_TIMEOUT = 3600
#: How engines say that a registry gave other bytes than a digest stands for: moby's own store,
#: containerd's.
OTHER_CONTENT = re.compile("verification failed for digest|unexpected commit digest")
#: What a connection that ends lets out of docker-py, which reads some answers by urllib3 alone.
GONE = (DockerException, requests.RequestException, HTTPError, ConnectionError)
#: Letters of an engine's words that fit into a reason.
SHORT = 160


def why_not() -> MachineError | None:
    """None where an engine answers, else what it said and what would help."""
    try:
        client = _connect(PROBE_TIMEOUT)
    except MachineError as error:
        return error
    client.close()
    return None


def _connect(timeout: int) -> docker.DockerClient:
    """A client that speaks the engine's own API version."""
    where = os.environ.get("DOCKER_HOST") or SOCKET
    try:
        probe = docker.from_env(timeout=PROBE_TIMEOUT, version=DEFAULT_DOCKER_API_VERSION)
        try:
            api = str(probe.version(api_version=False)["ApiVersion"])
        finally:
            probe.close()
    except (DockerException, requests.RequestException, OSError) as error:
        if "Permission denied" in str(error):
            raise _kept_out(where) from error
        raise MachineError(
            "no engine answers",
            place=where,
            next_step="start the engine (systemctl start docker) or set DOCKER_HOST",
        ) from error
    if tuple(int(part) for part in api.split(".")) < MINIMUM_API:
        raise MachineError(
            f"the engine speaks API {api}; {MINIMUM_API[0]}.{MINIMUM_API[1]} is the oldest usable",
            place=where,
            next_step="use Docker 19.03 or later",
        )
    return docker.from_env(timeout=timeout, version=api)


def _is_here() -> bool:
    return (os.environ.get("DOCKER_HOST") or SOCKET).startswith("unix://")


def _kept_out(where: str) -> MachineError:
    """Whom the engine's socket lets in, and how to be one of them."""
    rights, step = "", "run as root, or as a user whom the engine lets in"
    with suppress(OSError, KeyError):
        socket = Path(where.removeprefix("unix://")).stat()
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(socket.st_gid).gr_name
        rights = f", {user}, in: {stat.filemode(socket.st_mode)}, group {group}"
        if socket.st_mode & stat.S_IWGRP and socket.st_gid:
            step = f"usermod --append --groups {group} {user}, log in again, then run it again"
    fact = f"the engine does not let this user{rights or ' in'}: permission denied"
    return MachineError(fact, place=where, next_step=step)


class ContainerBuilder:
    """Toolchain images and sessions on one engine."""

    name = "container"

    def __init__(self, cache: Cache) -> None:
        self._client = _connect(ENGINE_TIMEOUT)
        self._cache = cache

    def close(self) -> None:
        self._client.close()

    def has(self, key: str) -> bool:
        with _translated("looking for the toolchain image"):
            return _held(self._client, _image(key))

    def answer(self, base: str) -> str | None:
        with _translated("looking for the base image"), closing(_connect(PROBE_TIMEOUT)) as probe:
            if _held(probe, base):
                return None
            try:
                probe.api.inspect_distribution(base)  # type: ignore[no-untyped-call]
            except requests.Timeout:
                return f"the registry does not answer within {PROBE_TIMEOUT} s"
            except APIError as error:
                return f"the registry does not give the base image: {_short(error)}"
        return None

    def make(self, key: str, recipe: Recipe, on_line: OnLine) -> None:
        with self._cache.scratch() as scratch, _translated("building the toolchain image"):
            context = scratch / "context.tar"
            pulled = False
            try:
                with tarfile.open(context, "w") as tar:
                    tar.add(recipe.dockerfile, "Dockerfile")
                    for name, content in recipe.files.items():
                        if isinstance(content, Path):
                            tar.add(content, name)
                        else:
                            member = tarfile.TarInfo(name)
                            member.size = len(content)
                            tar.addfile(member, io.BytesIO(content))
                if recipe.base:
                    pulled = self._pull(recipe.base, on_line)
                with context.open("rb") as file:
                    self._build(key, recipe, file, on_line)
            finally:
                with suppress(*GONE):
                    self._client.images.prune({"dangling": True, "label": f"{LABEL}.stage"})
                if pulled:  # the toolchain keeps its layers, and nothing else would know of it
                    with suppress(*GONE):
                        self._client.images.remove(recipe.base)

    def _pull(self, base: str, on_line: OnLine) -> bool:
        """Have the base image in the engine; True where it was not there before."""
        if _held(self._client, base):
            return False
        on_line(f"pulling {base}")
        problem = self.answer(base)  # a pull waits for a silent registry without end
        if problem is None:
            try:
                for event in self._client.api.pull(base, stream=True, decode=True):
                    problem = event.get("error") or problem
            except APIError as error:
                problem = str(error.explanation or error)
            if problem is None:
                return True
            problem = f"the base image cannot be pulled: {_short(problem)}"
        if OTHER_CONTENT.search(problem):
            raise IntegrityError(
                problem,
                place=base,
                next_step="name another registry with NOKMEM_BASE_IMAGE; what this one gives is "
                "not what was pinned",
            )
        raise UnavailableError(
            problem,
            place=base,
            next_step="name a mirror with NOKMEM_BASE_IMAGE, or use --toolchain debian",
        )

    def _build(self, key: str, recipe: Recipe, context: io.BufferedReader, on_line: OnLine) -> None:
        tail: list[str] = []
        failed = False
        stream = self._client.api.build(
            fileobj=context,
            custom_context=True,
            tag=_image(key),
            buildargs={"BUILDER_ID": str(BUILDER_ID), **recipe.arguments},
            labels={f"{LABEL}.toolchain": key},
            network_mode=None if recipe.network else "none",
            rm=True,
            forcerm=True,
            decode=True,
        )
        rest = ""
        for event in stream:  # to its end, or its connection would stay open
            *lines, rest = (rest + event.get("stream", "")).split("\n")
            if "error" in event:
                failed = True
                lines += [rest, event["error"]]
            for line in scrubbed("\n".join(lines)).splitlines():
                if line.strip():
                    on_line(line)
                    tail.append(line)
        if failed:
            raise ToolchainError(
                "the toolchain image could not be built",
                place=str(recipe.dockerfile),
                next_step="read the lines above; look at the engine's free disk space"
                + (", its network, or use --toolchain debian" if recipe.network else ""),
                detail=tuple(tail[-TAIL_LINES:]),
            )
        if not _held(self._client, _image(key)):
            raise ConnectionError("the engine's words ended before the image was made")

    def memory(self) -> int | None:
        """Of an engine elsewhere, all that its machine has."""
        with _translated("asking the engine for its memory"):
            total = int(self._client.info().get("MemTotal") or 0) or None
        here = memory.available() if _is_here() else None
        return min((found for found in (total, here) if found is not None), default=None)

    def admit(self, limits: Limits) -> None:
        """An engine keeps each."""

    @contextmanager
    def start(self, key: str, limits: Limits, *, keep: bool = False) -> Iterator[ContainerSession]:
        with self._cache.scratch() as scratch:
            try:
                with ThreadPoolExecutor(1) as thread:
                    # It ends before a signal is followed: an engine makes what was asked for, even
                    # where nobody waits for it any more.
                    container = thread.submit(self._start, key, limits, scratch.name).result()
                yield ContainerSession(self._client, container, _volume(key))
            finally:
                label = f"{LABEL}.run={scratch.name}"
                surely(partial(self._wake if keep else self._remove, label))

    def _start(self, key: str, limits: Limits, run: str) -> Container:
        with _translated("starting the build container"):
            container = self._client.containers.create(
                _image(key),
                ["sleep", "infinity"],
                init=True,
                network_mode="none",
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                user=f"{BUILDER_ID}:{BUILDER_ID}",
                labels={f"{LABEL}.cache": self._cache.identity, f"{LABEL}.run": run},
                mounts=[
                    Mount(WORK, None, type="volume"),
                    Mount(GO_CACHE, _volume(key), type="volume"),
                ],
                mem_limit=limits.memory,
                memswap_limit=limits.memory,
                nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            )
            container.start()
            return container

    def _remove(self, label: str) -> None:
        with suppress(*GONE):
            for one in self._labelled(label):
                one.remove(force=True, v=True)

    def _wake(self, label: str) -> None:
        """What `stop` has ended is there to be entered."""
        with suppress(*GONE):
            for one in self._labelled(label):
                one.start()

    def _labelled(self, label: str) -> list[Container]:
        filters: dict[str, str | list[str] | bool] = {"label": label}
        return self._client.containers.list(all=True, filters=filters, ignore_removed=True)

    def sweep(self) -> int:
        """Remove the containers that killed runs of this cache left; their count."""
        count = 0
        mine = f"{LABEL}.cache={self._cache.identity}"
        with _translated("looking for containers of killed runs"):
            for container in self._client.containers.list(
                all=True, filters={"label": mine}, ignore_removed=True
            ):
                if not self._cache.is_running(container.labels[f"{LABEL}.run"]):
                    container.remove(force=True, v=True)
                    count += 1
        rootfs.sweep(self._cache)
        return count

    def inventory(self) -> list[Kept]:
        with _translated("listing images and volumes"):
            images = self._client.images.list(filters={"label": f"{LABEL}.toolchain"})
            volumes = self._client.df().get("Volumes") or []
            return [
                Kept("image", tag, int(image.attrs["Size"]), tag.rpartition(":")[2])
                for image in images
                for tag in image.tags
            ] + [
                Kept("volume", row["Name"], int((row.get("UsageData") or {}).get("Size", 0)), key)
                for row in volumes
                if (key := row["Name"].removeprefix(VOLUME)) != row["Name"]
            ]

    def discard(self, kept: Kept) -> bool:
        with _translated(f"removing {kept.kind} {kept.name}"):
            try:
                if kept.kind == "image":
                    self._client.images.remove(kept.name)
                else:
                    self._client.volumes.get(kept.name).remove()
            except APIError as error:
                if error.status_code == CONFLICT:
                    return False
                raise
            return True


class ContainerSession:
    """A running container that waits for commands."""

    def __init__(self, client: docker.DockerClient, container: Container, volume: str) -> None:
        self._client = client
        self._container = container
        self.entry = f"docker exec -it {container.name} bash"
        self.disk = f"the engine's disk (docker system df), or its volume {volume}"

    def put(self, source: Path | bytes, destination: str) -> None:
        path = PurePosixPath(destination)
        environment: dict[str, str] = {}
        self.run(["install", "-d", str(path.parent)], environment=environment, folder="/")
        with _translated(f"sending {destination}"):
            if not self._container.put_archive(str(path.parent), _tar_stream(source, path.name)):
                raise MachineError(
                    "the engine did not take a file",
                    place=destination,
                    next_step="look at the engine's log and its free disk space",
                )

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str = WORK,
        on_line: OnLine | None = None,
    ) -> Result:
        api = self._client.api
        tail: list[str] = []

        def take(raw: bytes) -> None:
            line = raw.decode(errors="replace").rstrip("\r")
            tail.append(line)
            del tail[:-TAIL_LINES]
            if on_line:
                on_line(line)

        with _translated(f"running {argv[0]}"):
            job = api.exec_create(
                self._container.id, list(argv), environment=dict(environment), workdir=folder
            )
            rest = b""
            with _output(api.exec_start(job["Id"], socket=True)) as chunks:
                for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        take(line)
            if rest:
                take(rest)
            code = api.exec_inspect(job["Id"])["ExitCode"]
        return Result(tuple(argv), 137 if code is None else int(code), tuple(tail))

    def stop(self) -> None:
        with suppress(*GONE):
            self._container.kill()

    def get(self, path: str, destination: Path) -> None:
        with _translated(f"fetching {path}"), destination.open("wb") as file:
            stream, _ = self._container.get_archive(path, chunk_size=CHUNK)
            # Closed whatever happens: an engine that may still send holds the container fast.
            with closing(cast("Generator[bytes, None, None]", stream)) as chunks:
                _copy_member(chunks, file, path)


def _image(key: str) -> str:
    return f"nokmem/toolchain:{key[:KEY_LENGTH]}"


def _volume(key: str) -> str:
    return f"{VOLUME}{key[:KEY_LENGTH]}"


def _held(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except NotFound:
        return False
    return True


def _short(problem: APIError | str) -> str:
    """An engine's words without the addresses in them, which could hold a password."""
    text = problem if isinstance(problem, str) else str(problem.explanation or problem)
    words = re.sub(r'(\b[A-Z][a-z]+ )?"?\w+://\S+', "", text).split()
    return " ".join(words)[:SHORT]


def _tar_stream(source: Path | bytes, name: str) -> Iterator[bytes]:
    """A tar of one file, never whole in memory."""
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = 0o644, BUILDER_ID, BUILDER_ID
    member.mtime = int(time.time())
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        member.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield member.tobuf()
        while chunk := file.read(CHUNK):
            yield chunk
    yield bytes(-member.size % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE)


def _copy_member(chunks: Iterator[bytes], file: BinaryIO, path: str) -> None:
    """Write the one file of a tar. Only its head is tarfile's: that would copy every byte thrice,
    and be the slowest on the way."""
    head = b""
    while len(head) < tarfile.RECORDSIZE and (chunk := next(chunks, b"")):
        head += chunk
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as tar:
            member = tar.next()
    except tarfile.ReadError:
        member = None
    if member is None or not member.isreg():
        raise MachineError(
            f"{path} is not a file",
            place="the engine's archive of it",
            next_step="look at what the build printed: it made something else there",
        )
    left = member.size
    for chunk in chain((head[member.offset_data :],), chunks):
        left -= file.write(chunk[:left])
    if left:
        raise MachineError(
            f"{path} came without its last {left} bytes",
            place="the engine's archive of it",
            next_step="look at the engine's log, then run the same command",
        )


@contextmanager
def _output(socket: Any) -> Iterator[Iterator[bytes]]:
    """What a command prints, stdout and stderr as they come; the connection ends with it."""
    try:
        yield (data for _, data in frames_iter(socket, tty=False))  # type: ignore[no-untyped-call]
    finally:
        getattr(socket, "_response", socket).close()


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """An engine's exception as one of ours, with its cause."""
    try:
        yield
    except NokmemError:
        raise
    except (APIError, BuildError) as error:
        explanation = getattr(error, "explanation", None) or str(error)
        raise MachineError(
            f"the engine refused: {explanation}",
            place=doing,
            next_step="look at the engine's log and its free disk space",
        ) from error
    except GONE as error:
        raise MachineError(
            "the engine went away", place=doing, next_step="start it and run the same command"
        ) from error
