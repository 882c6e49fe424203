"""The tables of a study's report, in the shape of the papers': a column for each setting."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentdebias.evaluation.metrics.metric import loss_of
from latentdebias.registry import in_words
from latentdebias.studies.results import Result, results_of, tuned_values, tuning_score
from latentdebias.studies.significance import compare_paired
from latentdebias.studies.study import Study

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table of text; `best` holds the (row, column) of the cells that are set in bold."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        """The table with its title and its note, as markdown."""
        rows = [
            [f"**{text}**" if (i, j) in self.best else text for j, text in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        lines = [list(self.header), ["---"] * len(self.header), *rows]
        table = "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)
        return f"### {self.title}\n\n{table}\n\n{self.note}\n"


@dataclass(frozen=True)
class Place:
    """Which of a study's scores: the iteration, the sampler and its number of steps."""

    iteration: int
    sampler: str
    steps: int


class Scoreboard:
    """All values of one score, by setting and place, a value for each seed."""

    def __init__(self, study: Study, name: str, results: Sequence[Result]) -> None:
        self.study, self.name, self.better = study, name, study.evaluate.better[name]
        self.settings = [setting.label for setting in study.settings]
        self.results: dict[tuple[str, Place], dict[int, Result]] = {}
        for result in results:
            if name in result.scores:
                score = result.score
                place = Place(score.iteration, score.sampler, score.draw.steps)
                self.results.setdefault((result.setting, place), {})[result.cell.seed] = result

    @property
    def samplers(self) -> list[str]:
        """The samplers of the study, in its order."""
        return list(dict.fromkeys(score.sampler for score in self.study.scores))

    def places(self, sampler: str) -> list[Place]:
        """Where the study scores with `sampler`, in its order."""
        chosen = [each for each in self.study.scores if each.sampler == sampler]
        return [Place(each.iteration, sampler, each.draw.steps) for each in chosen]

    def values(self, setting: str, place: Place) -> dict[int, float]:
        """The values of a setting, by seed."""
        return {seed: result.scores[self.name] for seed, result in self.results.get((setting, place), {}).items()}

    def mean(self, setting: str, place: Place) -> float:
        """The mean over the seeds; nan without a value."""
        values = self.values(setting, place).values()
        return sum(values) / len(values) if values else math.nan

    def deviation(self, setting: str, place: Place) -> float:
        """The standard deviation over the seeds; nan for fewer than two values."""
        values = self.values(setting, place).values()
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def loss(self, setting: str, place: Place) -> float:
        """A number that is lower for a better mean; infinity without a value."""
        return loss_of(self.mean(setting, place), self.better)

    def told(self, setting: str, place: Place) -> str:
        """The mean and standard deviation over the seeds; of a single value its 95% interval; how many lack."""
        results = self.results.get((setting, place), {})
        values = list(self.values(setting, place).values())
        if not values:
            return NONE
        text = number(self.mean(setting, place))
        if len(values) > 1:
            text = f"{text} ± {number(self.deviation(setting, place), 2)}"
        elif interval := next(iter(results.values())).intervals.get(self.name):
            text = f"{text} [{number(interval[0])}, {number(interval[1])}]"
        wanted = len(self.study.options.seeds)
        return text if len(values) == wanted else f"{text} ({len(values)} of {wanted} seeds)"


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, without an exponent up to 10,000,000."""
    return f"{value:.{digits}g}" if not 10**digits <= abs(value) < 1e7 else f"{value:.0f}"


def score_tables(board: Scoreboard) -> Iterator[Table]:
    """The tables of one score: by sampler steps, by iterations, against the baseline, and its significance."""
    for sampler in board.samplers:
        places = board.places(sampler)
        last = [place for place in places if place.iteration == places[-1].iteration]
        title = f"{board.name} by weighting and T, {sampler}, after {last[0].iteration} iterations"
        yield _of_places(board, title, "T", {str(place.steps): place for place in last})
        early = sorted({place.steps for place in places if place.iteration != places[-1].iteration})
        for steps in early:
            along = {str(place.iteration): place for place in places if place.steps == steps}
            yield _of_places(board, f"{board.name} by iteration, {sampler}, T = {steps}", "iteration", along)
        if early:
            yield until_baselines_best(board, sampler, early)
        if len(board.study.options.seeds) > 1 and len(board.settings) > 1:
            yield significance(board, last)


def _of_places(board: Scoreboard, title: str, corner: str, places: Mapping[str, Place]) -> Table:
    rows, best = [], set()
    for index, (name, place) in enumerate(places.items()):
        rows.append([name, *(board.told(setting, place) for setting in board.settings)])
        losses = [board.loss(setting, place) for setting in board.settings]
        best |= {(index, column) for column, loss in enumerate(losses, 1) if loss == min(losses) < math.inf}
    seeds = len(board.study.options.seeds)
    spread = (
        f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, with the samples' 95% interval"
    )
    note = f"{board.name} ({board.better} is better): {spread}; the best mean of a row in bold."
    return Table(title, note, [corner, *board.settings], rows, frozenset(best))


def until_baselines_best(board: Scoreboard, sampler: str, early: Sequence[int]) -> Table:
    """The first scored iteration at which each setting's mean is as good as the best mean of the baseline, by T."""
    baseline, rows, improving = board.study.baseline, [], []
    for steps in early:
        places = [place for place in board.places(sampler) if place.steps == steps]
        goal = min(places, key=lambda place: board.loss(baseline, place))
        if math.isinf(board.loss(baseline, goal)):
            rows.append([str(steps), *(NONE for _ in board.settings)])
            continue
        if goal == places[-1]:
            improving.append(str(steps))
        cells = []
        for setting in board.settings:
            reached = [place for place in places if board.loss(setting, place) <= board.loss(baseline, goal)]
            if not any(board.values(setting, place) for place in places):
                cells.append(NONE)
            elif reached:
                cells.append(f"{reached[0].iteration} ({goal.iteration / reached[0].iteration:.2g}x)")
            else:
                cells.append("not reached")
        rows.append([f"{steps}: {number(board.mean(baseline, goal))}", *cells])
    note = (
        f"The first scored iteration whose mean over the seeds is at least as good as the best that {baseline} has at "
        f"any iteration, and in brackets how many times sooner that is."
    )
    if improving:
        note += f" {baseline} was best at the last iteration for T = {', '.join(improving)}: it may still be improving."
    title = f"Iterations to the best {board.name} of {baseline}, {sampler}"
    return Table(title, note, ["T: goal", *board.settings], rows)


def significance(board: Scoreboard, places: Sequence[Place]) -> Table:
    """Each setting against the baseline at the last iteration, paired over the seeds that both have."""
    baseline, rows = board.study.baseline, []
    for place in places:
        base = board.values(baseline, place)
        for setting in board.settings:
            values = board.values(setting, place)
            seeds = [seed for seed in values if seed in base]
            if setting == baseline or not seeds:
                continue
            compared = compare_paired([values[seed] - base[seed] for seed in seeds])
            losses = [(loss_of(values[seed], board.better), loss_of(base[seed], board.better)) for seed in seeds]
            ahead = f"{sum(mine < theirs for mine, theirs in losses)} of {len(seeds)}"
            p_values = [_p(compared.p_t), _p(compared.p_permutation)]
            told = f"{compared.mean:+.4g} ± {number(compared.spread, 2)}"
            rows.append([str(place.steps), setting, told, ahead, *p_values])
    seeds_count = len(board.study.options.seeds)
    note = (
        f"Difference to {baseline}, paired by seed (both start from the same weights and see the same images in the "
        f"same order): mean ± standard deviation, and in how many seeds the setting is better. Two-sided p by "
        f"Student's paired t-test, which assumes normal differences, and by the exact sign-flip permutation test, "
        f"which assumes nothing and cannot go below {2 / 2**seeds_count:.2g} with {seeds_count} seeds. The p-values "
        f"are not corrected for the {len(rows)} comparisons."
    )
    title = f"{board.name} against {baseline}, {places[0].sampler}, after {places[0].iteration} iterations"
    return Table(title, note, ["T", "setting", "difference", "better in", "p (t-test)", "p (exact)"], rows)


def published_table(study: Study) -> Table | None:
    """What the study file quotes as published, by setting; None where it quotes nothing."""
    rows = [[label, text] for label, text in study.options.published.items()]
    return Table("Published", "From the papers; not measured here.", ["setting", "published"], rows) if rows else None


def tuning_table(study: Study) -> Table | None:
    """The score of every setting with every value of the tuned option; None where nothing is tuned."""
    tune = study.options.tune
    if tune is None:
        return None
    name, chosen = tuning_score(study), tuned_values(study)
    found = {
        (result.setting, in_words(result.cell.changes[tune.key])): result for result in results_of(study.tuning_cells())
    }
    rows, best, edges = [], set(), []
    words = [in_words(value) for value in tune.values]
    for index, setting in enumerate(study.settings):
        row = [setting.label]
        for column, value in enumerate(words, 1):
            result = found.get((setting.label, value))
            row.append(number(result.scores[name]) if result and name in result.scores else NONE)
            if setting.label in chosen and in_words(chosen[setting.label]) == value:
                best.add((index, column))
                edges += [setting.label] if column in (1, len(words)) else []
        rows.append(row)
    note = (
        f"{name} after {tune.iterations} iterations from seed {tune.seed}; the study's own runs take the value in bold."
    )
    if edges:
        note += f" Best at an end of the grid, so a better value may lie outside: {', '.join(edges)}."
    return Table(f"{tune.key}, tuned alike for every setting", note, ["setting", *words], rows, frozenset(best))


def _p(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:.2g}"
