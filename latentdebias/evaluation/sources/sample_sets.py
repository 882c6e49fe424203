"""Sample sets that the command `sample` wrote: where the images are, and how they were drawn."""

import dataclasses
from pathlib import Path

from latentdebias.drawing.sample_formats import SAMPLE_FORMATS
from latentdebias.drawing.sample_record import options_of, read_record
from latentdebias.drawing.sample_set import RECORD
from latentdebias.errors import UserError, command
from latentdebias.evaluation.protocol.sampling_protocol import ModelIdentity, SamplingProtocol

DAMAGED = "Move it away to score the images without it."


def images_of(samples: Path) -> Path:
    """The path of the images in the folder of a sample set; any other path is returned unchanged.

    Raises `UserError` where the set is not finished.
    """
    if not (samples / RECORD).is_file():
        return samples
    outputs = [samples / SAMPLE_FORMATS.build(name).output for name in SAMPLE_FORMATS.names()]
    for output in outputs:
        if output.exists():
            return output
    raise UserError(
        f"{samples} holds a set that is not finished; run the {command('sample')} command that draws it again."
    )


def protocol_of(samples: Path) -> SamplingProtocol | None:
    """How the sample set in a folder was drawn; None where it is not a sample set, `UserError` for a damaged record."""
    path = samples / RECORD
    if not path.is_file():
        return None
    record = read_record(path, DAMAGED)
    try:
        model = {each.name: record[each.name] for each in dataclasses.fields(ModelIdentity)}
        return SamplingProtocol.of(ModelIdentity(**model), options_of(record, str(path)), record["labels"])
    except KeyError as error:
        raise UserError(f"{path} is no record of a sample set: it lacks {error}. {DAMAGED}") from None
