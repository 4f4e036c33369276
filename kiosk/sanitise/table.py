"""The table of rules as a page: `python -m kiosk.sanitise.table >docs/sanitise.md`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from kiosk import data
from kiosk.sanitise.rules import Action, Rule, by_subject

WHAT: Mapping[Action, str] = {
    "remove": "removed",
    "empty": "emptied",
    "truncate": "emptied",
    "replace": "replaced",
    "lines": "lines dropped or changed",
    "content": "removed, told by content",
    "accounts": "accounts and passwords removed",
}
SHOWN = 5
HEAD = """# Sanitising a golden node

A tree that was taken from a golden node, which is a managed and running machine, loses all that is its own before it
becomes an image: identities, secrets, state, and traces of people. What that is stands in a table of rules,
`recipes/sanitise/*.toml`. `kiosk audit` then looks at the finished image with other eyes, and does not know this
table.

* **Your own rules** go into `sanitise/*.toml` in your recipes' folder (`recipes = ...` in `/etc/kiosk/kiosk.toml`). A
  rule with the name of one of kiosk's takes its place. Every rule has examples: things that it must deal with, which
  are planted in a tree and must be gone after it.
* **Paths** are below the root. `*` is any part of one name, `**` any number of folders, `~` the home of every account
  and everything in `/home`. Links lead to where they lead in the tree, never out of it; links that users can make are
  not followed.
* **Accounts**: those with a uid of 1000 or more that the golden node's definition does not name are removed with their
  homes, groups, memberships and subordinate ids, and so is everything in `/home` that belongs to no account that
  stays: users of a directory service have homes, too. All other accounts stay, without passwords.
* **What stays**: configuration that is the same on all nodes, such as CA certificates, CVMFS repositories and
  proxies, `krb5.conf`, the AFS cell, network file systems in `fstab`, firewall rules. Where an address was static, the
  interface stays and uses DHCP.
* Rules marked **B** also apply to trees that are built from recipes.

This page is made from the rules: `python -m kiosk.sanitise.table >docs/sanitise.md`.
"""


def markdown(subjects: Mapping[str, Sequence[Rule]]) -> str:
    """The page."""
    lines = [HEAD]
    for subject, rules in subjects.items():
        lines.append(f"## {subject.replace('-', ' ').capitalize()}\n")
        lines.append("| rule | what | reason |\n|---|---|---|")
        lines += [f"| {_name(rule)} | {_what(rule)} | {_cell(rule.reason)} |" for rule in rules]
        lines.append("")
    return "\n".join(lines)


def _name(rule: Rule) -> str:
    return f"`{rule.name}`" + (" **B**" if rule.builds else "")


def _what(rule: Rule) -> str:
    paths = ", ".join(f"`{_cell(p if p.startswith('~') else '/' + p)}`" for p in rule.paths[:SHOWN])
    more = f" and {len(rule.paths) - SHOWN} more" if len(rule.paths) > SHOWN else ""
    holds = f" ({', '.join(rule.holds)})" if rule.holds else ""
    return f"{WHAT[rule.action]}{holds}: {paths}{more}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(markdown(by_subject(data.folder("recipes"))))
