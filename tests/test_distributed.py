import os

import pytest

from latentdebias import distributed
from latentdebias.errors import UserError
from latentdebias.training.engine import start_distributed

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
DEEPSPEED = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": "4(x2)"}
SRUN = {**SBATCH, "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_GTIDS": "4,5,6,7"}
# mpirun starts one process of its own on each node through srun, and the ranks inherit that one's numbers.
SRUN_UNDER_MPIRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_GTIDS": "1"}
PLACE = (5, 8, 1, 4)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No launcher, and what a test sets goes with it."""
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "OMPI_")) or name in {*TORCHRUN, *DEEPSPEED, "MASTER_ADDR", "MASTER_PORT"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return os.environ


def place():
    return (
        distributed.rank(),
        distributed.world_size(),
        distributed.local_rank(),
        distributed.local_world_size(),
    )


def test_without_a_launcher_there_is_one_process():
    assert place() == (0, 1, 0, 1)


@pytest.mark.parametrize(
    "given",
    [
        TORCHRUN,
        DEEPSPEED,
        OPENMPI,
        SRUN,
        SRUN_UNDER_MPIRUN | OPENMPI,
        SRUN_UNDER_MPIRUN | TORCHRUN,
        OPENMPI | DEEPSPEED,
    ],
    ids=["torchrun", "deepspeed", "mpirun", "srun", "mpirun in srun", "torchrun in srun", "deepspeed in mpirun"],
)
def test_the_innermost_launchers_numbers_are_read(environment, given):
    environment.update(given)
    assert place() == PLACE


def test_a_batch_script_is_no_launched_process(environment):
    environment.update(SBATCH)
    assert place() == (0, 1, 0, 1)


@pytest.mark.parametrize("given", [SRUN, OPENMPI], ids=["srun", "mpirun"])
def test_srun_and_mpirun_need_an_address_to_meet_at(environment, given):
    environment.update(given)
    with pytest.raises(KeyError, match="MASTER_ADDR"):
        distributed.export_launcher_variables()
    environment["MASTER_ADDR"] = "host1"
    with pytest.raises(KeyError, match="MASTER_PORT"):
        distributed.export_launcher_variables()
    assert "RANK" not in environment


@pytest.mark.parametrize("given", [SRUN, OPENMPI], ids=["srun", "mpirun"])
def test_srun_and_mpirun_numbers_reach_torch_and_stay_the_same(environment, given):
    environment.update(given, MASTER_ADDR="host1", MASTER_PORT="29500")
    distributed.export_launcher_variables()
    assert {name: environment[name] for name in TORCHRUN} == TORCHRUN
    assert environment["MASTER_ADDR"] == "host1"
    assert place() == PLACE


def test_the_user_is_told_which_address_is_missing(environment):
    environment.update(SRUN, MASTER_PORT="29500")
    with pytest.raises(UserError, match="8 processes were started, and 'MASTER_ADDR' is not set"):
        start_distributed()
