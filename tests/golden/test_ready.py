"""A node that isn't up to date gives no image: its own configuration management is asked, for real, in the node."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from kiosk.errors import BuildError, PolicyError, UsageError
from kiosk.golden.ready import NotReady, argv_of, ask, questions
from kiosk.golden.settings import Ready
from kiosk.golden.source import Answer, Capture
from kiosk.pipe import told
from tests.golden.sshd import with_programs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot")

PUPPET = """---
version:
  config: 1764028800
  puppet: 7.23.0
resources:
  changed: 1
  failed: {failed}
  failed_to_restart: 0
  total: 812
time:
  total: 12.3
  last_run: {last_run}
changes:
  total: 1
events:
  failure: {failed}
  success: 1
  total: 1
"""
SECURITY = "Inst openssl [3.0.15-1] (3.0.17-1 Debian-Security:12/stable-security [amd64])\n"
OTHER = "Inst tzdata [2025a-0] (2025b-0 Debian:12.11/stable [all])\nConf tzdata (2025b-0 Debian:12.11/stable [all])\n"


@dataclass(frozen=True)
class Chroot:
    """A node that is a folder tree, in which commands run for real."""

    root: Path

    def describe(self) -> str:
        return "the node"

    def capture(self, folder: Path) -> Capture:
        raise NotImplementedError

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        ended = told(["chroot", self.root, *argv], timeout=timeout)
        return Answer(ended.status, ended.text)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Chroot:
    root = tmp_path_factory.mktemp("ready")
    with_programs(root)
    return Chroot(root)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def puppet(failed: int = 0, ago: int = 60) -> Callable[[Path], None]:
    text = PUPPET.format(failed=failed, last_run=int(time.time()) - ago)
    return lambda root: put(root, "var/lib/puppet/state/last_run_summary.yaml", text)


def quattor(current: str, latest: str, *states: str) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        put(root, "var/lib/ccm/current.cid", current)
        put(root, "var/lib/ccm/latest.cid", latest)
        for old in (root / "var/run/quattor-components").glob("*"):
            old.unlink()
        for state in states:
            put(root, f"var/run/quattor-components/{state}", "")

    return prepare


def apt(output: str, status: int = 0) -> Callable[[Path], None]:
    return lambda root: put(root, "usr/bin/apt-get", f"#!/bin/sh\ncat <<'E'\n{output}E\nexit {status}\n")


READY = {
    "puppet, a good run a minute ago": ("puppet", puppet()),
    "quattor, what was fetched is deployed": ("quattor", quattor("17", "17")),
    "apt, nothing to do": ("apt", apt("")),
    "apt, an update that isn't for security": ("apt", apt(OTHER)),
}
NOT_READY = {
    "puppet failed": ("puppet", puppet(failed=2), "had 4 failures"),
    "puppet has not run for a day": ("puppet", puppet(ago=86400), "14[0-9][0-9] minutes ago"),
    "puppet's summary is empty": (
        "puppet",
        lambda root: put(root, "var/lib/puppet/state/last_run_summary.yaml", ""),
        "no complete run",
    ),
    "quattor has not deployed yet": ("quattor", quattor("17", "18"), "18 was fetched and the profile 17"),
    "a component of quattor failed": ("quattor", quattor("18", "18", "spma", "cron"), "cron"),
    "apt has a security update": ("apt", apt(OTHER + SECURITY), "openssl"),
    "apt itself fails": ("apt", apt("E: broken\n", 100), "status 1"),
}


@pytest.mark.parametrize("story", READY)
def test_a_node_that_is_up_to_date_is_ready(story: str, golden: Chroot) -> None:
    name, prepare = READY[story]
    prepare(golden.root)
    answer = ask(golden, Ready(ask=name))
    assert answer is not None and answer.startswith(f"{name}: ")


@pytest.mark.parametrize("story", NOT_READY)
def test_a_node_that_is_not_says_why(story: str, golden: Chroot) -> None:
    name, prepare, why = NOT_READY[story]
    prepare(golden.root)
    with pytest.raises(NotReady, match=why) as caught:
        ask(golden, Ready(ask=name))
    assert isinstance(caught.value, PolicyError) and caught.value.exit_code == 10


def test_a_command_of_ones_own_runs_in_the_node_or_on_the_builder(golden: Chroot) -> None:
    source = golden
    put(golden.root, "only-in-the-node", "")
    run = ("sh", "-c", "test -e /only-in-the-node && echo version 7")
    assert ask(source, Ready(run=run)) == f"sh -c '{run[2]}': version 7"
    with pytest.raises(NotReady, match="status 1"):
        ask(source, Ready(run=run, where="builder"))
    assert ask(source, None) is None


def test_what_a_node_answers_is_shown_without_what_a_terminal_acts_upon(golden: Chroot) -> None:
    run = ("sh", "-c", "printf 'one\\n\\033[2Jtwo\\n\\033]0;title\\007three\\n'; exit 1")
    with pytest.raises(NotReady) as caught:
        ask(golden, Ready(run=run))
    assert "\033" not in caught.value.what and "three" in caught.value.what


def test_a_question_that_never_ends_is_given_up(golden: Chroot) -> None:
    with pytest.raises(BuildError, match="not done after 1 s"):
        ask(golden, Ready(run=("sleep", "100"), where="builder", timeout=1))


def test_every_ready_made_question_says_what_it_asks() -> None:
    for name, question in questions().items():
        assert question["about"] and argv_of(Ready(ask=name)) == tuple(question["run"])
    with pytest.raises(UsageError, match="no question 'chef'"):
        argv_of(Ready(ask="chef"))
    for wrong in ({}, {"ask": "apt", "run": ["true"]}):
        with pytest.raises(ValidationError):
            Ready.model_validate(wrong)
