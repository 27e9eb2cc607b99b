"""The manifests of launch/gke.sh: of the fields that JobSet and Kubernetes know, and understood by the program."""

import os
import pathlib
import subprocess

import pytest
import yaml

from his4mae_jax.training.devices.distributed import detect

ROOT = pathlib.Path(__file__).parents[2]
COMMON = ("--nodes=4", "--chips=8", "--image=gcr.io/lab/his4mae:1", "--claim=data", "--name=cells")
KINDS = {
    "gpu": ("--accelerator=gpu", "--type=nvidia-h100-80gb"),
    "tpu": ("--accelerator=tpu", "--type=tpu-v5-lite-podslice", "--topology=4x8"),
}
# Fields of jobset.x-k8s.io/v1alpha2, batch/v1 and v1 that are used, and their types; "?": may be absent.
TEXTS = {"*": str}
CONTAINER = {
    "name": str, "image": str, "command": [str], "args": [str], "ports?": [{"containerPort": int}],
    "env?": [{"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}],
    "resources?": {"limits": {"*": int}}, "volumeMounts": [{"name": str, "mountPath": str}],
}  # fmt: skip
POD = {
    "restartPolicy": str, "terminationGracePeriodSeconds": int, "nodeSelector?": TEXTS, "containers": [CONTAINER],
    "tolerations?": [{"key": str, "operator": str, "effect": str}],
    "volumes": [{"name": str, "persistentVolumeClaim?": {"claimName": str}, "emptyDir?": {"medium": str}}],
}  # fmt: skip
JOB = {
    "parallelism": int, "completions": int, "completionMode": str, "backoffLimit": int, "template": {"spec": POD},
    "podFailurePolicy?": {
        "rules": [{"action": str, "onExitCodes": {"containerName": str, "operator": str, "values": [int]}}]
    },
}  # fmt: skip
JOBSET = {
    "apiVersion": str, "kind": str, "metadata": {"name": str, "annotations?": TEXTS},
    "spec": {
        "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool},
        "successPolicy?": {"operator": str, "targetReplicatedJobs": [str]},
        "failurePolicy": {"maxRestarts": int, "rules": [{"action": str, "onJobFailureReasons": [str]}]},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}  # fmt: skip


def conforms(value, schema, where="manifest"):
    """Every field known, every needed one there, every value of its type."""
    if isinstance(schema, type):
        assert type(value) is schema, f"{where} is {value!r}"
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, f"{where} is {value!r}"
        for i, item in enumerate(value):
            conforms(item, schema[0], f"{where}[{i}]")
    else:
        assert isinstance(value, dict) and value, f"{where} is {value!r}"
        known = {k.removesuffix("?"): v for k, v in schema.items()}
        missing = [k for k in schema if not k.endswith("?") and k != "*" and k not in value]
        assert not missing, f"{where} lacks {missing}"
        for key, item in value.items():
            assert key in known or "*" in known, f"{where}.{key} is no such field"
            conforms(item, known.get(key, known.get("*")), f"{where}.{key}")


def manifest(kind, *flags, workdir="/shared/runs/x", common=COMMON):
    options = ("--dry-run", *KINDS[kind], *common)
    command = ["bash", ROOT / "launch" / "gke.sh", *options, "configs/demo.py", workdir, *flags]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = [line for line in done.stdout.split("apiVersion")[1].splitlines() if "${" in line and "args:" not in line]
    assert left == []  # every place is filled in
    return yaml.safe_load(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_has_the_fields_that_kubernetes_knows(kind):
    found = manifest(kind)
    conforms(found, JOBSET)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"] == 4
    # A podFailurePolicy is for pods that are not restarted in place, and names a container that there is.
    assert pod["restartPolicy"] == "Never"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert {m["name"] for m in pod["containers"][0]["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert list(pod["containers"][0]["resources"]["limits"].values()) == [8]


@pytest.mark.parametrize("kind, flags", [("gpu", ()), ("tpu", ()), ("gpu", ("--mode=segment",))])
def test_a_workdir_in_a_bucket_needs_no_claim(kind, flags):
    common = tuple(option for option in COMMON if not option.startswith("--claim"))
    found = manifest(kind, *flags, workdir="gs://lab/runs/x", common=common)
    conforms(found, JOBSET)
    for job in found["spec"]["replicatedJobs"]:
        volumes = job["template"]["spec"]["template"]["spec"]["volumes"]
        assert {"name": "shared", "emptyDir": {"medium": ""}} in volumes
    with pytest.raises(AssertionError, match="claim"):
        manifest(kind, common=common)


def test_a_field_that_kubernetes_does_not_know_is_found():
    found = manifest("gpu")
    found["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(AssertionError, match=r"failurePolicy.maxRestart is no such field"):
        conforms(found, JOBSET)


def test_gpu_pods_find_each_other_by_the_environment():
    """As Kubernetes fills it in: pods of a JobSet are known as <jobset>-<job>-<number>-<pod>.<jobset>."""
    found = manifest("gpu")
    job = found["spec"]["replicatedJobs"][0]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    for index in range(4):
        environ = {e["name"]: e.get("value", str(index)) for e in container["env"]}
        how, arguments = detect({**environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, has_tpu=False)
        host, port = arguments["coordinator_address"].split(":")
        assert host == f"cells-{job['name']}-0-0.cells" and {"containerPort": int(port)} in container["ports"]
        assert (arguments["num_processes"], arguments["process_id"]) == (4, index)


@pytest.mark.parametrize("kind", KINDS)
def test_flags_arrive_as_they_were_given(kind):
    flags = ["--config.data.train=('a \"b\".tif', 'c\\d', '$(HOME) & ${X}')", "--mode=train"]
    job = manifest(kind, *flags)["spec"]["replicatedJobs"][0]["template"]["spec"]
    args = job["template"]["spec"]["containers"][0]["args"]
    args = [a.replace("$$", "$") for a in args]  # as Kubernetes does
    assert args[:2] == ["--config=configs/demo.py", "--workdir=/shared/runs/x"]
    assert args[2:] == ["--config.train.require_accelerator=True", *flags]


def test_a_segmentation_has_a_pod_for_the_command_and_one_for_each_gpu():
    flags = ["--config.data.test=a $(HOME)", "--mode=segment"]
    found = manifest("gpu", *flags)
    conforms(found, JOBSET)
    jobs = {job["name"]: job["template"]["spec"] for job in found["spec"]["replicatedJobs"]}
    assert found["spec"]["successPolicy"]["targetReplicatedJobs"] == ["command"]
    assert (jobs["command"]["parallelism"], jobs["workers"]["parallelism"]) == (1, 4 * 8)
    command, worker = (jobs[name]["template"]["spec"]["containers"][0] for name in ("command", "workers"))
    assert command["args"] == ["configs/demo.py", "/shared/runs/x", "--config.data.test=a $$(HOME)", "--mode=segment"]
    (port,) = (port["containerPort"] for port in command["ports"])
    assert worker["args"] == [f"tcp://cells-command-0-0.cells:{port}"]
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": 1} and "resources" not in command
    for container in (command, worker):
        assert container["command"][0] == "bash" and (ROOT / container["command"][1]).exists()
    assert f" {port} " in (ROOT / command["command"][1]).read_text()
    # A pod of TPUs works as one, and so does whoever says so.
    assert len(manifest("tpu", *flags)["spec"]["replicatedJobs"]) == 1
    assert len(manifest("gpu", *flags, "--config.segment.engine=local")["spec"]["replicatedJobs"]) == 1
