"""The page of a run: every picture, its table, what is not measured, and names that try to break out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_ledgers import ledger
from made_pages import answers, full_files, full_ledger, many_layers, search_report, sensitivity
from made_records import NASTY, layer, record

from edgeprune.answers import AnswerChange, ErrorCounts
from edgeprune.errors import InputError
from edgeprune.ledger import Ledger, schema_path
from edgeprune.points import SearchReport
from edgeprune.report.html.file_pages import inspect_page
from edgeprune.report.html.page import page_html, picture_svg
from edgeprune.report.html.run_page import RunFiles, run_page
from edgeprune.report.html.treemap import treemap
from edgeprune.report.html.turned import answer_pictures
from edgeprune.report.model_explorer import node_data
from edgeprune.report.sensitivity_report import sensitivity_text

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = [
    "waterfall",
    "treemap",
    "classes-probs",
    "mistakes-probs",
    "errors-price",
    "blame-steps",
    "blame-layers",
    "sensitivity",
    "sensitivity-metric",
    "channels-pruned",
    "sparsity-pruned",
    "devices",
    "pareto",
    "learning",
]


class Read(HTMLParser):
    """A page as a browser sees it: its elements, and the text in its body."""

    def __init__(self, written: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(written)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_all_that_is_known_is_drawn() -> None:
    """Each picture once, with a name of its own, a label and a table."""
    page = run_page(full_ledger(), full_files())
    assert [picture.name for picture in page.pictures] == PICTURES
    written = page_html(page)
    figures = re.findall(r"<figure.*?</figure>", written, re.DOTALL)
    assert len(figures) == len(PICTURES)
    assert all(figure.count("<table>") == 1 and 'role="img" aria-label="' in figure for figure in figures)
    assert len(written.encode()) < 250_000


def test_what_is_missing_is_said_and_not_drawn() -> None:
    """An old ledger, without files beside it."""
    page = run_page(ledger(), RunFiles(notes=("Bytes by layer: gone.",)))
    assert [picture.name for picture in page.pictures] == ["waterfall", "sparsity-pruned"]
    read = Read(page_html(page))
    said = " ".join(read.words)
    for line in (
        "accuracy of m.sparse.mlpackage: not verified: op fft is not known to the evaluator.",
        "Latency on devices: not estimated; name them in [latency] devices of the recipe.",
        "Which step and which layer cost what: not measured; blame = true in the recipe does.",
        "Bytes by layer: gone.",
    ):
        assert line in said
    (waterfall, _) = page.pictures
    package = next(row for row in waterfall.table.rows if row[0] == "Core ML sparse")
    assert package[5:9] == ("not measured", "-", "-", "not measured")


def test_the_waterfall_says_what_the_ledger_says() -> None:
    """Bytes, ratios, intervals and the metric of each stage, and what ships beside them."""
    picture = run_page(full_ledger(), RunFiles()).pictures[0]
    last = next(row for row in picture.table.rows if row[0] == "int8")
    assert last == (
        "int8", "m.int8.tflite", "yes", "100 kB", "0.111x", "0.910", "0.898 to 0.925", "faster", "91.31 %",
        "-1.00 points", "-2.00 points to +0.00 points",
    )  # fmt: skip
    assert ">0.910<" in picture.wide
    assert ">.tflite · ships<" in picture.wide


def test_only_scored_epochs_have_a_point() -> None:
    """With keep_from the first epochs are not scored: the curve begins where scores do, at the epoch's own number."""
    full = full_ledger()
    stages = list(full.stages)
    place = next(n for n, stage in enumerate(stages) if stage.training and len(stage.training.epochs) > 1)
    training = stages[place].training
    assert training is not None
    last = len(training.epochs)
    unscored = [replace(epoch, validation=None, scores={}) for epoch in training.epochs[:-1]]
    kept = replace(training, epochs=(*unscored, training.epochs[-1]), kept_epoch=last)
    stages[place] = replace(stages[place], training=kept)
    page = run_page(replace(full, stages=tuple(stages)), RunFiles())
    picture = next(each for each in page.pictures if each.name == "learning")
    title = f"{stages[place].name}: validation"
    after = picture.wide[picture.wide.index(title) :]
    assert after.count(f"epoch {last}: ") == 1
    assert "epoch 1: " not in after.split(": loss")[0]
    told = [row[3] for row in picture.table.rows if row[0] == stages[place].name]
    assert told[:-1] == ["not measured"] * (last - 1)
    assert told[-1] != "not measured"


NAMES = st.text(max_size=24) | st.sampled_from(
    [NASTY, "</svg></script><script>pwned()</script>", '" onload="x', "]]>", ""]
)


@settings(max_examples=10)
@given(name=NAMES)
def test_no_name_breaks_out(name: str) -> None:
    """The page has the same elements whatever the names are, and each picture stays XML."""
    page = run_page(full_ledger(name), full_files(name, 12))
    read = Read(page_html(page))
    assert read.tags.count("script") == read.tags.count("style") == 1
    assert not {tag for tag in read.tags if tag in ("img", "iframe", "object", "b", "base", "form")}
    assert not {key for key in read.attributes if key.startswith("on") or key == "style"}
    for picture in page.pictures:
        assert ElementTree.fromstring(picture_svg(picture).encode()).tag == f"{SVG}svg"


def boxes(svg: str, key: str) -> list[tuple[str, float]]:
    """(name, area) of every tile that is no block."""
    found = []
    for tile in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if tile.get("class") != "block" and tile.get(f"data-{key}"):
            _, _, width, height = map(float, str(tile.get(f"data-{key}")).split())
            found.append((str(tile.find(f"{SVG}text").get("data-name")), width * height))  # type: ignore[union-attr]
    return found


def test_tiles_are_as_large_as_their_bytes() -> None:
    """Of layers that lie in no block, for every way to count; what is no layer has a tile of its own."""
    made = record(
        layers=(layer("a", raw_bytes=3000, deflate_bytes=100), layer("b", raw_bytes=1000, deflate_bytes=700)),
        raw_bytes=5000,
        download_bytes={"deflate": 1600},
    )
    picture = treemap(made)
    for key, sizes in (("raw", (3000, 1000, 1000)), ("deflate", (100, 700, 800))):
        areas = dict(boxes(picture.wide, key))
        whole = sum(areas.values())
        assert whole == pytest.approx(720 * 440, rel=0.01)  # the whole picture
        assert [areas[name] / whole for name in ("a", "b", "(structure, names, padding)")] == pytest.approx(
            [size / sum(sizes) for size in sizes], rel=0.01
        )
    assert "data-brotli" not in picture.wide
    assert "Not measured for this file: brotli." in picture.caption


def test_blocks_are_what_names_share() -> None:
    """Ten layers in each block; a beginning that all share is none."""
    picture = treemap(many_layers(30, "model/block"))
    blocks = re.findall(r'class="block".*?data-name="([^"]+)"', picture.wide)
    assert blocks == ["block0", "block1", "block2"]


def test_layers_that_grew_and_shrank() -> None:
    """Against another file: red, green, and grey where nothing changed; one that is gone stands in the table."""
    old = record(layers=(layer("a"), layer("b"), layer("c"), layer("gone")))
    new = record(
        layers=(layer("a", deflate_bytes=2200), layer("b", deflate_bytes=550), layer("c"), layer("fresh", kind="X"))
    )
    picture = treemap(new, old)
    classes = re.findall(r'<g class="(grew|shrank|same)" data-zeros="0.36" data-grown="([\d.]+)"', picture.wide)
    assert classes == [("grew", "1"), ("shrank", "0.6"), ("same", "1"), ("grew", "1")]
    assert [row for row in picture.table.rows if row[0] == "gone"]


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_layers(count: int) -> None:
    """None is said, one is drawn, and of five hundred the page stays small."""
    made = many_layers(count) if count else record(layers=())
    written = page_html(inspect_page([made]))
    assert ("Its layers are not known" in written) is not count
    assert len(written) < 700_000


def test_many_classes_are_rows_and_few_a_matrix() -> None:
    """Squares for three classes, bars for a thousand."""
    few = answers()
    many = replace(few, swaps=tuple(replace(swap, actual=swap.actual + 900) for swap in few.swaps))
    assert [picture.name for picture in answer_pictures(few, "m")] == ["classes-probs", "mistakes-probs"]
    assert "+7" in answer_pictures(few, "m")[1].wide
    assert "901 taken for 2" in answer_pictures(many, "m")[1].wide


def test_answers_are_in_the_ledger() -> None:
    """They read back, fit the schema, and counts that do not fit their edges are refused."""
    made = full_ledger()
    assert Ledger.from_json(json.dumps(made.to_json())) == made
    jsonschema.validate(json.loads(json.dumps(made.to_json())), json.loads(schema_path().read_text()))
    with pytest.raises(ValueError, match="one count fewer"):
        ErrorCounts(edges=(0.0, 1.0), before=(1, 2), after=(1, 2))
    assert AnswerChange(output="x", answers=1, lost=0, won=0).errors is None


def test_a_search_reads_itself_back() -> None:
    """And another version is refused."""
    made = search_report()
    assert SearchReport.from_json(json.loads(json.dumps(made.to_json())), "search.json") == made
    with pytest.raises(InputError, match=r"search.json is the search of another version"):
        SearchReport.from_json({"points": [], "schema_version": 99}, "search.json")
    with pytest.raises(InputError, match=r"names a file that is not among its files"):
        SearchReport.from_json({**json.loads(json.dumps(made.to_json())), "winner": 4}, "search.json")


ODD = [0, 1, -1, 2**60, 0.0, -1.0, 1e300, 5e-324]


def numbers(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all numbers in plain values."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_odd_numbers_in_a_ledger() -> None:
    """Each is refused when the ledger is read, or drawn within the picture."""
    rng, drawn = random.Random(1), 0
    text = json.dumps(full_ledger().to_json())
    places = list(numbers(json.loads(text)))
    for place in rng.sample(places, 60):
        made = json.loads(text)
        inner = made
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = rng.choice(ODD)
        try:
            read = Ledger.from_json(made)
        except InputError:
            continue
        drawn += 1
        for picture in run_page(read, RunFiles()).pictures:
            for part in ElementTree.fromstring(picture.wide).iter():
                places_in = [part.get(key, "0") for key in ("x", "y", "width", "height", "x1", "x2", "cx", "cy")]
                assert all(-1e4 < float(number) < 1e4 for number in places_in), (place, picture.name)
    assert drawn > 20


def test_a_sensitivity_as_text() -> None:
    """The same table as under its picture, and all layers together."""
    lines = sensitivity_text(sensitivity("conv")).splitlines()
    assert lines[2].split() == [
        "conv",
        "50.00",
        "%",
        "12.5",
        "dB",
        "0.9000",
        "2.00",
        "%",
        "20.0",
        "dB",
        "0.9000",
        "0.10",
        "%",
    ]
    assert lines[-1] == "int8 of all of them: SQNR 10.0 dB, accuracy 0.9200 -> 0.9000 on 500 samples (one is 0.2 %)."


def test_node_data() -> None:
    """By the number of the operation in the main graph; those of other graphs are left out."""
    made = record(layers=(layer("a", deflate_bytes=None), layer("b"), layer("c", group="subgraph 1")))
    graph = json.loads(node_data(made))["main"]
    assert graph["results"] == {"0": {"value": 0}, "1": {"value": 1100}}
    assert [stop["stop"] for stop in graph["gradient"]] == [0, 1]
