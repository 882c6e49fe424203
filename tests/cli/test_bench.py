import re

SMALL = ["--backbone", "dit_s_patch8", "--vae", "digits", "--latent-size", 8, "--num", 3, "--batch-size", 2]


def test_sample_prints_a_ratio_to_the_plain_loop(tool):
    result = tool("bench", "sample", *SMALL, "--steps", 2, "--rounds", 1)
    assert result.code == 0, result.err
    lines = [re.split(" {2,}", line.strip()) for line in result.out.splitlines()]
    rows = {name: cells for name, *cells in lines}
    assert rows["plain loop"][-1] == "1.00"
    ours, plain = float(rows["latentdebias"][0]), float(rows["plain loop"][0])
    assert re.fullmatch(r"\d+\.\d\d", rows["latentdebias"][-1])
    assert abs(float(rows["latentdebias"][-1]) - ours / plain) < 0.01 + 0.01 * ours / plain


def test_sample_refuses_no_steps(tool):
    result = tool("bench", "sample", *SMALL, "--steps", 0)
    assert result.code == 2
    assert "--steps" in result.err
