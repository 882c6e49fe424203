"""A run that scores itself at its last step, and the same scores by `latentdebias evaluate`."""

import json

from latentdebias.cli import evaluate

METRICS = ("fid", "class_accuracy")


def scoring(digit_shards):
    """Overrides of a run that draws, scores and exports at its last step, in batches that two ranks share unevenly."""
    return [
        "training.steps=2",
        "training.batch_size=4",
        "training.sample_every=2",
        "sampling.per_class=1",
        "sampling.steps=2",
        "sampling.batch_size=4",
        "evaluation.every=2",
        "evaluation.num=20",
        "evaluation.steps=2",
        "evaluation.batch_size=4",
        "evaluation.extractor=digits",
        f"evaluation.metrics=[{','.join(METRICS)}]",
        f"evaluation.reference={digit_shards}",
    ]


def while_training(run_dir):
    """The record that the run wrote."""
    return json.loads((run_dir / "evaluation" / "step-00000002.json").read_text())


def afterwards(run_dir, digit_shards):
    """The record of `latentdebias evaluate` on the exported model."""
    out = run_dir / "evaluate.json"
    drawing = ["--num", "20", "--steps", "2", "--batch-size", "4", "--guidance", "1"]
    metrics = ["--extractor", "digits", "--metrics", ",".join(METRICS), "--reference", str(digit_shards)]
    evaluate.main(["--model", str(run_dir / "model"), *drawing, *metrics, "--out", str(out)])
    return json.loads(out.read_text())
