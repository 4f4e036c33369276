"""A recipe of one's own: made, listed, linted and built as kiosk's own are; nothing that is there is overwritten."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from kiosk.build import recipe_new
from kiosk.build.book import Book
from kiosk.config import Settings
from kiosk.model.recipe import Recipe
from tests.build.own_recipes import RECIPE, own_folder
from tests.publish.test_commands import Terminal
from tests.simulators.published import build_image


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.delenv("KIOSK_RECIPES", raising=False)
    return Terminal(monkeypatch, capsys, tmp_path / "home")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("parent", Book.of(Settings()).names())
def test_a_new_recipe_is_the_old_one_with_an_element_more(parent: str, tmp_path: Path) -> None:
    kiosks = Book.of(Settings())
    recipe_new.write(recipe_new.plan(kiosks, "mine", parent, tmp_path))
    old = kiosks.entry(parent).recipe
    new = Recipe.model_validate(tomllib.loads((tmp_path / "images/mine.toml").read_text()))
    changed = {"name": "mine", "elements": (*old.elements, "mine"), "description": new.description}
    assert new == old.model_copy(update=changed)


def test_switches_size_and_exceptions_are_copied_too(tmp_path: Path) -> None:
    own = own_folder(tmp_path / "own")
    more = "size = 900\n[policy]\nusers = false\n"
    exception = (
        '\n[[exceptions]]\ncheck = "setuid"\npath = "/x"\nreason = "It says \\"hello\\" to \\\\ users."\n'
    )
    (own / "images/mine.toml").write_text(RECIPE.replace("[policy]\n", more) + exception)
    book = Book.of(Settings(recipes=own))
    recipe_new.write(recipe_new.plan(book, "second", "mine", own))
    first, second = (book.entry(name).recipe for name in ("mine", "second"))
    assert (second.size, second.policy, second.exceptions) == (900, first.policy, first.exceptions)


def test_a_new_recipe_is_ready_to_be_linted_listed_and_built(terminal: Terminal, tmp_path: Path) -> None:
    own = tmp_path / "own"
    code, out, err = terminal.run("recipe", "new", "cern-worker", "--from", "debian-13-worker", "--into", own)
    assert (code, err) == (0, "")
    assert f"export KIOSK_RECIPES={own}" in out and "kiosk recipe lint cern-worker" in out
    hook = own / "elements/cern-worker/install.d/50-cern-worker"
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755
    terminal.set("KIOSK_RECIPES", own)
    assert terminal.run("recipe", "lint", "cern-worker", "--offline")[:2] == (
        0,
        "1 recipe: no errors, no warnings\n",
    )
    assert terminal.json("build", "cern-worker", "--dry-run")["elements"][-1] == "cern-worker"
    rows = {row["name"]: row for row in terminal.json("recipe", "list")}
    assert rows["cern-worker"]["origin"] == str(own) and rows["cern-worker"]["release"] == "trixie"
    assert rows["debian-13-worker"]["origin"] == "kiosk"


def test_what_is_there_is_never_overwritten(terminal: Terminal, tmp_path: Path) -> None:
    own = own_folder(tmp_path / "own")
    terminal.set("KIOSK_RECIPES", own)
    before = everything(own)
    for name in ("mine", "my-element", "debian-12-minimal", "vm", "kiosk-base", "Not-A-Name", "../up"):
        code, out, err = terminal.run("recipe", "new", name)
        assert (code, out) == (2, ""), name
        assert err.startswith("kiosk: ")
    assert terminal.run("recipe", "new", "fine", "--from", "nothing")[0] == 6
    assert everything(own) == before
    assert terminal.run("recipe", "new", "fine", "--dry-run")[0] == 0
    assert everything(own) == before


def test_a_recipe_that_was_interrupted_while_it_was_made_is_made_whole_by_the_same_command(
    tmp_path: Path,
) -> None:
    book = Book.of(Settings())
    made = recipe_new.plan(book, "mine", "debian-12-minimal", tmp_path)
    recipe_new.write(made[:2])
    again = recipe_new.plan(book, "mine", "debian-12-minimal", tmp_path)
    recipe_new.write(again)
    assert (tmp_path / "images/mine.toml").exists()
    (tmp_path / "images/mine.toml").unlink()
    (tmp_path / "elements/mine/install.d/60-more").write_text("mine\n")
    with pytest.raises(Exception, match="is there already"):
        recipe_new.plan(book, "mine", "debian-12-minimal", tmp_path)


def test_without_a_folder_of_ones_own_the_command_says_how_to_name_one(terminal: Terminal) -> None:
    code, _, err = terminal.run("recipe", "new", "mine")
    assert code == 2 and "--into FOLDER" in err and "KIOSK_RECIPES" in err


def test_the_list_says_where_a_recipe_is_from_what_it_hides_and_what_was_built(
    terminal: Terminal, tmp_path: Path
) -> None:
    own = own_folder(tmp_path / "own")
    (own / "images/debian-12-minimal.toml").write_text(RECIPE.replace("mine", "debian-12-minimal", 1))
    (own / "images/broken.toml").write_text("name = 'broken'\n")
    terminal.set("KIOSK_RECIPES", own)
    settings = Settings(home=tmp_path / "home")
    for version in ("20260301.2", "20260301.10"):
        build_image(settings, "mine", version)
    (settings.images / "mine/20260302.1").mkdir()
    rows = {row["name"]: row for row in terminal.json("recipe", "list")}
    assert (rows["mine"]["built"], rows["mine"]["newest"]) == (2, "20260301.10")
    assert rows["mine"]["last_build"].startswith("20")
    assert rows["debian-12-minimal"]["hides"] and not rows["debian-12-worker"]["hides"]
    assert "missing" in rows["broken"]["fault"]
    code, out, _ = terminal.run("recipe", "list")
    assert code == 0
    assert "own, hides kiosk's" in out and "faulty: " in out and out.endswith(f"own: {own}\n")
