"""The documents are true: their code runs, their commands and options exist, their links lead somewhere."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import pal
from pal import _kinds, cli, selection
from pal._training.run import Run

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RUN = ["README.md", "docs/tutorial.md", "docs/data.md", "docs/embeddings.md", "docs/model.md", "docs/cli.md"]
# it is the code that is tried:
PEOPLE = 60  # of the town at most, and 30 where a document does not say
STEPS = 40  # of each run
COMMANDS = typer.main.get_group(cli.app).commands


def blocks(document: str) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of each block of a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start()) + 2, match[1], match[2]


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, f"'{line}' ended with exit code {stopped.value.code}"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAL_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("document", RUN)
def test_every_block_of_code_runs(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    town = pal.simulation.demo
    monkeypatch.setattr(pal.simulation, "demo", lambda n_users=30, seed=0: town(min(n_users, PEOPLE), seed))
    begin = Run.__init__

    def briefly(self: Run, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.max_steps = min(self.max_steps, STEPS)

    monkeypatch.setattr(Run, "__init__", briefly)
    # where several kinds of models are tried the first, and once: which it is, other tests show
    kinds = selection.kinds
    monkeypatch.setattr(selection, "kinds", lambda *given: kinds(*given)[:1])
    monkeypatch.setattr(_kinds, "_FEW", 0)
    select = pal.select
    monkeypatch.setattr(pal, "select", lambda *given, folds=5, **more: select(*given, folds=min(folds, 2), **more))
    namespace: dict[str, Any] = {"__name__": "document"}
    ran = 0
    for line, language, text in blocks(document):
        if language == "python":
            code = compile("\n" * (line - 1) + text, str(ROOT / document), "exec")
            exec(code, namespace)
            ran += 1
        elif language == "sh":
            for command in text.splitlines():
                if command.startswith("pal "):
                    run_command(command, monkeypatch)
                    ran += 1
    assert ran, f"{document} has no code"


def sections() -> dict[str, str]:
    """The text of each command's section in docs/cli.md."""
    pieces = re.split(r"^## pal (\S+)$", (ROOT / "docs/cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def options_of(command: str) -> set[str]:
    parameters = COMMANDS[command].params
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert sorted(sections()) == sorted(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_section_shows_every_option_of_its_command_and_no_other(command: str) -> None:
    section = sections()[command]
    shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", "\n".join(re.findall(r"`[^`\n]*`", section))))
    assert shown - options_of(command) == set()
    long = {name for name in options_of(command) if name.startswith("--")}
    assert long - shown <= {"--help"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_section_runs_its_command(command: str) -> None:
    commands = re.findall(r"^pal (\S+)", sections()[command], flags=re.MULTILINE)
    assert command in commands


def test_options_in_every_document_exist() -> None:
    for document in DOCUMENTS:
        for _, language, text in blocks(str(document.relative_to(ROOT))):
            for line in text.splitlines() if language in ("sh", "console") else ():
                words = shlex.split(line, comments=True)
                if len(words) > 1 and words[0] == "pal":
                    given = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
                    assert given <= options_of(words[1]), f"{document.name}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), f"{document.name} links to {target}"
        if anchor and found.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_no_path_of_a_machine(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|work|tmp|root|Users)/", text)
