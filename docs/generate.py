"""Write the generated parts of these pages: `python docs/generate.py`; with --check, name the pages that are stale.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. What it holds comes from the code: the keys of a
recipe from its dataclasses (the text of a key is the string under its field), options from the command line itself,
codecs, importance criteria, device profiles, exit codes and import ranks from their tables.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

FOLDER = Path(__file__).parent
REQUIRED = "**required**"
PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def key_texts(kind: type) -> dict[str, str]:
    """Field -> the string under it, for a class and those it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def contained(kind: type) -> dict[str, tuple[type, bool]]:
    """Field -> (its record, whether it may be None), for fields that are records themselves."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        records = [part for part in parts if isinstance(part, type) and is_dataclass(part)]
        if records and all(part in (records[0], NoneType) for part in parts):
            found[name] = (records[0], NoneType in parts)
    return found


def keys_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """Key, default and text of each key of a table; options that a step contains are keys of its own table."""
    texts, records = key_texts(kind), contained(kind)
    for field in fields(kind):
        if field.name in records:
            record, optional = records[field.name]
            for key, default, text in keys_of(record):
                yield key, "none" if optional and default == REQUIRED else default, text
        elif field.name in texts:
            yield field.name, default_of(field), texts[field.name]


def missing_texts(kind: type) -> list[str]:
    """Keys of a table that nobody has written a text for; `kind` and `style` choose the table."""
    texts, records = key_texts(kind), contained(kind)
    nested = [name for record, _ in records.values() for name in missing_texts(record)]
    own = [field.name for field in fields(kind) if field.name not in {*texts, *records}]
    return [name for name in (*own, *nested) if name not in ("kind", "style", "seed")]


def default_of(field: Field[Any]) -> str:
    """As it would be written in TOML; "" where the key must be given, "none" where leaving it out means nothing."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return REQUIRED
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    cells = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in cells)


def key_table(kind: type) -> str:
    """The keys of one table of a TOML file."""
    return table(("key", "default", "meaning"), [(f"`{key}`", default, text) for key, default, text in keys_of(kind)])


def top_keys() -> str:
    """The keys of a recipe that stand in no table."""
    from edgeprune.maker.recipe.recipe import Recipe

    own = {key: default_of(field) for key, field in Recipe.__dataclass_fields__.items()}
    rows = [(f"`{key}`", own[key], text) for key, text in key_texts(Recipe).items()]
    return table(("key", "default", "meaning"), rows)


def exit_codes() -> str:
    """Every code a command can end with, from the help of the command line."""
    from edgeprune.commands.cli import EXIT_CODES

    pairs = re.findall(r"(\d+)  ?(.+?)(?:;|\n|$)", EXIT_CODES.replace(" terminated", "  terminated"))
    return table(("code", "meaning"), [(f"`{code}`", text.strip()) for code, text in pairs])


def errors() -> str:
    """The classes of errors, with their codes."""
    from edgeprune import errors as module

    kinds = [getattr(module, name) for name in module.__all__]
    kinds.sort(key=lambda kind: (kind.exit_code, kind.__name__))
    return table(("error", "code", "when"), [(f"`{k.__name__}`", f"`{k.exit_code}`", first_line(k)) for k in kinds])


def first_line(thing: Any) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def codecs() -> str:
    """The codecs by which a download can be measured."""
    from edgeprune.checker.size.codecs import CODECS

    rows = [(f"`{name}`", str(codec.level), codec.stands_for) for name, codec in CODECS.items()]
    return table(("codec", "level", "stands for"), rows)


def criteria() -> str:
    """The importance criteria of channel pruning."""
    from edgeprune.maker.pruning.channel.criteria import CRITERIA

    rows = [(f"`{c.name}`", "yes" if c.needs_data else "no", c.source) for c in CRITERIA.values()]
    return table(("importance", "needs training data", "source"), rows)


def devices() -> str:
    """The device profiles that come with the tool."""
    from edgeprune.checker.latency.profiles import shipped_profiles

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    rows = []
    for p in shipped_profiles():
        a = p.accuracy
        rows.append(
            (f"`{p.name}`", p.device, p.kind, str(a.rows), str(a.families), percent(a.median), percent(a.flops_median))
        )
    head = ("profile", "device", "kind", "rows", "families", "median error", "MACs alone")
    return table(head, rows)


def targets() -> str:
    """The accelerators that there are rules for."""
    from edgeprune.checker.latency.accelerators.rules import find_accelerator, target_names

    rows = []
    for a in map(find_accelerator, target_names()):
        documents = "; ".join(dict.fromkeys(f"<{s.address.partition(' ')[0]}> ({s.dated})" for s in a.sources))
        rows.append((f"`{a.target}`", ", ".join(a.precisions), str(len(a.operations)), str(len(a.rules)), documents))
    return table(("target", "files", "operations", "rules", "sources"), rows)


def api() -> str:
    """The public names of `import edgeprune`."""
    import edgeprune

    things = [(name, getattr(edgeprune, name)) for name in edgeprune.__all__]
    kinds = {True: "class", False: "function"}
    rows = [(f"`{n}`", kinds[isinstance(t, type)], first_line(t)) for n, t in things]
    return table(("name", "", "what it is"), rows)


def ranks() -> str:
    """The rank list of the test that holds it."""
    tree = ast.parse((FOLDER.parent / "tests" / "test_imports.py").read_text(encoding="utf-8"))
    (value,) = [n.value for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "RANKS"]
    assert value is not None
    rows = [", ".join(f"`{name}`" for name in rank) for rank in ast.literal_eval(value)]
    return "".join(f"{number}. {row}\n" for number, row in enumerate(rows, start=1))


def verbs() -> str:
    """All of the help of every verb, as --help-all prints it."""
    import click

    from edgeprune.commands.cli import CONTEXT, VERBS, cli
    from edgeprune.commands.screens import whole_help

    parts = []
    for name in VERBS:
        context = click.Context(cli, info_name="edgeprune", max_content_width=100, terminal_width=100)
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(
            command,
            info_name=name,
            parent=context,
            max_content_width=100,
            terminal_width=100,
            **{key: value for key, value in CONTEXT.items() if key == "help_option_names"},
        )
        parts.append(f"## edgeprune {name}\n\n```text\n{whole_help(inner)}\n```\n")
    return "\n".join(parts)


def tables_of_a_recipe() -> Mapping[str, Callable[[], str]]:
    """The tables of a recipe, by the name of their part."""
    from edgeprune.maker.recipe import recipe, steps
    from edgeprune.maker.search import space

    kinds = {
        "data": recipe.DataSpec,
        "prune": steps.PruneStep,
        "channel": steps.ChannelStep,
        "finetune": steps.FinetuneStep,
        "equalize": steps.EqualizeStep,
        "quantize": steps.QuantizeStep,
        "qat": steps.QatStep,
        "exports": recipe.ExportSpec,
        "latency": recipe.LatencySpec,
        "student": recipe.StudentSpec,
        "sweep": space.SweepOptions,
    }
    return {f"recipe-{name}": (lambda kind=kind: key_table(kind)) for name, kind in kinds.items()}


def budget() -> str:
    """The limits of a budget, which have the same keys in a recipe and in edgeprune.toml."""
    from edgeprune.checker.size.codecs import FULL
    from edgeprune.checker.written import LIMITS

    rows = [
        (f"`{limit}`", re.sub(r"--(ledger|device|target)", r"`\1`", written.help)) for limit, written in LIMITS.items()
    ]
    codec = ("`codec`", f"What `download` and `growth` are about: {', '.join(FULL)}.")
    device = ("`device`", "The profile that limits on latency are of (in a recipe: else those of `[latency]`).")
    target = (
        "`target`",
        "The accelerator that `min_eligible` is of, one of [those there are rules for](latency.md#accelerators).",
    )
    return table(("key", "meaning"), [*rows, codec, device, target])


def parts() -> dict[str, Callable[[], str]]:
    """What makes each part."""
    return {
        **tables_of_a_recipe(),
        "recipe-recipe": top_keys,
        "api": api,
        "budget": budget,
        "codecs": codecs,
        "criteria": criteria,
        "devices": devices,
        "targets": targets,
        "errors": errors,
        "exit-codes": exit_codes,
        "ranks": ranks,
        "verbs": verbs,
    }


def renewed(text: str) -> str:
    """A page with its generated parts made anew."""
    known = parts()
    return PART.sub(lambda found: f"{found[1]}{known[found[2]]()}{found[3]}", text)


def stale_pages(folder: Path = FOLDER) -> dict[Path, str]:
    """Page -> what should stand in it, for those that differ."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))}
    made = {page: renewed(text) for page, text in pages.items()}
    return {page: text for page, text in made.items() if text != pages[page]}


def main() -> int:
    """Write what is stale, or with --check only name it; the exit code."""
    stale, check = stale_pages(), sys.argv[1:] == ["--check"]
    for page, text in stale.items():
        if not check:
            page.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{page}: {'stale; run: python docs/generate.py' if check else 'written'}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
