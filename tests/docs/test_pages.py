"""The pages hold together: generated parts are fresh, examples are valid, links lead somewhere, the README is short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from doc_blocks import PAGES, blocks_of
from places import ROOT

DOCS = ROOT / "docs"
yaml = pytest.importorskip("yaml")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_fresh(generate: ModuleType) -> None:
    """Run `python docs/generate.py` after changing a recipe key, an option, a codec, a criterion or a profile."""
    assert [page.name for page in generate.stale_pages()] == []


def test_a_stale_page_is_named(generate: ModuleType, tmp_path: Path) -> None:
    """A page whose generated part was edited by hand is not fresh, and is made again."""
    text = (DOCS / "exit-codes.md").read_text()
    (tmp_path / "p.md").write_text(text.replace("over budget |", "under budget |", 1))
    assert list(generate.stale_pages(tmp_path).values()) == [text]


def test_every_key_has_a_text(generate: ModuleType) -> None:
    """No key of a recipe is left out of the page because nobody wrote what it means."""
    from edgeprune.maker.recipe import recipe, steps

    kinds: tuple[type, ...] = (recipe.DataSpec, recipe.ExportSpec, recipe.LatencySpec)
    for kind in (*kinds, steps.PruneStep, steps.ChannelStep, steps.FinetuneStep, steps.QuantizeStep, steps.QatStep):
        assert generate.missing_texts(kind) == []


def test_the_readme_is_short() -> None:
    """A first page, not the manual."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"https?:|#", link)]
    assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == []


def test_tables_to_add_to_are_where_they_are_said_to_be() -> None:
    """Each `TABLE` in `file` of CONTRIBUTING.md is a name at the top of that file."""
    named = re.findall(r"`([A-Z]+)` in `([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert {"CRITERIA", "CODECS", "EXPORTS", "SPECS", "METRICS", "VERBS", "RANKS"} <= {name for name, _ in named}
    for name, file in named:
        assert re.search(rf"^{name}\b", (ROOT / file).read_text(), re.M), (name, file)


def test_every_page_is_in_the_navigation() -> None:
    """And the navigation names no page that is missing."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert set(re.findall(r"(\S+\.md)$", text, re.M)) == {page.name for page in DOCS.glob("*.md")}


def test_toml_and_yaml_examples_are_valid() -> None:
    """What a reader pastes can be read."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "toml":
                tomllib.loads(block.body)
            if block.language == "yaml":
                assert yaml.safe_load(block.body), block.place


def test_the_action_is_used_as_it_is() -> None:
    """The workflows that the pages show hand each action inputs that it has, and read outputs that it has."""
    actions = {"OWNER/edgeprune": "action.yml", "OWNER/edgeprune/.github/comment": ".github/comment/action.yml"}
    known = {name: yaml.safe_load((ROOT / file).read_text()) for name, file in actions.items()}
    steps: list[dict[str, Any]] = []
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "yaml" and "jobs:" in block.body:
                steps += [s for job in yaml.safe_load(block.body)["jobs"].values() for s in job["steps"]]
            elif block.language == "yaml" and "uses:" in block.body:
                steps += [item for item in yaml.safe_load(block.body) if "uses" in item]
    ours = [(step, known[name]) for step in steps if (name := step.get("uses", "").partition("@")[0]) in known]
    assert len({action["name"] for _, action in ours}) == len(actions)
    assert all(set(step.get("with", {})) <= set(action["inputs"]) for step, action in ours)
    outputs = {name for page in PAGES for name in re.findall(r"steps\.check\.outputs\.([\w-]+)", page.read_text())}
    assert outputs <= set(known["OWNER/edgeprune"]["outputs"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path: Path) -> None:
    """Each reads the repository only, bounds its time, and puts no text of others into a command."""
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {"contents": "read"}
    for job in flow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
            assert ("uses" in step) != ("run" in step)


def test_the_test_workflow_runs_the_whole_check() -> None:
    """The same command as everywhere, on each Python that the package names."""
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    (job,) = flow["jobs"].values()
    assert job["runs-on"].startswith("ubuntu")
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [c.rpartition(" ")[2] for c in classifiers if re.search(r":: Python :: 3\.\d+$", c)]
    assert job["strategy"]["matrix"] == {"python-version": versions}
    assert {"python-version": "${{ matrix.python-version }}"} in [step.get("with") for step in job["steps"]]
    assert [step["env"] for step in job["steps"] if step.get("run") == ".ci/run"] == [{"PYTHON": "python"}]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.name)
def test_issue_forms(path: Path) -> None:
    """A form has a name, a description and fields with labels of their own."""
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        return
    assert form["name"]
    assert form["description"]
    labels = [item["attributes"]["label"] for item in form["body"] if item["type"] != "markdown"]
    assert len(set(labels)) == len(labels) >= 2


def test_the_citation_is_that_of_the_package() -> None:
    """CITATION.cff follows its format's rules and names the version of pyproject.toml."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}] - {cited['date-released']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_guide_fetches_nothing() -> None:
    """A built page takes no font or script from elsewhere, and `make test` builds it strictly."""
    theme = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]
    assert (theme["name"], theme["font"]) == ("material", False)
    makefile = (ROOT / "Makefile").read_text()
    assert "mkdocs build --strict" in makefile
    assert re.search(r"^test: .*\bdocs\b", makefile, re.M)
