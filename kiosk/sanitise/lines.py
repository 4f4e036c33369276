"""Lines of configuration files: what a rule drops, changes and adds, and the names that a node calls itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kiosk.sanitise.rules import Rule
from kiosk.sanitise.tree import Tree

NAMES = ("etc/hostname", "etc/HOSTNAME", "etc/mailname", "etc/sysconfig/network", "etc/nodename")


def revised(old: str, rule: Rule, node: Sequence[str]) -> str:
    """The text of a file after a rule about lines; `node` are the node's own names."""
    names = "|".join(re.escape(n) for n in node)
    own = f"(?<![\\w.-])(?:{names})(?![\\w-])" if node else "(?!)"
    drop = [re.compile(d.replace("{node}", own)) for d in rule.drop]
    lines = []
    for line in re.findall(r"[^\n]*\n|[^\n]+", old):
        body = line.rstrip("\n")
        if any(d.search(body) for d in drop):
            continue
        for rewrite in rule.rewrite:
            body = re.sub(rewrite.match, rewrite.by, body)
        lines.append(body + line[len(line.rstrip("\n")) :])
    there = {line.rstrip("\n") for line in lines}
    missing = [line for line in rule.ensure if line not in there]
    if missing and lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(lines) + "".join(f"{line}\n" for line in missing)


def node_names(tree: Tree) -> tuple[str, ...]:
    """What the node calls itself: whole and short names, the longest first."""
    found: set[str] = set()
    for path in NAMES:
        real = tree.resolve(path.split("/"))
        data = (tree.read(real, 4096) if real is not None else None) or b""
        for line in data.decode(errors="replace").splitlines():
            name = line.strip().removeprefix("HOSTNAME=").strip("\"'")
            if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", name) and not name.startswith("localhost"):
                found |= {n for n in (name, name.split(".")[0]) if len(n) > 2}
    return tuple(sorted(found, key=lambda n: (-len(n), n)))
