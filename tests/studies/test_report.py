"""Tables from known scores, the page, and `scores.csv`."""

import csv
import math
from html.parser import HTMLParser

import pytest
from PIL import Image

from latentdebias.errors import UserError
from latentdebias.studies.chart import Point, line_chart
from latentdebias.studies.report import write_report
from latentdebias.studies.results import results_of, tuned_values
from latentdebias.studies.running import record_failure
from latentdebias.studies.tables import Scoreboard, score_tables, tuning_table

SEEDS = [0, 1, 2]
BASE, OURS = "constant", "min_snr gamma 3"
FID = {  # (setting, iteration, steps), a value for each seed
    (BASE, 2, 3): [20, 22, 24],
    (BASE, 4, 3): [10, 12, 14],
    (BASE, 6, 3): [11, 13, 15],
    (BASE, 6, 1): [50, 50, 50],
    (OURS, 2, 3): [9, 12, 12],
    (OURS, 4, 3): [9, 10, 11],
    (OURS, 6, 3): [8, 9, 10],
    (OURS, 6, 1): [51, 52, 53],
}


def known_fid(cell, score):
    return float(FID[cell.setting.label, score.iteration, score.draw.steps][cell.seed])


@pytest.fixture
def study(read_study):
    return read_study(seeds=SEEDS, evaluate={"at": [2, 4, 6]})


@pytest.fixture
def tables(study, write_records):
    write_records(study.cells({}), known_fid)
    return list(score_tables(Scoreboard(study, "fid", results_of(study.cells({})))))


def test_scores_by_steps_and_by_iteration(tables):
    by_steps, by_iteration, *_ = tables
    assert by_steps.header == ["T", BASE, OURS]
    assert by_steps.rows == [["1", "50 ± 0", "52 ± 1"], ["3", "13 ± 2", "9 ± 1"]]
    assert by_steps.best == {(0, 1), (1, 2)}
    assert by_iteration.rows[0] == ["2", "22 ± 2", "11 ± 1.7"]
    assert [row[0] for row in by_iteration.rows] == ["2", "4", "6"]
    assert "| 3 | 13 ± 2 | **9 ± 1** |" in by_steps.markdown()


def test_iterations_to_the_baselines_best(tables):
    """The baseline's best mean is 12, at 4; the other has 11 at 2 already."""
    [reached] = [table for table in tables if table.title.startswith("Iterations")]
    assert reached.rows == [["3: 12", "4 (1x)", "2 (2x)"]]
    assert "still be improving" not in reached.note


def test_significance_is_paired_by_seed(tables):
    *_, against = tables
    # At T = 3 the differences are -3, -4, -5: t = 4 sqrt(3), p = 1 - t / sqrt(t^2 + 2).
    t = 4 * math.sqrt(3)
    p = 1 - t / math.sqrt(t**2 + 2)
    assert against.rows[1] == ["3", OURS, "-4 ± 1", "3 of 3", f"{p:.2g}", "0.25"]
    assert against.rows[0][:4] == ["1", OURS, "+2 ± 1", "0 of 3"]
    assert "below 0.25 with 3 seeds" in against.note


def test_what_is_missing_is_said(study, write_records):
    write_records(study.cells({}), lambda cell, score: None if (cell.setting.label, cell.seed) == (OURS, 1) else 5.0)
    by_steps, *_ = score_tables(Scoreboard(study, "fid", results_of(study.cells({}))))
    assert by_steps.rows[0] == ["1", "5 ± 0", "5 ± 0 (2 of 3 seeds)"]
    [single] = [cell for cell in study.cells({}) if (cell.setting.label, cell.seed) == (OURS, 0)]
    by_steps, *_ = score_tables(Scoreboard(study, "fid", results_of([single])))
    assert by_steps.rows[0] == ["1", "–", "5 [1, 99] (1 of 3 seeds)"]


def test_the_best_value_is_tuned_and_the_edge_of_the_grid_is_said(read_study, write_records):
    tune = {"key": "optimizer.lr", "values": [1e-4, 1e-3, 1e-2], "iterations": 2, "seed": 9}
    study = read_study(tune=tune)
    scores = {BASE: {1e-4: 3.0, 1e-3: 2.0, 1e-2: math.nan}, OURS: {1e-4: 3.0, 1e-3: 2.5, 1e-2: 1.0}}
    write_records(study.tuning_cells(), lambda cell, _: scores[cell.setting.label][cell.config.optimizer.lr])
    assert tuned_values(study) == {BASE: 1e-3, OURS: 1e-2}
    table = tuning_table(study)
    assert table.rows == [[BASE, "3", "2", "nan"], [OURS, "3", "2.5", "1"]]
    assert table.best == {(0, 2), (1, 3)}
    assert f"may lie outside: {OURS}." in table.note
    assert [cell.config.optimizer.lr for cell in study.cells(tuned_values(study))] == [1e-3, 1e-2]


class Page(HTMLParser):
    """The text of a page, and whatever it would load."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "iframe"), tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything_and_shows_failures(study, write_records, tmp_path):
    cells = study.cells({})
    failed = cells[-1]
    write_records(cells[:-1], known_fid)
    record_failure(failed, "train: error: lr is <0>")
    for cell in cells[:2]:
        for score in cell.scores:
            Image.new("RGB", (40, 4)).save(cell.file(score, ".png"))
    line = write_report(study, tmp_path / "out")
    assert "1 failed" in line
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    # At the last iteration two pictures for each of two T; along training two for each of three iterations.
    assert [load[:15] for load in page.loads] == ["data:,", *["data:image/png;"] * 10]
    assert "url(" not in text
    assert "@import" not in text
    assert "train: error: lr is <0>" in page.text
    for cell in cells:
        assert cell.command in page.text
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert f"- {failed.name}: failed: train: error: lr is <0>" in markdown
    assert all(cell.command in markdown for cell in cells)


def test_scores_csv_has_settings_then_place_then_scores(study, write_records, tmp_path):
    write_records(study.cells({}), known_fid)
    write_report(study, tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    place = ["seed", "iteration", "sampler", "steps"]
    assert list(rows[0]) == ["setting", "diffusion.weighting", *place, "fid", "fid_low", "fid_high"]
    assert len(rows) == len(FID) * len(SEEDS)
    for row in rows:
        key = row["setting"], int(row["iteration"]), int(row["steps"])
        assert float(row["fid"]) == FID[key][int(row["seed"])]
        assert (row["sampler"], row["fid_low"], row["fid_high"]) == ("ddim", "1.0", "99.0")


def test_a_study_that_never_ran_has_no_report(study, tmp_path):
    with pytest.raises(UserError, match="study run"):
        write_report(study, tmp_path / "out")


def test_a_chart_has_every_finite_point():
    svg = line_chart({"a<b": [Point("1", 1.0), Point("2", 100.0, 5.0)], "c": [Point("1", math.nan)]}, "T", "fid")
    assert "a&lt;b" in svg
    # Two points and the legend of the one line that has any.
    assert svg.count('class="mark"') == 3
    assert line_chart({"a": [Point("1", math.nan)]}, "T", "fid") == ""


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1280])
def test_in_a_browser_the_page_opens_alone_and_fits(browser, study, write_records, tmp_path, width):
    write_records(study.cells({}), known_fid)
    write_report(study, tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 800})
    requested, said = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    for folded in page.query_selector_all("summary"):
        folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("svg .line").first.is_visible()
    assert page.get_by_text(study.cells({})[0].command).is_visible()
    assert [url for url in requested if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert said == []
