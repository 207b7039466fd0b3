"""What starts runs on several hosts can be read by whoever reads it."""

import pathlib
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "configs" / "launch"


@pytest.mark.parametrize("name", ["slurm.sbatch", "tpu_vm.sh"])
def test_scripts_are_shell(name):
    assert subprocess.run(["bash", "-n", str(LAUNCH / name)]).returncode == 0


def test_the_jobset_starts_a_pod_for_every_host():
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert spec["completionMode"] == "Indexed"
    # One pod that fails ends all, and all are made anew.
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert manifest["spec"]["failurePolicy"]["restartStrategy"] == "Recreate"
    assert container["command"] == ["rlhf-jax", "train"]
    assert (LAUNCH.parents[1] / container["args"][0]).is_file()


def test_the_readme_names_every_file():
    text = (LAUNCH / "README.md").read_text()
    assert all(path.name in text for path in LAUNCH.iterdir() if path.name != "README.md")
