"""Drawing options as a config states them: parts by name, guidance as a number or a mapping."""

from latentdebias.registry import validate
from latentdebias.sampling import DrawOptions


def draw_options(**values):
    return validate(DrawOptions, values, "the test")
