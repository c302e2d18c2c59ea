"""The whole page: complete, self-contained, escaped, a function of the run folder, extensible by sections."""

import inspect
import re
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from siam import plugins
from siam.errors import RunError
from siam.report import sections
from siam.report.html import render
from siam.report.page import write_report
from tests.report.reading import (
    NASTY,
    NO_LABELS,
    SMALL,
    START,
    WHOLE,
    body,
    epoch,
    read,
    some_pictures,
    step,
)


def test_a_whole_run(run):
    root = read(run(WHOLE, pictures=some_pictures()))
    shown = body(root)
    assert root.find("h1")[0].text == "a-run"
    assert root.find("span", "pill")[0].text == "healthy"
    assert root.find("p", "advice") == []
    for number in ("67.3 %", "31.2 %", "20.7 %", "0.970", "90.5", "40.1", "−0.910", "12.6 min", "309"):
        assert number in shown, number
    facts = ("5,000 images", "1,000 for validation", "6.3 million", "cpu, bf16", "2 of 8 epochs", "20 steps")
    for fact in facts:
        assert fact in shown, fact
    assert "no kNN" not in shown
    titles = [text.text for text in root.find("text") if "font-weight" in (text.attributes["style"] or "")]
    assert titles[:3] == ["loss", "std of z/|z|", "kNN accuracy"]
    assert titles[3:5] == ["effective rank of the features", "effective rank of the projections"]
    assert titles[5:] == ["learning rate", "pairs per second"]
    headings = [heading.text for heading in root.find("h2")]
    assert headings == ["Curves", "What the network sees", "Nearest neighbors"]


def test_nothing_logged(run):
    root = read(run([]))
    assert root.find("span", "pill")[0].text == "no verdict yet"
    assert root.find("svg") == []
    assert root.find("img") == []
    assert root.find("div", "card") == []
    assert "Nothing has been logged yet" in body(root)


def test_the_content_security_policy_allows_only_inline_content(run):
    policies = [meta.attributes.get("content") for meta in read(run([])).find("meta")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policies


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunError, match=r"has no settings\.yaml"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_become_markup(run):
    plain = read(run(WHOLE, pictures=some_pictures()))
    nasty = some_pictures(name="c{}/{}" + NASTY.replace("{", "{{").replace("}", "}}"))
    changed = replace(SMALL, data=NASTY.replace("\udcff", ""), backbone="<b>")
    folder = run(WHOLE, changed, nasty, name="<i>&'\"")
    root = read(folder)
    assert [e.tag for e in root.every()] == [e.tag for e in plain.every()], "as with plain names"
    assert root.find("h1")[0].text == "<i>&'\""
    caption = root.find("div", "near")[0].find("figure")[0].attributes["title"]
    assert caption.startswith("c0/0<img src=x onerror=alert(1)>\"'&amp;</style></script>{{ 7 * 7 }}<b>")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in page)


def test_the_page_stays_under_2_mb(run):
    """Noise is the worst case for JPEG; the log is that of a run of weeks."""
    records = [START]
    for n in range(800):
        records += [step(100 * n + i, 100, loss=-0.5 - 0.001 * (i % 7)) for i in range(1, 101, 2)]
        records.append(epoch(n, 100))
    folder = run(records, pictures=some_pictures(224, pairs=64, queries=16, neighbors=16))
    read(folder)
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_the_page_is_a_function_of_the_run(run):
    folder = run(WHOLE, pictures=some_pictures())
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
        "metrics.jsonl", "pictures.npz", "report.html", "settings.yaml",
    ]  # fmt: skip


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, len(WHOLE) - 1)), unknown=st.sets(st.sampled_from(list(NO_LABELS))))
def test_any_record_may_be_absent(run, kept, unknown):
    records = [
        {name: None if name in unknown else value for name, value in WHOLE[i].items()} for i in sorted(kept)
    ]
    root = read(run(records))
    assert ("knn" in unknown or not kept & {3, 6}) == ("Validation images classified" not in body(root))


def test_all_settings_are_shown(run):
    root = read(run([]))
    rows = {row.find("th")[0].text: row.find("td") for row in root.find("details")[0].find("tr")}
    assert rows["batch_size"][0].text == "32"
    assert rows["scale"][0].text == "0.4 to 1"
    assert rows["momentum_schedule"][0].text == "cosine"
    assert rows["method"] == []


ADDED = """
from markupsafe import Markup

ORDER = 15

def html(run):
    return {returned}
"""


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ('"<b>" + run.settings.backbone + "</b>"', "&lt;b&gt;resnet18&lt;/b&gt;"),
        ('Markup("<b>{}</b>").format("<" + run.settings.backbone)', "<b>&lt;resnet18</b>"),
    ],
)
def test_a_section_is_added_by_one_file(run, tmp_path, monkeypatch, returned, shown):
    """It is discovered, shown at its position, and escaped unless it returns markup."""
    added = tmp_path / "added"
    added.mkdir()
    (added / "unheard_of.py").write_text(ADDED.format(returned=returned))
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(added)])
    monkeypatch.delitem(sys.modules, "siam.report.sections.unheard_of", raising=False)
    page = write_report(run(WHOLE, pictures=some_pictures())).read_text(encoding="utf-8")
    assert f"\n{shown}\n" in page
    assert page.index("<h2>Curves") < page.index(shown) < page.index("<h2>What the network sees")


def test_every_section_has_its_own_position():
    found = plugins.modules("siam.report.sections")
    orders = [section.ORDER for section in found]
    assert len(set(orders)) == len(orders) == len(plugins.names("siam.report.sections")) >= 7
    assert all(callable(section.html) for section in found)


def test_a_template_that_lacks_a_value_is_an_error():
    with pytest.raises(UndefinedError, match="'table' is undefined"):
        render("transfers.html", photographs="")


def test_the_report_does_not_import_training():
    """It only reads the run folder."""
    above = ("siam.train", "siam.protocols", "siam.transfer", "siam.cli", "siam.verbs", "siam.paper")
    for module in (*plugins.modules("siam.report"), *plugins.modules("siam.report.sections")):
        names = re.findall(r"^\s*(?:from|import) (siam\.\S+)", inspect.getsource(module), re.MULTILINE)
        assert not [name for name in names if name.startswith(above)], module.__name__
