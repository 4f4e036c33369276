"""`kiosk recipe lint` says all that is wrong at once, by file and key; `--offline` asks no archive."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from kiosk.build import recipe_book
from kiosk.build.book import Book
from kiosk.build.fault import Fault
from kiosk.build.lint import Linter
from kiosk.build.mirrors import Mirrors
from kiosk.config import Settings
from kiosk.model.census import FileEntry, write_files
from kiosk.model.recipe import Recipe
from tests.build.own_recipes import HOOK, RECIPE, archive, own_folder
from tests.publish.test_commands import Terminal
from tests.simulators.published import build_image


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return own_folder(tmp_path / "own")


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, own: Path
) -> Terminal:
    found = Terminal(monkeypatch, capsys, tmp_path / "home")
    found.set("KIOSK_RECIPES", own)
    return found


def lint(own: Path, *words: str, packages: Path | None = None) -> list[Fault]:
    settings = Settings(home=own.parent / "home", recipes=own)
    return recipe_book.lint(settings, recipe_book.targets(settings, words or ["mine"]), packages=packages)


def told(own: Path, *words: str, packages: Path | None = None) -> list[tuple[str, str, str]]:
    """Severity, file and key, and what is wrong."""
    return [
        (f.severity, f"{f.file.name}:{f.key}", f.what) for f in lint(own, *words, packages=packages)
    ]  # fmt: skip


def test_kiosks_own_recipes_have_no_faults(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    found = recipe_book.targets(settings, [])
    assert len(found.recipes) >= 5 and len(found.bases) >= 3 and len(found.elements) >= 8
    assert recipe_book.lint(settings, found, packages=None) == []
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_in_which_nothing_is_wrong(own: Path) -> None:
    assert lint(own) == []


RECIPE_FAULTS = [
    ('name = "mine"', 'name = "other"', "error", "mine.toml:name", "the file is called 'mine'"),
    ('base = "debian-12"', 'base = "debian-14"', "error", "mine.toml:base", "no base 'debian-14'"),
    ('base = "debian-12"', 'base = "debian-13"', "error", "mine.toml:release", "debian-13 has 'trixie'"),
    ('base = "debian-12"\n', "", "error", "mine.toml:base", "missing"),
    ("[policy]", "cores = 4\n[policy]", "error", "mine.toml:cores", "unknown key 'cores'"),
    ("[policy]", "[policy", "error", "mine.toml:", "not valid TOML"),
    ('"my-element"', '"my-elemant"', "error", "mine.toml:elements", "no element 'my-elemant'"),
    ('"my-element"', '"kiosk-debian"', "error", "mine.toml:elements", "makes a root tree"),
    ('"kiosk-contextualize", ', "", "warning", "mine.toml:elements", "kiosk-contextualize is missing"),
    ('"curl"', '"curl", "curl"', "warning", "mine.toml:packages", "named twice"),
    ('"curl"', '"curl; rm -rf /"', "error", "mine.toml:packages.0", "pattern"),
    ('"/etc/mine/*"', '"/etc/passwd"', "error", "mine.toml:policy.etc.0", "opens /etc/passwd"),
    ('"/etc/mine/*"', '"/etc/sh*"', "error", "mine.toml:policy.etc.0", "opens /etc/shadow"),
    ('"/etc/mine/*"', '"/etc/*/*"', "error", "mine.toml:policy.etc.0", "no layer may have"),
    ('"/etc/mine/*"', '"/etc/sudoers.d/mine"', "error", "mine.toml:policy.etc.0", "/etc/sudoers.d"),
    ('"/etc/mine/*"', '"/usr/bin/*"', "error", "mine.toml:policy.etc.0", "below /etc"),
    ('"/etc/mine/*"', '"/etc/mine/../*"', "error", "mine.toml:policy.etc.0", "not a plain path"),
    ('"/etc/mine/*"', '"/etc/sysctl.d/*"', "warning", "mine.toml:policy.etc.0", "/etc/sysctl.d"),
    ('"/etc/mine/*"', '"/etc/a", "/etc/a"', "warning", "mine.toml:policy.etc.1", "twice"),
]


@pytest.mark.parametrize(("was", "now", "severity", "where", "what"), RECIPE_FAULTS)
def test_faults_of_a_recipe(own: Path, was: str, now: str, severity: str, where: str, what: str) -> None:
    assert was in RECIPE
    (own / "images/mine.toml").write_text(RECIPE.replace(was, now, 1))
    assert [f for f in told(own) if f[:2] == (severity, where) and what in f[2]], told(own)


def test_values_of_any_kind_in_any_place_are_told_of_and_end_nothing(own: Path) -> None:
    settings = Settings(home=own.parent / "home", recipes=own)
    linter = Linter(Book.of(settings), None, lambda _: None)
    values = (
        "3",
        "-1",
        '"x"',
        '"../x"',
        "[]",
        "{}",
        "[1]",
        "[{}]",
        "{ etc = 3 }",
        "{ etc = [1] }",
        "1979-05-27",
    )
    lines = dict(line.split(" = ", 1) for line in RECIPE.partition("[policy]")[0].strip().splitlines())
    for key in Recipe.model_fields:
        for value in values:
            text = "".join(f"{k} = {v}\n" for k, v in {**lines, key: value}.items())
            (own / "images/mine.toml").write_text(text)
            found = linter.recipe(own / "images/mine.toml")
            try:
                Recipe.model_validate(tomllib.loads(text))
            except ValidationError:
                assert [f for f in found if f.severity == "error"], text


HOOK_FAULTS = [
    ("install.d/50-mine", HOOK + "if true\n", "error", "50-mine:5", "not a shell script"),
    ("install.d/50-mine.sh", HOOK, "error", "50-mine.sh:", "a hook's name has"),
    ("install.d/60-more", "touch /x\n", "error", "60-more:1", "no interpreter"),
    ("install.d/60-more", "#!/bin/sh\ntouch /x\n", "warning", "60-more:", "a command that failed"),
    ("install.d/60-more", "#!/usr/bin/python3\nif:\n", "error", "60-more:2", "not Python"),
    ("instal.d/60-more", HOOK, "warning", "instal.d:", "no phase of a build"),
    ("environment.d/10-x.bash", "export A=(\n", "error", "10-x.bash:1", "not a shell script"),
    ("install.d/60-more", HOOK + "curl http://ftp.de.debian.org/x\n", "error", "60-more:4", "the mirror"),
    ("install.d/60-more", HOOK + "wget https://mirror.example.org/a\n", "error", "60-more:4", "the mirror"),
    ("element-deps", "kiosk-appt\n", "error", "element-deps:", "no element 'kiosk-appt'"),
    ("package-installs.yaml", "git:\n  - [\n", "error", "package-installs.yaml:3", "not YAML"),
    ("package-installs.yaml", "# git:\n", "error", "package-installs.yaml:", "names nothing"),
    ("package-installs.yaml", "- git\n", "error", "package-installs.yaml:", "no mapping"),
    ("pkg-map", "{", "error", "pkg-map:1", "not JSON"),
]


@pytest.mark.parametrize(("file", "text", "severity", "where", "what"), HOOK_FAULTS)
def test_faults_of_an_element(own: Path, file: str, text: str, severity: str, where: str, what: str) -> None:
    path = own / "elements/my-element" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    assert [f for f in told(own) if f[:2] == (severity, where) and what in f[2]], told(own)


def test_a_hook_that_is_not_executable_would_not_run(own: Path) -> None:
    (own / "elements/my-element/install.d/50-mine").chmod(0o644)
    (fault,) = lint(own)
    assert fault.severity == "error" and "not executable" in fault.what
    assert fault.hint == f"chmod +x {fault.file}"


def test_a_hook_is_parsed_and_never_run(own: Path, tmp_path: Path) -> None:
    hook = own / "elements/my-element/install.d/50-mine"
    hook.write_text(f"#!/bin/bash\nset -e\ntouch {tmp_path}/ran\n$(touch {tmp_path}/ran)\n")
    (own / "elements/my-element/environment.d").mkdir()
    (own / "elements/my-element/environment.d/10-x.bash").write_text(f"touch {tmp_path}/ran\n")
    assert lint(own) == []
    assert not (tmp_path / "ran").exists()


def test_a_base_of_ones_own_is_looked_at_with_the_recipe_that_starts_from_it(own: Path) -> None:
    (own / "bases").mkdir()
    base = 'os = "debian"\nrelease = "buster"\narchitecture = "x86_64"\nelements = ["kiosk-base"]\n'
    (own / "bases/old.toml").write_text(base)
    text = RECIPE.replace('base = "debian-12"', 'base = "old"').replace("bookworm", "buster")
    (own / "images/mine.toml").write_text(text)
    assert [f[1] for f in told(own)] == ["old.toml:elements", "old.toml:release"]


EXCEPTION = '\n[[exceptions]]\ncheck = "setuid"\npath = "{}"\nreason = "{}"\n'


def test_exceptions_need_a_reason_and_a_file_that_they_are_about(own: Path) -> None:
    settings = Settings(home=own.parent / "home")
    listing = write_files([FileEntry(path="usr/bin/sudo", mode="104755", owner="0:0", size=5 << 20)])
    build_image(settings, "mine", "1", files=listing)
    text = RECIPE + EXCEPTION.format("/usr/bin/sudo", "Operators log in with it on the console.")
    (own / "images/mine.toml").write_text(text)
    assert lint(own) == []
    text += EXCEPTION.format("/usr/bin/su*", "TODO: say why") + EXCEPTION.format(
        "/usr/bin/gone", "It was used once."
    )
    text += EXCEPTION.format("/usr/bin/sudo", "")
    (own / "images/mine.toml").write_text(text)
    assert [(s, k) for s, k, _ in told(own)] == [
        ("error", "mine.toml:exceptions.3.reason"),
        ("error", "mine.toml:exceptions.1.reason"),
        ("warning", "mine.toml:exceptions.2.path"),
        ("error", "mine.toml:exceptions.3.reason"),
        ("warning", "mine.toml:exceptions.3"),
    ]


def test_a_partition_that_the_files_of_the_last_build_do_not_fit_in(own: Path) -> None:
    settings = Settings(home=own.parent / "home")
    listing = write_files([FileEntry(path="usr/lib/x", mode="100644", owner="0:0", size=200 << 20)])
    build_image(settings, "mine", "1", files=listing)
    (own / "images/mine.toml").write_text(RECIPE.replace("[policy]", "size = 128\n[policy]"))
    ((severity, where, what),) = told(own)
    assert (severity, where) == ("error", "mine.toml:size") and "mine@1 need 204 MiB" in what
    (own / "images/mine.toml").write_text(RECIPE.replace("[policy]", "size = 1024\n[policy]"))
    assert lint(own) == []


def test_packages_are_looked_up_as_the_build_would_install_them(own: Path, tmp_path: Path) -> None:
    archive(tmp_path / "lists", tmp_path / "repository")
    assert lint(own, packages=tmp_path / "lists") == []
    (own / "images/mine.toml").write_text(RECIPE.replace('"curl"', '"curl", "crul", "libmine3", "mail-git"'))
    (own / "elements/my-element/package-installs.yaml").write_text(
        "git:\ngti:\nonly-in-trixie:\n  when: DIB_RELEASE = trixie\nonly-on-arm:\n  arch: arm64\nold-name:\n"
    )
    (own / "elements/my-element/pkg-map").write_text(
        '{"release": {"debian": {"bookworm": {"old-name": "python3"}}}}'
    )
    found = lint(own, packages=tmp_path / "lists")
    assert [(f.severity, f.file.name, f.key) for f in found] == [
        ("error", "mine.toml", "packages.1"),
        ("error", "mine.toml", "packages.2"),
        ("warning", "mine.toml", "packages.3"),
        ("error", "package-installs.yaml", "gti"),
    ]
    assert [f.hint for f in found[:2]] == ["The archive has curl.", "The archive has libmine3t64."]


def test_a_package_of_a_source_that_the_element_brings_is_not_wrong(own: Path, tmp_path: Path) -> None:
    archive(tmp_path / "lists", tmp_path / "repository")
    hook = own / "elements/my-element/pre-install.d/10-source"
    hook.parent.mkdir()
    hook.write_text(
        HOOK + "echo 'deb https://vendor.example/apt x main' >/etc/apt/sources.list.d/vendor.list\n"
    )
    hook.chmod(0o755)
    (own / "images/mine.toml").write_text(RECIPE.replace('"curl"', '"vendors-tool"'))
    (fault,) = lint(own, packages=tmp_path / "lists")
    assert fault.severity == "warning" and "10-source may bring its source" in fault.what


def test_an_archive_that_cannot_be_asked_is_a_warning(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "http://127.0.0.1:1/debian"
    off = Mirrors(nobody, nobody, (("Acquire::Retries", "0"),))
    monkeypatch.setattr("kiosk.build.mirrors.host_mirrors", lambda _release: off)
    faults = lint(own, packages=tmp_path / "lists")
    assert {f.severity for f in faults} == {"warning"}
    assert "amd64 not checked: can't read the archive's list of packages for bookworm" in faults[0].what


def test_errors_end_the_command_with_2_and_warnings_do_not(terminal: Terminal, own: Path) -> None:
    code, out, err = terminal.run("recipe", "lint", "--offline")
    assert (code, err) == (0, "")
    assert "no errors, no warnings" in out
    text = RECIPE.replace("curl", "curl; x").replace("mine/*", "shadow").replace("my-element", "my-elemant")
    (own / "images/mine.toml").write_text(text)
    code, out, err = terminal.run("recipe", "lint", "mine", "--offline")
    assert (code, err) == (2, "kiosk: 1 recipe: 3 errors, no warnings\n")
    assert f"error: {own}/images/mine.toml:policy.etc.0: '/etc/shadow' opens /etc/shadow" in out
    code, out, _ = terminal.run("recipe", "lint", own / "images/mine.toml", "--offline", "--json")
    assert code == 2
    assert json.loads(out)["errors"] == 3 and json.loads(out)["packages_checked"] is False
    (own / "images/mine.toml").write_text(RECIPE.replace("mine/*", "sysctl.d/*"))
    code, out, _ = terminal.run("recipe", "lint", own, "--offline")
    assert code == 0 and out.splitlines()[-1] == "1 recipe, 1 element: no errors, 1 warning"
    assert terminal.run("recipe", "lint", "nothing-like-it", "--offline")[0] == 6


def test_a_folder_that_the_settings_do_not_name_is_read_with_its_own_elements(
    terminal: Terminal, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KIOSK_RECIPES")
    monkeypatch.chdir(own.parent)
    assert terminal.run("recipe", "lint", "own", "--offline")[0] == 0
    assert terminal.run("recipe", "lint", "own/images/mine.toml", "--offline")[0] == 0
    (own / "elements/my-element/install.d/50-mine").chmod(0o644)
    code, out, _ = terminal.run("recipe", "lint", "own/elements/my-element", "--offline")
    assert code == 2 and out.startswith("error: own/elements/my-element/install.d/50-mine: would not run")
