"""Which environments make a process one of several."""

import pytest

from rlhf_jax.sharding import DistributedConfig
from rlhf_jax.sharding.cluster import check_alone, find_cluster, find_membership

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # sbatch without srun
        (SLURM, "SLURM"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://1.2.3.4:5", "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod that is no process of a job
    ],
)
def test_clusters(environment, expected):
    assert find_cluster(environment) == expected


@pytest.mark.parametrize("environment", [SLURM, {"RLHF_JAX_NUM_PROCESSES": "2"}])
def test_what_runs_in_one_process_is_not_run_in_several(environment):
    with pytest.raises(ValueError, match="evaluate runs in one process, and this is one of sev"):
        check_alone("evaluate", environment)
    check_alone("evaluate", environment | {"RLHF_JAX_NUM_PROCESSES": "1"})
    check_alone("evaluate", {})


def test_alone_where_nothing_says_otherwise():
    assert find_membership(DistributedConfig(), {}) is None


def test_one_process_is_alone_whatever_the_cluster_says():
    assert find_membership(DistributedConfig(num_processes=1), SLURM) is None
    assert find_membership(DistributedConfig(), SLURM | {"RLHF_JAX_NUM_PROCESSES": "1"}) is None


def test_the_configuration_comes_before_the_variables():
    config = DistributedConfig(coordinator="a:1", num_processes=4)
    variables = {"RLHF_JAX_COORDINATOR": "b:2", "RLHF_JAX_PROCESS_ID": "3"}
    found = find_membership(config, variables)
    assert (found.coordinator, found.num_processes, found.process_id) == ("a:1", 4, 3)


@pytest.mark.parametrize(
    ("config", "variables", "message"),
    [
        ({"coordinator": "a:1"}, {}, "distributed.num_processes is not given"),
        ({"coordinator": "a:1", "num_processes": 2}, {}, "process_id is not given"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            {},
            "process_id=2 must be below num_processes=2",
        ),
        ({}, {"RLHF_JAX_NUM_PROCESSES": "two"}, "RLHF_JAX_NUM_PROCESSES='two' is no number"),
    ],
)
def test_half_of_it_is_refused(config, variables, message):
    with pytest.raises(ValueError, match=message):
        find_membership(DistributedConfig(**config), variables)


@pytest.mark.parametrize(
    "options",
    [{"coordinator": "host"}, {"num_processes": 0}, {"process_id": -1}, {"exchange_timeout": 0}],
)
def test_values_are_checked(options):
    with pytest.raises(ValueError, match=f"distributed.{next(iter(options))}="):
        DistributedConfig(**options)
