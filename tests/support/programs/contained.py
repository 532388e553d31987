"""contained.py PLAN: become the process of a container, in a mount and a UTS namespace that this one has to itself.

PLAN is a file of JSON: `root` (an empty directory), `hostname`, `binds` ([source, target, read-only]), `texts` (file →
content), `links` (name → target), `read_only` of the root file system, `uid`, `gid`, `groups`, `capabilities` that it
may have, `no_new_privs`, `env`, `argv`. Needs root. What a container's runtime does, as far as a process can tell.
"""

import ctypes
import json
import os
import socket
import sys
from pathlib import Path

RDONLY, REMOUNT, BIND, REC = 1, 32, 4096, 16384

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = (each.encode() if each is not None else None for each in (source, str(target), kind))
    data = options.encode() if options is not None else None
    if libc.mount(*arguments, ctypes.c_ulong(flags), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: {source} on {target}")


def main(plan: dict) -> None:  # type: ignore[type-arg]
    socket.sethostname(plan["hostname"])
    root = Path(plan["root"])
    mount("tmpfs", root, "tmpfs", 0, "mode=755,size=16m")
    for name, target in plan["links"].items():
        (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / name.lstrip("/")).symlink_to(target)
        (root / name.lstrip("/")).parent.joinpath(target).mkdir(parents=True)
    for name, content in plan["texts"].items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    for source, name, read_only in plan["binds"]:
        target = root / name.lstrip("/")
        if Path(source).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount(source, target, None, BIND | REC)
        if read_only:
            mount("none", target, None, BIND | REMOUNT | RDONLY)
    if plan["read_only"]:
        mount("none", root, None, REMOUNT | RDONLY, "mode=755,size=16m")
    os.chroot(root)
    os.chdir("/")
    kept = "".join(f",+{each}" for each in plan["capabilities"])
    become = ["setpriv", "--reuid", str(plan["uid"]), "--regid", str(plan["gid"])]
    become += ["--groups", ",".join(map(str, plan["groups"]))] if plan["groups"] else ["--clear-groups"]
    become += ["--bounding-set", f"-all{kept}", "--inh-caps", f"-all{kept}"]
    become += ["--no-new-privs"] if plan["no_new_privs"] else []
    os.environ["PATH"] += os.pathsep + "/usr/sbin:/sbin:/usr/bin:/bin"
    setpriv = "/usr/bin/setpriv"
    os.execve(setpriv, [*become, "--", *plan["argv"]], plan["env"])


main(json.loads(Path(sys.argv[1]).read_text()))
