import sys

import numpy as np
import pytest
from forking import Fork
from PIL import Image

from latentdebias.cli import start as latentdebias
from latentdebias.shards.reader import LatentShards


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".tmp"}


@pytest.fixture
def main(monkeypatch):
    """Run the tool in this process, which saves the seconds that imports take."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["latentdebias", "encode", *map(str, arguments)])
        latentdebias()

    return run_here


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_vae_dir):
    """A folder with 60 images in two classes, `encode.yaml`, and `whole`, the set encoded by one process."""
    folder = tmp_path_factory.mktemp("encode")
    rng = np.random.default_rng(0)
    for name in ["cat", "dog"]:
        (folder / "images" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number:02d}.png")
    (folder / "encode.yaml").write_text(
        f"images: {folder / 'images'}\nvae: {tiny_vae_dir}\nresolution: 32\nsamples-per-shard: 2\n"
        f"batch_size: 64\nworkers: 0\nflip: true\ndevice: cpu\n"
    )
    encode = Fork("encode", "--config", folder / "encode.yaml", "--out", folder / "whole", "--batch-size", "2")
    assert encode.end() == 0, encode.err
    assert "60 images in 30 shards, 0 rejected" in encode.out
    assert "latent mean [" in encode.out.splitlines()[-1]
    assert "img/s" in encode.err
    return folder


def test_the_set_reads_back_and_verifies(workplace, main, capsys):
    shards = LatentShards(workplace / "whole")
    moments, labels = shards.read(np.arange(60), np.ones(60, bool))
    assert np.isfinite(moments).all()
    assert labels.tolist() == [0] * 30 + [1] * 30
    main("verify", workplace / "whole")
    assert capsys.readouterr().out.startswith("verified: 60 images in 30 shards")


def test_kill_9_then_rerun_gives_the_bytes_of_an_unbroken_run(workplace):
    out = workplace / "killed"
    arguments = ("--config", workplace / "encode.yaml", "--out", out, "--batch-size", "2")
    killed = Fork("encode", *arguments)
    killed.wait_until((out / "shard-000002.json").exists)
    killed.kill()
    assert not (out / "manifest.json").exists()
    again = Fork("encode", *arguments)
    assert again.end() == 0, again.err
    assert contents(out) == contents(workplace / "whole")


def test_two_ranks_give_the_bytes_of_one(workplace):
    arguments = ("--config", workplace / "encode.yaml", "--out", workplace / "ranks", "--batch-size", "2")
    torchrun = Fork("encode", *arguments, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}
    srun = Fork("encode", *arguments, "--local_rank=1", **slurm)
    for rank in (torchrun, srun):
        assert rank.end() == 0, rank.err
    assert contents(workplace / "ranks") == contents(workplace / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resolution", "32", "--out", "OUT"], "Missing key 'images'"),
        (["--images", "pipe:cat x.tar", "--resolution", "32", "--out", "OUT"], "'pipe:cat x.tar' is refused"),
        (["--images", "IMAGES", "--resolution", "big", "--out", "OUT"], "Bad value 'big' for 'resolution'"),
        (["--images", "IMAGES", "--out", "OUT", "--resolution", "32", "--vae", "./none"], "Autoencoder './none'"),
        (["--config", "TYPO", "--out", "OUT"], "Did you mean 'batch_size'"),
        (["--config", "nowhere.yaml", "--out", "OUT"], "'nowhere.yaml' cannot be read"),
        (["--images", "IMAGES", "--out", "OUT", "--resolution", "32", "--device", "foo"], "--device 'foo' cannot be"),
        (["--images", "IMAGES", "--out", "OUT", "--resolution", "32", "--device", "meta"], "Legal here: cpu"),
        (["--config", "BINARY", "--out", "OUT"], "cannot be read as YAML"),
        (["--config", "LIST", "--out", "OUT"], "cannot be read as YAML"),
        (["verify", "IMAGES"], "no set of latent shards"),
    ],
    ids=[
        "no images",
        "pipe",
        "no number",
        "no autoencoder",
        "typo",
        "no config",
        "device",
        "no real device",
        "binary",
        "list",
        "verify",
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(workplace, tmp_path, main, capsys, arguments, message):
    (tmp_path / "typo.yaml").write_text(f"images: {workplace / 'images'}\nresolution: 32\nbatch-sise: 4\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    places = {"OUT": tmp_path / "out", "IMAGES": workplace / "images", "TYPO": tmp_path / "typo.yaml"}
    places |= {"BINARY": tmp_path / "binary.yaml", "LIST": tmp_path / "list.yaml"}
    with pytest.raises(SystemExit) as caught:
        main(*(places.get(word, word) for word in arguments))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
