"""What the node script says of a node: of trees with Linux 3.10's behaviour, and of this kernel."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import leave_out
from tests.integration.tree import MEMORY, Tree
from tests.rollout import PATH, Done, ask, place

PODS = "kubepods"
POD = f"{PODS}/pod0a"
HERE = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place(tmp_path_factory.mktemp("script"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A node of the cgroupfs driver, with one pod that is as it should be."""
    made = Tree(tmp_path / "node")
    made.cgroups(PODS, POD, f"{POD}/c1", f"{POD}/c2")
    return made


def diagnose(script: Path, tree: Tree) -> Done:
    done = ask(script, "diagnose", "--root", tree.root)
    assert done.code == 0 and not done.progress, done
    return done


def verdict(done: Done) -> str:
    said: str = done.said["facts"]["verdict"]
    assert done.said["summary"].startswith(f"{said}: ")
    return said


def classes(done: Done) -> dict[str, str]:
    """By the path below the memory hierarchy."""
    rows = {row["path"].removeprefix(f"/{MEMORY}/"): row["class"] for row in done.said["cgroups"]}
    count = Counter(rows.values())
    told = dict(one.split() for one in done.said["facts"]["kmem"].split(", "))
    assert {name: int(number) for name, number in told.items() if number != "0"} == count
    return rows


def test_clean(script: Path, tree: Tree) -> None:
    done = diagnose(script, tree)
    assert verdict(done) == "clean" and set(classes(done).values()) == {"clean"}
    assert "kmem is 0 in all 4" in done.said["summary"]
    assert done.finding("slabs") == "ok no cache is kept of a cgroup that is gone"
    assert done.said["facts"]["slabs"].endswith("Slab is 200 MiB")
    for unseen in ("binaries", "ids", "logs"):
        assert done.finding(unseen).startswith("unseen ")


def test_who_was_never_swapped_and_accounts_leaks(script: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.cgroups(PODS, POD, accounted=True, usage="0")
    tree.cgroup(f"{POD}/c1", accounted=True, usage="826880")
    done = diagnose(script, tree)
    assert verdict(done) == "leaking" and set(classes(done).values()) == {"legacy"}
    assert "3 of 3" in done.said["summary"], "usage 0 is luck"
    assert done.finding("compared").startswith("note no swap is known")


def test_what_a_swap_leaves_accounted_is_inherited(script: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.cgroups(PODS, POD, f"{POD}/c1", accounted=True, usage="4096")
    tree.swapped()
    tree.cgroups(f"{POD}/c2", f"{PODS}/pod0b", f"{PODS}/pod0b/c1", accounted=True)
    done = diagnose(script, tree)
    assert verdict(done) == "pending"
    assert "6 of 6" in done.said["summary"] and "until it is made anew" in done.said["summary"]
    assert classes(done) == {
        **dict.fromkeys([PODS, POD, f"{POD}/c1"], "legacy"),
        **dict.fromkeys([f"{POD}/c2", f"{PODS}/pod0b", f"{PODS}/pod0b/c1"], "inherited"),
    }


def test_a_pod_alone_that_is_accounted_ends_it_by_going(script: Path, tree: Tree) -> None:
    tree.cgroups(f"{PODS}/pod0b", f"{PODS}/pod0b/c1", accounted=True)
    tree.swapped()
    done = diagnose(script, tree)
    assert verdict(done) == "pending" and "until these pods are gone" in done.said["summary"]


def test_what_was_made_since_and_is_accounted_of_itself_leaks(script: Path, tree: Tree) -> None:
    tree.swapped()
    tree.cgroup(f"{PODS}/pod0b", usage="4096")
    tree.cgroup(f"{PODS}/pod0b/c1", accounted=True, usage="4096")
    done = diagnose(script, tree)
    assert verdict(done) == "leaking" and "1 of 6" in done.said["summary"]
    assert classes(done)[f"{PODS}/pod0b"] == "charged", "of what its container took"
    assert classes(done)[f"{PODS}/pod0b/c1"] == "leaking"


def test_memory_of_one_that_is_gone_tells_of_it(script: Path, tree: Tree) -> None:
    tree.swapped()
    tree.cgroup(f"{PODS}/pod0b", usage="4096")
    done = diagnose(script, tree)
    assert verdict(done) == "leaking" and classes(done)[f"{PODS}/pod0b"] == "leaking"


def test_what_leaked_before_the_swap_is_no_leak_of_now(script: Path, tree: Tree) -> None:
    tree.cgroup(f"{PODS}/pod0b", usage="4096")
    assert verdict(diagnose(script, tree)) == "leaking", "no swap is known"
    tree.swapped()
    done = diagnose(script, tree)
    assert verdict(done) == "clean" and classes(done)[f"{PODS}/pod0b"] == "charged"
    assert "1 made before the swap" in done.said["summary"]


def test_of_an_earlier_boot_nothing_stands(script: Path, tree: Tree) -> None:
    tree.cgroups(f"{PODS}/pod0b", f"{PODS}/pod0b/c1", accounted=True)
    tree.swapped(boot="another")
    done = diagnose(script, tree)
    assert verdict(done) == "leaking" and classes(done)[f"{PODS}/pod0b"] == "leaking"
    assert "nothing is left" in done.said["facts"]["compared"]


@pytest.mark.parametrize("how", ["missing", "empty", "broken", "words"])
def test_what_cannot_be_read_is_named_and_proves_nothing(
    how: str, script: Path, tree: Tree
) -> None:
    folder = tree.cgroup(f"{PODS}/pod0b")
    for name in ("slabinfo", "usage_in_bytes"):
        file = folder / f"memory.kmem.{name}"
        file.unlink()
        if how == "broken":
            file.symlink_to("/proc/self/mem")
        elif how != "missing":
            file.write_text('7"}\n' if how == "words" and name == "usage_in_bytes" else "")
    done = diagnose(script, tree)
    assert verdict(done) == "unknown" and classes(done)[f"{PODS}/pod0b"] == "unreadable"
    assert f"1 could not be read, such as /{MEMORY}/{PODS}/pod0b" in done.finding("cgroups")
    kmem = [row["kmem"] for row in done.said["cgroups"] if row["class"] == "unreadable"]
    assert kmem == [None]


def test_where_nothing_of_kernel_memory_is_there(script: Path, tree: Tree) -> None:
    for file in (tree.root / MEMORY).rglob("memory.kmem.*"):
        file.unlink()
    done = diagnose(script, tree)
    assert verdict(done) == "unknown" and "4 of 4" in done.said["summary"]


SLICE = "kubepods.slice"
PLACES = {
    "systemd": (SLICE, f"{SLICE}/kubepods-burstable.slice", "systemd driver"),
    "cgroupfs below a root": ("site/deep/kubepods", "site/deep/kubepods/burstable", "cgroupfs"),
    "systemd below a root": (
        "a_b.slice/a_b-kubepods.slice",
        "a_b.slice/a_b-kubepods.slice/a_b-kubepods-pod0a.slice",
        "systemd driver",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_wherever_the_pods_are(name: str, script: Path, tmp_path: Path) -> None:
    pods, pod, driver = PLACES[name]
    tree = Tree(tmp_path / "node")
    (tree.root / MEMORY / pods).parent.mkdir(parents=True, exist_ok=True)
    tree.cgroups(pods, pod, f"{pod}/docker-{'0' * 64}.scope")
    done = diagnose(script, tree)
    assert verdict(done) == "clean" and len(classes(done)) == 3
    assert f"/{MEMORY}/{pods}, of the {driver}" in done.said["facts"]["cgroups"]


def test_a_root_that_is_accounted_is_inherited_from(script: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "node")
    tree.cgroup("site", accounted=True)
    tree.swapped()
    tree.cgroups("site/kubepods", "site/kubepods/pod0a", accounted=True)
    done = diagnose(script, tree)
    assert verdict(done) == "pending" and set(classes(done).values()) == {"inherited"}


NOKMEM = "cgroup.memory=nokmem"
KERNELS = {
    "7.3": ("3.10.0-514.el7.x86_64", "", "leaking", "note this kernel is not known to take"),
    "7.3, told": ("3.10.0-514.el7.x86_64", NOKMEM, "leaking", "warn cgroup.memory=nokmem is on"),
    "7.8": ("3.10.0-1127.el7.x86_64", "", "leaking", "note this kernel knows"),
    "7.9": ("3.10.0-1160.119.1.el7.x86_64", "quiet", "leaking", "note this kernel knows"),
    "7.9, told in vain": ("3.10.0-1160.el7.x86_64", NOKMEM, "leaking", "ok cgroup.memory=nokmem"),
    "3.10 of somebody's": ("3.10.108", NOKMEM, "leaking", "warn cgroup.memory=nokmem is on"),
    "el8": ("4.18.0-553.el8.x86_64", "", "immune", ""),
    "4.19": ("4.19.12-1.el7.elrepo.x86_64", "", "immune", ""),
    "5.4": ("5.4.278-1.el7.elrepo.x86_64", NOKMEM, "immune", ""),
    "10": ("10.0.0", "", "immune", ""),
    "none": ("", "", "leaking", "note this kernel is not known to take"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name: str, script: Path, tmp_path: Path) -> None:
    kernel, options, want, boot = KERNELS[name]
    tree = Tree(tmp_path / "node", kernel, options)
    tree.cgroups(PODS, POD, accounted=True, usage="4096")
    done = diagnose(script, tree)
    assert verdict(done) == want
    assert done.finding("boot").startswith(boot) and bool(done.finding("boot")) == bool(boot)
    assert set(classes(done).values()) == {"legacy" if want == "leaking" else "always"}
    assert bool(done.finding("kernel")) == (not kernel)


@pytest.mark.parametrize("other", ["cgroup.memory=nosocket,nokmem", "cgroup.memory=nokmem"])
def test_a_kernel_that_was_told_not_to_account_is_believed_if_it_does_not(
    other: str, script: Path, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "node", "3.10.0-1160.el7.x86_64", other)
    tree.cgroups(PODS, POD)
    assert verdict(diagnose(script, tree)) == "immune"
    tree.write("proc/cmdline", "quiet cgroup.memory=nokmemory xcgroup.memory=nokmem\n")
    assert verdict(diagnose(script, tree)) == "clean", "of itself"


@pytest.mark.parametrize("mounts", ["cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "", None])
def test_where_no_hierarchy_is_mounted(mounts: str | None, script: Path, tree: Tree) -> None:
    tree.write("proc/mounts", mounts or "")
    if mounts is None:
        (tree.root / "proc/mounts").unlink()
    done = diagnose(script, tree)
    assert verdict(done) == "unknown" and not done.said["cgroups"]
    assert done.said["facts"]["cgroups"] == ("v2" if mounts else "none")
    assert done.finding("cgroups").startswith("unseen no memory hierarchy")
    tree.write("proc/sys/kernel/osrelease", "6.1.0\n")
    assert verdict(diagnose(script, tree)) == "immune"


def test_mounts_are_those_of_the_first_process_of_that_root(script: Path, tree: Tree) -> None:
    (tree.root / "proc/mounts").rename(tree.root / "proc/1/mounts")
    tree.write("proc/mounts", "cgroup /host/sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    assert verdict(diagnose(script, tree)) == "clean"


def test_no_pods(script: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "node")
    tree.cgroup("system.slice")
    done = diagnose(script, tree)
    assert verdict(done) == "unknown"
    assert done.finding("cgroups").startswith("unseen there is no cgroup of pods")


def test_caches_of_cgroups_that_are_gone(script: Path, tree: Tree) -> None:
    tree.write("proc/cgroups", "memory\t8\t2\t1\n")
    for cache in ("kmalloc-64", "dentry", "ext4_inode_cache"):
        tree.cache(cache, 123, "abc")
        tree.cache(cache, 124, "pod0a")  # is there
        tree.cache(cache, 125, "pod0a")  # was there before it
        tree.cache(cache, 126, "a(7:b)c.scope")
    for alike in (":at-0000064", "biovec-(256)", "x(y:z)"):
        (tree.root / f"sys/kernel/slab/{alike}").mkdir()
    done = diagnose(script, tree)
    assert done.said["facts"]["slabs"].startswith("12 caches of 4 memory cgroups")
    assert done.finding("slabs").startswith("warn caches of 3 cgroups are kept that are gone: 0 %")
    tree.write("proc/sys/kernel/osrelease", "5.4.0\n")
    assert not diagnose(script, tree).finding("slabs"), "there they go in the end"


def test_near_the_limit_it_says_what_to_do(script: Path, tree: Tree) -> None:
    slab = tree.root / "sys/kernel/slab"
    for number in range(59000):
        os.link(tree.root / "proc/meminfo", slab / f"kmalloc-64({number}:{number:064x})")
    done = diagnose(script, tree)
    assert "caches of 59000 cgroups are kept that are gone: 90 % of the 65535" in done.finding(
        "slabs"
    )
    (row,) = (row for row in done.said["findings"] if row["id"] == "slabs")
    assert row["next"].startswith("drain this node now: only a reboot")


def test_num_cgroups_plays_no_part(script: Path, tree: Tree) -> None:
    said = []
    for number in (2, 65535):
        tree.write("proc/cgroups", f"memory\t8\t{number}\t1\n")
        document = diagnose(script, tree).said
        said.append({**document, "time": 0})
    assert said[0] == said[1]


def test_no_slabs_are_seen(script: Path, tree: Tree) -> None:
    (tree.root / "sys/kernel/slab/kmalloc-64").rmdir()
    (tree.root / "sys/kernel/slab").rmdir()
    (tree.root / "proc/meminfo").unlink()
    done = diagnose(script, tree)
    assert done.finding("slabs").startswith("unseen ")
    assert done.finding("slab").startswith("unseen ")
    assert verdict(done) == "clean"


HOSTILE = {
    "quotes": "a\"b\\c'd",
    "blanks": "a  b ",
    "controls": "a\tb\x1b[31mred\x07",
    "bytes": os.fsdecode(b"\xff\xfe\x80"),
    "letters": "gr\u00fc\u00df",
    "a pattern": "*",
    "words of a shell": "$(touch hit);`id`",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str, script: Path, tmp_path: Path) -> None:
    word = HOSTILE[name]
    tree = Tree(tmp_path / word)
    tree.cgroups(PODS, f"{PODS}/{word}", f"{PODS}/{word}/c1", accounted=True, usage="7")
    tree.write("proc/sys/kernel/hostname", f"{word}\n")
    tree.cache("dentry", 5, word)
    tree.swapped()
    done = diagnose(script, tree)
    assert verdict(done) == "pending" and "3 of 3" in done.said["summary"]
    shown = "".join(c if c in "\t" or " " <= c <= "~" else "?" * len(os.fsencode(c)) for c in word)
    paths = [row["path"].removeprefix(f"/{MEMORY}/{PODS}") for row in done.said["cgroups"]]
    assert paths == ["", f"/{shown}", f"/{shown}/c1"] and done.said["node"] == shown


def test_a_line_end_in_a_name_hides_nothing(script: Path, tree: Tree) -> None:
    tree.cgroups(f"{PODS}/a\nb", f"{PODS}/a\nb/c1", accounted=True)
    done = diagnose(script, tree)
    assert verdict(done) == "unknown" and classes(done)[f"{PODS}/?"] == "unreadable"
    assert ask(script, "diagnose", "--root", f"{tree.root}\n").code == 2


@pytest.mark.parametrize("name", ["mawk", "gawk"])
def test_either_awk(
    name: str, request: pytest.FixtureRequest, script: Path, tree: Tree, tmp_path: Path
) -> None:
    awk = shutil.which(name, path=PATH)
    if awk is None:
        leave_out(request, "gawk", f"{name} is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "awk").symlink_to(str(awk))
    tree.swapped()
    tree.cgroup(f'{PODS}/a"b\\c&d', usage="4096")
    tree.cgroup(f'{PODS}/a"b\\c&d/c1', accounted=True, usage=str(1 << 40))
    tree.cache("dentry", 5, "gone")
    done = ask(script, "diagnose", "--root", tree.root, PATH=f"{folder}:{PATH}")
    assert not done.progress and verdict(done) == "leaking"
    (row,) = (row for row in done.said["cgroups"] if row["class"] == "leaking")
    path = f'/{MEMORY}/{PODS}/a"b\\c&d/c1'
    assert row == {"class": "leaking", "kmem": 1 << 40, "path": path}
    assert done.finding("slabs").startswith("warn caches of 1 ")


def test_this_kernel(request: pytest.FixtureRequest, script: Path, tmp_path: Path) -> None:
    """Cgroups of this machine's own, which this kernel accounts and gives back."""
    if os.geteuid() != 0:
        leave_out(request, "root", "cgroups are made by root")
    if not HERE.is_dir():
        assert verdict(ask(script, "diagnose")) == "immune"
        return
    own = HERE / f"nokmem-test-{os.getpid()}"
    folders = [own, own / PODS, own / POD, own / POD / "c1"]
    for folder in folders:
        folder.mkdir()
    try:
        (tmp_path / "proc").symlink_to("/proc")
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / MEMORY).symlink_to(own)
        (tmp_path / "sys/kernel").symlink_to("/sys/kernel")
        done = ask(script, "diagnose", "--root", tmp_path)
        assert verdict(done) == "immune" and set(classes(done).values()) == {"always"}
        assert all(row["kmem"] >= 0 for row in done.said["cgroups"])
        live = ask(script, "diagnose")
        assert verdict(live) == "immune" and live.finding("ids").startswith("ok ")
    finally:
        for folder in reversed(folders):
            folder.rmdir()
