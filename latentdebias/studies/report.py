"""The report of a study: `report.html`, `report.md` and `scores.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentdebias.errors import UserError, command
from latentdebias.evaluation.protocol.intervals import better_of
from latentdebias.evaluation.protocol.record import ProtocolRecord
from latentdebias.files import check_output_folder, publish
from latentdebias.studies import page
from latentdebias.studies.chart import Point, line_chart
from latentdebias.studies.results import Result, results_of, tuned_values, write_scores
from latentdebias.studies.running import failure_of, is_trained
from latentdebias.studies.study import Cell, Scored, Study
from latentdebias.studies.tables import Place, Scoreboard, published_table, score_tables, tuning_table


def write_report(study: Study, out: Path) -> str:
    """Write the report of all that is scored so far to the folder `out`; returns a line that says how much that is.

    Raises `UserError` where no cell of the study has run yet.
    """
    check_output_folder(out)
    report = Report.of(study)
    if not any(state.cell.run_dir.exists() for state in report.states):
        raise UserError(f"No cell of {study.path} has run yet; run: {command('study')} run {study.path}")
    out.mkdir(parents=True, exist_ok=True)
    write_scores(report.results, study, out / "scores.csv")
    publish(out / "report.md", report.markdown().encode())
    publish(out / "report.html", report.html())
    return report.line


@dataclass(frozen=True)
class State:
    """How far a cell is, in words, and whether it has failed."""

    cell: Cell
    said: str
    failed: bool = False

    @classmethod
    def of(cls, cell: Cell) -> "State":
        """How far `cell` is now."""
        if (failure := failure_of(cell)) is not None:
            return cls(cell, f"failed: {failure}", True)
        scored = sum(cell.file(score, ".json").is_file() for score in cell.scores)
        if scored == len(cell.scores) and is_trained(cell):
            return cls(cell, "done")
        return cls(cell, f"{scored} of {len(cell.scores)} scores" if cell.run_dir.exists() else "not run")


@dataclass(frozen=True)
class Report:
    """What a study has so far: its cells and their results, and the states of these and of the tuning's short runs."""

    study: Study
    cells: Sequence[Cell]
    results: Sequence[Result]
    states: Sequence[State]

    @classmethod
    def of(cls, study: Study) -> "Report":
        """The report of what is on disk now."""
        cells = study.cells(tuned_values(study))
        states = [State.of(cell) for cell in (*cells, *study.tuning_cells())]
        return cls(study, cells, results_of(cells), states)

    @property
    def line(self) -> str:
        """How many cells are done, and how many failed."""
        failed = sum(state.failed for state in self.states)
        done = sum(state.said == "done" for state in self.states)
        return f"{done} of {len(self.states)} runs done, {failed} failed; {len(self.results)} scores"

    @property
    def about(self) -> str:
        """What was compared and how, in a few sentences."""
        options = self.study.options
        at = ", ".join(map(str, options.evaluate.at))
        return (
            f"{len(self.study.settings)} settings x {len(options.seeds)} seeds ({self.line}), under the config "
            f"{options.base} with equal data, order and noise; scored at iterations {at} on {options.evaluate.num} "
            f"images drawn from the same noise for all. The baseline is {self.study.baseline}."
        )

    @property
    def protocol(self) -> str:
        """The protocol of the last score, on one line; empty without a score."""
        if not self.results:
            return ""
        last = self.results[-1]
        return ProtocolRecord.read(last.cell.file(last.score, ".json")).line()

    def boards(self) -> Iterator[Scoreboard]:
        """A scoreboard for the first score of each metric; `scores.csv` has the others, such as each colour's shift."""
        found = {name for result in self.results for name in result.scores}
        for metric in self.study.evaluate.metrics:
            if name := next((name for name in better_of([metric]) if name in found), None):
                yield Scoreboard(self.study, name, self.results)

    def markdown(self) -> str:
        """The tables and the commands as markdown."""
        of_scores = [table for board in self.boards() for table in score_tables(board)]
        others = [table for table in (published_table(self.study), tuning_table(self.study)) if table is not None]
        parts = [
            f"# Study {self.study.path.stem}\n",
            f"{self.about}\n",
            *(table.markdown() for table in (*of_scores, *others)),
            f"Protocol of the last score: {self.protocol}\n" * bool(self.results),
            "### Runs\n",
            *(f"- {state.cell.name}: {state.said}\n\n      {state.cell.command}\n" for state in self.states),
        ]
        return "\n".join(parts)

    def html(self) -> bytes:
        """The page."""
        sections = [page.paragraph(self.about)]
        if failed := [(state.cell.name, state.said, True) for state in self.states if state.failed]:
            sections.append(page.section("Failed", page.definitions(failed)))
        boards = [(board.name, _board(board)) for board in self.boards()]
        sections += [page.section(name, board) for name, board in boards[:1]]
        sections.append(page.section("Pictures from the same noise", *self._pictures()))
        if others := [page.folded(name, board) for name, board in boards[1:]]:
            sections.append(page.section("Other scores", *others))
        if (published := published_table(self.study)) is not None:
            sections.append(page.section("For comparison", page.html_table(published)))
        if (tuning := tuning_table(self.study)) is not None:
            sections.append(page.section("Tuning", page.html_table(tuning)))
        runs = [(each.cell.name, f"{each.said}. `{each.cell.command}`", each.failed) for each in self.states]
        sections.append(page.section("Runs", page.folded("The state and the command of each", page.definitions(runs))))
        if self.results:
            sections.append(page.section("Protocol of the last score", page.paragraph(self.protocol)))
        return page.page(f"Study {self.study.path.stem}", sections)

    def _pictures(self) -> Iterator[str]:
        """The first images of every setting from the first seed: by T at the last iteration, and by iteration."""
        scores = self.study.scores
        last = [score for score in scores if score.iteration == scores[-1].iteration]
        yield page.paragraph(f"Seed {self.cells[0].seed}, after {scores[-1].iteration} iterations:")
        yield self._blocks({f"{each.sampler}, T = {each.draw.steps}": each for each in last})
        if early := [score for score in scores if score.iteration != scores[-1].iteration]:
            shown = early[-1]
            along = [each for each in scores if each.draw == shown.draw]
            yield page.folded(
                f"Along training: {shown.sampler}, T = {shown.draw.steps}",
                self._blocks({f"{each.iteration} iterations": each for each in along}),
            )

    def _blocks(self, blocks: Mapping[str, Scored]) -> str:
        parts = []
        cells = [cell for cell in self.cells if cell.seed == self.cells[0].seed]
        for title, score in blocks.items():
            pictures = {cell.setting.label: cell.file(score, ".png") for cell in cells}
            if found := {label: path for label, path in pictures.items() if path.is_file()}:
                parts.append(page.strips(title, found))
        return f'<div class="pictures">{"".join(parts)}</div>'


def _board(board: Scoreboard) -> str:
    """The charts of a score above its tables."""
    return f'<div class="charts">{"".join(_charts(board))}</div>{"".join(map(page.html_table, score_tables(board)))}'


def _charts(board: Scoreboard) -> Iterator[str]:
    """The score by T at the last iteration, and by iteration for the largest T that is scored along training."""
    for sampler in board.samplers:
        places = board.places(sampler)
        last = [place for place in places if place.iteration == places[-1].iteration]
        yield _chart(board, f"T, {sampler}, {last[0].iteration} iterations", {str(each.steps): each for each in last})
        early = [place.steps for place in places if place.iteration != places[-1].iteration]
        if early:
            along = {str(each.iteration): each for each in places if each.steps == max(early)}
            yield _chart(board, f"iterations, {sampler}, T = {max(early)}", along)


def _chart(board: Scoreboard, x_name: str, places: dict[str, Place]) -> str:
    lines = {
        setting: [
            Point(name, board.mean(setting, place), board.deviation(setting, place)) for name, place in places.items()
        ]
        for setting in board.settings
    }
    return line_chart(lines, x_name, board.name)
