import pytest

from latentdebias import distributed

NAMES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"]
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [*NAMES, *SLURM, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_launcher_there_is_one_process(environment):
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)


def test_torchruns_and_deepspeeds_variables_are_read(environment):
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}.items():
        environment.setenv(name, value)
    assert (distributed.rank(), distributed.world_size()) == (5, 8)
    assert (distributed.local_rank(), distributed.local_world_size()) == (1, 4)


def test_sruns_variables_count_only_inside_a_step(environment):
    for name, value in SLURM.items():
        environment.setenv(name, value)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (3, 4, 1)


def test_srun_needs_an_address_to_meet_at(environment):
    for name, value in {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}.items():
        environment.setenv(name, value)
    with pytest.raises(KeyError, match="MASTER_ADDR"):
        distributed.export_launcher_variables()
