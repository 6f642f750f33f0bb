"""Files into and out of both builders: `python -m benchmarks.travel`. One gigabyte each way,
beside a plain copy of the same file on the same disk."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.measure import table
from builders.model.plan import BuildRequest
from builders.model.releases import Facts
from builders.model.resolve import resolve
from builders.tools import container, rootfs
from builders.tools.builder import Builder, Limits
from builders.tools.cache import Cache

SIZE = 1 << 30


def rate(began: float) -> float:
    return SIZE / 1e6 / (time.monotonic() - began)


def measure(builder: Builder, key: str, folder: Path) -> tuple[float, float]:
    """Megabytes a second in and out."""
    with builder.start(key, Limits()) as session:
        began = time.monotonic()
        session.put(folder / "in", "/build/file")
        into = rate(began)
        began = time.monotonic()
        session.get("/build/file", folder / "out")
        return into, rate(began)


def main() -> None:
    cache = Cache.default(os.environ)
    request = BuildRequest("v1.20.2", toolchain="debian", go="distribution")
    key = resolve(request, Facts()).toolchain.key
    rows = []
    with tempfile.TemporaryDirectory(dir=cache.root) as name:
        folder = Path(name)
        with (folder / "in").open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
        began = time.monotonic()
        shutil.copyfile(folder / "in", folder / "copy")
        copied = rate(began)
        (folder / "copy").unlink()
        for builder in (rootfs.Rootfs(cache), container.ContainerBuilder(cache)):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            into, out = measure(builder, key, folder)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            builder.close()
            figures = f"in {into:.0f}, out {out:.0f} MB/s; a plain copy {copied:.0f}"
            bound = "300 MB/s, constant memory"
            rows.append(
                (f"1 GB, {builder.name}", figures, bound, f"memory grew {grown / 1e3:.0f} MB")
            )
    table(rows)


if __name__ == "__main__":
    main()
