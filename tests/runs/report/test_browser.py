"""The report in a browser: charts are drawn, the legend and the filters work, nothing runs out of
the page on a phone. RLHF_JAX_SCREENSHOTS=FOLDER keeps the screenshots, for looking at."""

import copy
import os
import pathlib

import pytest

from rlhf_jax.runs.report import write_report
from tests.runs.report.browser import chromium, find_browser
from tests.runs.report.folders import GRPO, make_run

pytestmark = pytest.mark.slow
PHONE = (390, 844)
DESKTOP = (1280, 900)
SIZES = {"phone": PHONE, "desktop": DESKTOP}
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'"
OVERFLOW = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll("body *")]
  .filter((each) => !each.closest(".scroll, .chips, pre, svg, [hidden]"))
  .map((each) => [each, each.getBoundingClientRect()])
  .filter(([each, place]) => each.getClientRects().length && place.right > wide + 0.5)
  .map(([each, place]) => `${each.tagName} ${each.className} ${Math.round(place.right)}`);
"""
CLIPPED = """
return [...document.querySelectorAll("figure svg text")].filter((text) => {
  const own = text.getBoundingClientRect();
  const all = text.closest("svg").getBoundingClientRect();
  const beside = own.left < all.left - 0.5 || own.right > all.right + 0.5;
  return own.width && (beside || own.bottom > all.bottom + 0.5);
}).map((text) => text.textContent);
"""
OVERLAPPING = """
return [...document.querySelectorAll("figure svg")].filter((svg) => {
  const places = [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  return places.some((one, index) => places.slice(index + 1).some((other) =>
    one.right > other.left + 1 && other.right > one.left + 1
    && one.bottom > other.top + 3 && other.bottom > one.top + 3));
}).map((svg) => svg.getAttribute("aria-label"));
"""
COUNT = "return document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [
        ("train", step, f"What is {step} + {place}?", str(step + place * (place % 3)), place % 2)
        for step in range(1, 31)
        for place in range(4)
    ]
    rows.append(("eval", 30, HOSTILE, HOSTILE, 0.0))
    rows.append(("eval", 30, "a" * 5000, "\u202e\u05e9\u05dc\u05d5\u05dd", 1.0))
    for seed in (0, 1):
        config = GRPO | {"seed": seed}
        make_run(folder / "grpo" / f"seed_{seed}", config, shift=0.02 * seed, completions=rows)
    dapo = copy.deepcopy(GRPO)
    dapo["algorithm"] |= {"name": "dapo", "clip_high": 0.28}
    make_run(folder / "dapo", dapo, steps=25, ended=None, shift=-0.1)
    return write_report([folder], folder / "report.html")[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found, reason = find_browser()
    if found is None:
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def opened(page, report):
    page.theme("light")
    page.size(*DESKTOP)
    page.open(report)
    return page


def keep(page, name):
    """A screenshot for whoever wants to look."""
    if folder := os.environ.get("RLHF_JAX_SCREENSHOTS"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        page.picture(pathlib.Path(folder) / f"{name}.png", whole=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_everything_stands_inside_of_the_page(opened, size, theme):
    opened.size(*SIZES[size])
    opened.theme(theme)
    opened.run("location.reload()")
    assert opened.run(OVERFLOW) == []
    assert opened.run("return document.documentElement.scrollWidth") == SIZES[size][0]
    assert opened.run(CLIPPED) == [] and opened.run(OVERLAPPING) == []
    assert opened.run("return document.querySelectorAll('figure svg path').length") > 20
    keep(opened, f"{size}-{theme}")


def test_shares_are_percents_and_none_is_above_100(opened):
    script = """
      const figure = [...document.querySelectorAll('figure')].find((each) =>
        each.querySelector('h3').textContent === arguments[0]);
      const labels = [...figure.querySelectorAll('svg text')].map((text) => text.textContent);
      return labels.filter((label) => label.endsWith('%'));
    """
    right = opened.run(script, "Right answers")
    assert right[-1] == "100%" and len(right) >= 3
    assert max(float(label.rstrip("%")) for label in right) == 100
    assert opened.run(script, "Entropy of the policy") == []
    assert "%" in opened.run("return document.querySelector('.card .big').innerText")


def test_text_of_a_run_runs_nothing(opened):
    assert opened.run("return document.title") == "dapo, grpo (2 seeds) · training report"
    search = opened.find("#pick-text")[0]
    opened.type(search, "onerror")
    assert opened.run(COUNT) == "1 to 2 of 2", "in both seeds"
    opened.click(opened.find(".row summary")[0])
    texts = opened.run("return [...document.querySelectorAll('.row pre')].map((e) => e.innerText)")
    assert texts == [HOSTILE, HOSTILE]
    assert opened.run("return document.images.length") == 0
    assert "owned" not in opened.run("return document.title")


def test_nothing_is_requested_and_no_script_fails(opened):
    names = opened.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert names == []
    assert [entry["message"] for entry in opened.log() if entry["level"] != "INFO"] == []


def test_the_legend_switches_lines(opened):
    lines = "return document.querySelectorAll('#judged figure svg path').length"
    before = opened.run(lines)
    chips = opened.find(".chip")
    opened.click(chips[1])
    fewer = opened.run(lines)
    pressed = "return document.querySelectorAll('.chip')[1].ariaPressed"
    assert opened.run(pressed) == "false"
    assert 0 < fewer < before
    keep(opened, "legend")
    opened.click(chips[1])
    assert opened.run(lines) == before


def test_a_pointer_shows_values(opened):
    opened.move_to(opened.find("#judged figure svg")[0])
    text = opened.run("return document.querySelector('.tip:not([hidden])').innerText")
    assert text.startswith("training step ") and "dapo" in text and " to " in text
    keep(opened, "tip")


def test_completions_are_filtered_and_sorted(opened):
    def choose(name, value):
        script = """
        const list = document.getElementById(`pick-${arguments[0]}`);
        list.value = arguments[1];
        list.dispatchEvent(new Event("change"));
        """
        opened.run(script, name, value)

    assert opened.run(COUNT).endswith("of 244")
    choose("right", "false")
    assert opened.run(COUNT) == "1 to 20 of 122"
    choose("run", "1")
    choose("split", "train")
    choose("step", "7")
    assert opened.run(COUNT) == "1 to 2 of 2"
    choose("right", "")
    choose("sort", "high")
    pills = "return [...document.querySelectorAll('.pill')].map((each) => each.textContent)"
    assert opened.run(pills) == ["1", "1", "0", "0"]
    colours = opened.run(
        "return [...document.querySelectorAll('.pill')].map((each) => each.style.background)"
    )
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_pages_turn(opened):
    buttons = opened.find(".pager button")
    opened.click(buttons[1])
    assert opened.run(COUNT) == "21 to 40 of 244"
    opened.click(buttons[0])
    assert opened.run(COUNT) == "1 to 20 of 244"


def test_axes_can_be_changed(opened):
    script = """
    const list = document.querySelector(".controls select");
    list.value = arguments[0];
    list.dispatchEvent(new Event("change"));
    return document.querySelector("#judged svg").getAttribute("aria-label");
    """
    assert opened.run(script, "tokens") == "Reward: mean reward by tokens generated for training"
    assert opened.run(CLIPPED) == [] and opened.run(OVERLAPPING) == []
    assert "by seconds of training" in opened.run(script, "seconds")
    assert opened.run(CLIPPED) == [] and opened.run(OVERLAPPING) == []
